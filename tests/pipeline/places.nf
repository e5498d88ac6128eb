// Writes what placeErrors finds wrong with each case in cases.json, [parameters, profile, work folder, the pipeline's]; run
// from a pipeline's folder. Parameters are over the defaults of the pipeline. What tasks ask for, in bytes and hours, for files
// that together have 3 GB, is in asked.json.

include { folderErrors ; fullFolders ; placeErrors } from './functions/places'
include { memoryFor ; memoryOf ; timeFor } from './functions/resources'

workflow {
    def cases = new groovy.json.JsonSlurper().parseText(file('cases.json').text)
    def found = cases.collectEntries { name, one -> [name, placeErrors(params + one[0], one[1], one[2], one[3] ?: '/unbatch')] }
    file('found.json').text = groovy.json.JsonOutput.toJson(found)
    // nothing is free in /proc, and a bucket is not looked at
    file('full.json').text = groovy.json.JsonOutput.toJson([fullFolders('/proc', 's3://lab/work'), fullFolders('s3://lab/out', '.')])
    // a bucket that no plugin knows
    file('folders.json').text = groovy.json.JsonOutput.toJson(folderErrors('nowhere://lab/out', '.'))
    def large = file('large.bin')
    def files = [large, [file('small.bin'), null]]
    def slurm = [executor: 'slurm', attempt: 1]
    def asked = [
        'memory, largest': memoryFor('score', '4 GB', files, [], slurm).toBytes(),
        'memory, together': memoryFor('score', '4 GB', [], files, slurm).toBytes(),
        'memory, again': memoryFor('score', '4 GB', files, [], slurm + [attempt: 2]).toBytes(),
        'memory, here': memoryFor('score', '4 TB', files, [], [:]).toBytes(),
        'memory, array': memoryFor('score', '4 GB', null, null, slurm).toBytes(),
        'memory, card': memoryOf('4 GB', 90, files, [], slurm).toBytes(),
        'machine': nextflow.util.SysHelper.getAvailMemory().toBytes(),
        'time': timeFor('fit', '1 h', 1, files, slurm).toMillis() / 3600000,
        'time, twice': timeFor('fit', '1 h', 2, files, slurm).toMillis() / 3600000,
        'time, again': timeFor('fit', '1 h', 1, files, slurm + [attempt: 3]).toMillis() / 3600000,
        'time, array': timeFor('fit', '1 h', 1, null, slurm).toMillis() / 3600000,
    ]
    file('asked.json').text = groovy.json.JsonOutput.toJson(asked)
}

// Writes what placeErrors finds wrong with each case in cases.json, [parameters, profile, work folder]; run from a
// pipeline's folder. Parameters are over the defaults of the pipeline.

include { placeErrors } from './functions/places'

workflow {
    def cases = new groovy.json.JsonSlurper().parseText(file('cases.json').text)
    def found = cases.collectEntries { name, one -> [name, placeErrors(params + one[0], one[1], one[2])] }
    file('found.json').text = groovy.json.JsonOutput.toJson(found)
}

// Writes what isSheet and sheetLines make of every file of the folder `sheets`; run from a pipeline's folder.

include { isSheet ; sheetLines } from './functions/run'

workflow {
    def found = files('sheets/*').collectEntries { source ->
        [source.name, [sheet: isSheet(source), lines: source.name.startsWith('large') ? null : sheetLines(source)]]
    }
    file('found.json').text = groovy.json.JsonOutput.toJson(found)
}

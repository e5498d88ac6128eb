// Writes what typedParameters makes of the parameters of each case in cases.json, and what is wrong with them; run
// from a pipeline's folder. A case is name -> parameter -> value, over the defaults of the pipeline.

include { sweepErrors } from './functions/grid'
include { absentColumns ; fitNotes } from './functions/notes'
include { parameterErrors ; readSchema ; typedParameters } from './functions/parameters'
include { nullPlan } from './functions/run'

workflow {
    def schema = readSchema()
    def cases = new groovy.json.JsonSlurper().parseText(file('cases.json').text)
    def found = cases.collectEntries { name, values ->
        def given = typedParameters(params + values, schema)
        def types = given.collectEntries { parameter, value -> [parameter, value == null ? null : value.getClass().simpleName] }
        [name, [values: given, types: types, errors: parameterErrors(given, schema) + sweepErrors(given, schema)]]
    }
    def notes = files('notes/*.json')
    found['notes'] = [absent: absentColumns(notes, [colour_by: 'batch, dpeth', targets: null]), fits: fitNotes(notes)]
    def job = [params: [latent: 5, groups: 'donor'], params_id: 'p', method: 'scmedal', model: true]
    def jobs = [job + [seed: 0], job + [seed: 1], [params: [:], params_id: 'default', method: 'combat', seed: 0]]
    found['nulls'] = [on: nullPlan(jobs, true), off: nullPlan(jobs, false)]
    file('found.json').text = groovy.json.JsonOutput.toJson(found)
}

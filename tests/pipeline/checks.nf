// Writes, for each of the cases in a file, what typedParameters makes of the parameters and what is wrong with them; run
// from a pipeline's folder. A case is name -> parameter -> value, over the defaults of the pipeline.

include { sweepErrors } from './functions/grid'
include { parameterErrors ; readSchema ; typedParameters } from './functions/parameters'

workflow {
    def schema = readSchema()
    def defaults = params.findAll { name, _value -> name != 'cases' }
    def cases = new groovy.json.JsonSlurper().parse(new File(params.cases.toString()))
    def found = cases.collectEntries { name, values ->
        def given = typedParameters(defaults + values, schema)
        def types = given.collectEntries { parameter, value -> [parameter, value == null ? null : value.getClass().simpleName] }
        [name, [values: given, types: types, errors: parameterErrors(given, schema) + sweepErrors(given, schema)]]
    }
    file('found.json').text = groovy.json.JsonOutput.toJson(found)
}

// Writes what typedParameters makes of the parameters, and what parameterErrors says of that; run from a pipeline's folder

include { parameterErrors ; readSchema ; typedParameters } from './functions/parameters'

workflow {
    def schema = readSchema()
    def given = typedParameters(params, schema)
    def types = given.collectEntries { name, value -> [name, value == null ? null : value.getClass().simpleName] }
    def found = [values: given, types: types, errors: parameterErrors(given, schema)]
    file('typed.json').text = groovy.json.JsonOutput.toJson(found)
}

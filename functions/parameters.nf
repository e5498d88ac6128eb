// Checks of the parameters against nextflow_schema.json, the help text, and what they stand for.
// Own code, as the plugin for it has to be downloaded.

def readSchema() {
    new groovy.json.JsonSlurper().parseText(file("${projectDir}/nextflow_schema.json").text)
}

def readCards() {
    new org.yaml.snakeyaml.Yaml().load(file("${projectDir}/assets/methods.yml").text)
}

// What a fit of a method may take, at its first try
def resourcesOf(method) {
    [cpus: 1, memory: '4 GB', memory_per_gb: 22, time: '8 h'] + (readCards()[method] ?: [:]).subMap(['cpus', 'memory', 'memory_per_gb', 'time'])
}

// What methods declare (bin/unbatch/methods), as `make docs` writes it: method -> needs, model, gpu, parameters
def readDeclared() {
    new groovy.json.JsonSlurper().parseText(file("${projectDir}/assets/parameters.json").text)
}

// What gives a container the GPUs of its machine
def gpuOptions(engine) {
    def known = [docker: '--gpus all', podman: '--device nvidia.com/gpu=all', apptainer: '--nv', singularity: '--nv']
    known.containsKey(engine) ? known[engine] : ''
}

// All parameters by name, in the order of the schema
def describedParameters(schema) {
    schema['$defs'].values().collectEntries { section -> section.properties }
}

def helpText(schema) {
    def width = describedParameters(schema).keySet().collect { name -> name.length() }.max() + 4
    def sections = schema['$defs'].values().collect { section ->
        def lines = section.properties.collect { name, rule ->
            def hints = [rule['enum'] ? rule['enum'].join('|') : rule.type]
            if (rule['default'] != null && rule.type != 'boolean') {
                hints << "default ${rule['default']}".toString()
            }
            "  ${('--' + name).padRight(width)}${rule.description} [${hints.join(', ')}]"
        }
        "${section.title}\n${lines.join('\n')}"
    }
    """
unbatch ${workflow.manifest.version}: ${workflow.manifest.description}

  nextflow run . --input sheet.csv --label_key cell_type --outdir results
  nextflow run . --simulate
  nextflow run . --sweep thesis

${sections.join('\n\n')}

Methods: ${readCards().keySet().join(', ')}
"""
}

// The parameters with values of the schema's types. Nextflow 26.04's command line hands over text, and older ones make a
// number or a flag of a text that looks like one. What is not of its type stays as it is, for parameterErrors
def typedParameters(given, schema) {
    def known = describedParameters(schema)
    given.collectEntries { name, value -> [name, value != null && known.containsKey(name) ? typedValue(known[name].type, value) : value] }
}

def typedValue(type, value) {
    def text = value.toString()
    if (type == 'string') {
        // a list or a map of a parameter file is no text
        return (value instanceof Collection || value instanceof Map) ? value : text
    }
    if (type == 'boolean') {
        return text.toLowerCase() in ['true', 'false'] ? text.toBoolean() : value
    }
    if (text ==~ /[+-]?\d+/) {
        return text.isInteger() ? text.toInteger() : text.isLong() ? text.toLong() : value
    }
    def number = type == 'number' && text ==~ /[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?/ ? text.toDouble() : null
    number != null && Double.isFinite(number) ? number : value
}

// What is wrong with a parameter of a method, by what the method declares; null when nothing is, and of a method that was
// added without `make docs`, whose program says it
def methodError(where, method, name, value) {
    def known = readDeclared()[method]?.parameters
    if (known == null) {
        return null
    }
    if (!known.containsKey(name)) {
        return "${where}: no such parameter${suggestion(name.toString(), known.keySet(), '')}; there are ${known.keySet().join(', ') ?: 'none'}"
    }
    ruleError(where, known[name], value)
}

// What is wrong with a value by its rule (unbatch.contract.rules); null when nothing is
def ruleError(where, rule, value) {
    if (value == null) {
        return rule.nullable ? null : "${where}: found nothing, expected ${kindOf(rule)}"
    }
    if (rule['enum'] && !rule['enum'].contains(value)) {
        return "${where}: found '${value}', expected one of ${rule['enum'].join(', ')}${suggestion(value.toString(), rule['enum'], '')}"
    }
    def fits = [
        string: value instanceof CharSequence,
        integer: value instanceof Integer || value instanceof Long,
        number: value instanceof Number && Double.isFinite(value.doubleValue()),
        boolean: value instanceof Boolean,
        array: value instanceof List,
        object: value instanceof Map,
    ]
    if (!fits[rule.type]) {
        return "${where}: found '${value}', expected ${kindOf(rule)}"
    }
    if (rule.items) {
        def inner = (value instanceof Map) ? value : value.withIndex().collectEntries { one, place -> ["${place + 1}".toString(), one] }
        return inner.findResult { name, one -> ruleError("${where}.${name}", rule.items, one) }
    }
    def outside = (rule.minimum != null && value < rule.minimum) || (rule.exclusiveMinimum != null && value <= rule.exclusiveMinimum) ||
        (rule.maximum != null && value > rule.maximum) || (rule.exclusiveMaximum != null && value >= rule.exclusiveMaximum)
    outside ? "${where}: found '${value}', expected ${kindOf(rule)}" : null
}

// Which values a rule allows, in words
def kindOf(rule) {
    def kinds = [string: 'a text', integer: 'a whole number', number: 'a number', boolean: 'true or false', array: 'a list', object: 'values by name']
    def limits = [minimum: 'or more', maximum: 'or less'].collect { key, words -> rule[key] == null ? null : "${rule[key]} ${words}" } +
        [exclusiveMinimum: 'above', exclusiveMaximum: 'below'].collect { key, words -> rule[key] == null ? null : "${words} ${rule[key]}" }
    ([kinds[rule.type]] + limits.findAll { limit -> limit != null }).join(', ')
}

// What is wrong with the parameters, one sentence each; an empty list when nothing is
def parameterErrors(given, schema) {
    def known = describedParameters(schema)
    // Nextflow hands --batch-key over as 'batch-key' and as 'batchKey': one of the two is enough to complain about
    def dashed = given.keySet().findAll { name -> name.contains('-') }
    def doubles = dashed.collect { name -> camelCase(name) }
    // profiles of institutions say who they are, and name genomes
    def foreign = given.keySet().findAll { name -> given.custom_config_base && name ==~ /(config_profile|igenomes)_.*/ }
    def unknown = given.keySet().findAll { name -> !known.containsKey(name) && !doubles.contains(name) && !foreign.contains(name) }
    def typos = unknown.collect { name -> "--${name}: no such parameter${suggestion(name.replace('-', '_'), known.keySet(), '--')}" }
    def wrong = known
        .collect { name, rule -> [name, rule, given[name]] }
        .findAll { _name, _rule, value -> value != null }
        .collect { name, rule, value -> valueError("--${name}", rule, value) }
        .findAll { message -> message != null }
    (typos + wrong + combinationErrors(given)).collect { message -> message.toString() }
}

// What is wrong with a value that is given at a place such as --seeds; null when nothing is
def valueError(where, rule, value) {
    def type = [
        string: value instanceof CharSequence || value instanceof Number,
        integer: value instanceof Integer || value instanceof Long,
        number: value instanceof Number && Double.isFinite(value.doubleValue()),
        boolean: value instanceof Boolean,
    ]
    if (!type[rule.type]) {
        def article = rule.type == 'integer' ? 'a whole number' : rule.type == 'boolean' ? 'true or false' : "a ${rule.type == 'string' ? 'text' : 'number'}"
        // an option without a value
        def found = value.toString() == 'true' ? 'nothing' : "'${value}'"
        return "${where}: found ${found}, ${article} was expected (${rule.description})"
    }
    if (rule['enum'] && !rule['enum'].contains(value.toString())) {
        return "${where}: found '${value}', expected one of ${rule['enum'].join(', ')}${suggestion(value.toString(), rule['enum'], '')}"
    }
    if (rule.minimum != null && value < rule.minimum) {
        return "${where}: found ${value}, expected ${rule.minimum} or more"
    }
    if (rule.maximum != null && value > rule.maximum) {
        return "${where}: found ${value}, expected ${rule.maximum} or less"
    }
    if (rule.pattern && !(value.toString() ==~ rule.pattern)) {
        return "${where}: found '${value}', expected ${rule.description} (${rule.pattern})"
    }
    if (rule.exists && !file(value.toString(), glob: false).exists()) {
        return "${where}: ${value}: no such file"
    }
    null
}

def combinationErrors(given) {
    def errors = []
    if (given.simulate && given.input) {
        errors << '--simulate and --input: give one of the two, they name different data'
    }
    if (given.sweep && given.input) {
        errors << '--sweep and --input: give one of the two, a sweep simulates its data'
    }
    if (given.targets && (given.sweep || !given.evidence)) {
        errors << "--targets: nothing is predicted ${given.sweep ? 'in a sweep' : 'with --evidence false'}, leave one of the two out"
    }
    if (given.colour_by && given.sweep) {
        errors << '--colour_by: the report on a sweep draws no cells, leave one of the two out'
    }
    if (given.calibrate && given.sweep) {
        errors << '--calibrate: a sweep has no null calibration, leave one of the two out; with a batch effect of 0, it is one itself'
    }
    if (given.calibrate_batch && !given.calibrate) {
        errors << '--calibrate_batch: no batch is split without --calibrate, give both or none'
    }
    if (given.gpu && given.device == 'cpu') {
        errors << '--gpu and --device cpu: give one of the two, one asks for a GPU and the other for none'
    }
    errors += integratedErrors(given)
    if (!simulates(given) && !given.input) {
        errors << '--input: missing; name a samplesheet or an h5ad file, or use --simulate'
    }
    def cards = readCards()
    def wanted = methodNames(given.methods)
    if (wanted.isEmpty()) {
        errors << "--methods: names no method, expected some of ${cards.keySet().join(', ')}"
    }
    errors + wanted
        .findAll { method -> !cards.containsKey(method) }
        .collect { method -> "--methods: no method '${method}'${suggestion(method, cards.keySet(), '')}; there are ${cards.keySet().join(', ')}" }
}

// What is wrong with the choice of the method to go on with
def integratedErrors(given) {
    def off = given.sweep ? 'in a sweep' : given.integrated == false ? 'with --integrated false' : null
    if (off) {
        return ['use', 'integrated_zarr']
            .findAll { name -> given[name] }
            .collect { name -> "--${name}: no file to go on with is written ${off}, leave one of the two out" }
    }
    def place = file("${given.outdir}/integrated.h5ad", glob: false).toAbsolutePath()
    if (given.integrated != false && given.input && file(given.input.toString(), glob: false).toAbsolutePath() == place) {
        return ["--input: ${given.input} would be replaced by the file of that name in --outdir, expected another outdir".toString()]
    }
    def cards = readCards()
    // of the controls only the one that shows the data as they are is something to go on with
    def able = plannedMethods(given).findAll { name -> cards[name] && (cards[name].kind != 'control' || cards[name].shows == 'no correction') }
    given.use == null || able.contains(given.use)
        ? []
        : ["--use: '${given.use}' is no method of this run to go on with${able ? suggestion(given.use.toString(), able, '') : ''}; there are ${able.join(', ')}"]
}

// Whether the data are made by this run
def simulates(given) {
    given.simulate || given.sweep
}

// Whether simulated values are not whole numbers
def isContinuous(simulation) {
    (simulation.noise ?: (simulation.preset == 'donors' ? 'nb' : 'gaussian')) == 'gaussian'
}

def methodNames(text) {
    if (text.toString() == 'all') {
        return readCards().keySet().toList()
    }
    if (text.toString() == 'default') {
        return readCards().findAll { _name, card -> card.run == 'default' }.keySet().toList()
    }
    text.toString().tokenize(',').collect { name -> name.trim() }.findAll { name -> name }.unique()
}

// The methods of a run: those named, after the controls that they are read against; a sweep has only those named
def plannedMethods(given) {
    def named = methodNames(given.methods)
    def controls = given.controls && !given.sweep ? readCards().findAll { _name, card -> card.kind == 'control' }.keySet().toList() : []
    (controls + named).unique()
}

def camelCase(name) {
    name.replaceAll(/-([a-zA-Z0-9])/) { _all, letter -> letter.toUpperCase() }
}

// ", did you mean --batch_key?" for the closest name, nothing when none is close
def suggestion(name, names, prefix) {
    def written = names.collectEntries { other -> [other.toLowerCase(), other] }
    // Nextflow's own, by Levenshtein distance; it takes no empty name
    def near = name ? written.keySet().closest(name.toLowerCase()) : []
    near ? ", did you mean ${prefix}${written[near[0]]}?" : ''
}

// End before any task with the exit code of wrong input; error() would end with 1
def stop(message) {
    log.error(message)
    System.exit(2)
}

// The grid of a sweep: its file read and checked, then every combination of the values that it lists.

include { describedParameters ; isContinuous ; methodError ; methodNames ; readCards ; suggestion ; valueError } from './parameters'

def sweepFile(given) {
    given.sweep == 'thesis' ? file("${projectDir}/assets/sweep_thesis.yml") : file(given.sweep.toString(), glob: false)
}

// What is wrong with the file of the sweep, one sentence each; an empty list when nothing is
def sweepErrors(given, schema) {
    if (!given.sweep) {
        return []
    }
    if (!sweepFile(given).isFile()) {
        return ["--sweep: ${given.sweep}: no such file (thesis is the name of the bundled grid)".toString()]
    }
    def found = parseYaml(sweepFile(given).text)
    def content = found.content
    def wrong = found.error ?: shapeError(content)
    if (wrong) {
        return ["${given.sweep}: ${wrong}".toString()]
    }
    def errors = simulationErrors(content.simulate ?: [:], schema) + methodErrors(content.methods ?: [:])
    if (listed(content.simulate?.preset).size() > 1) {
        errors << 'simulate.preset: found several, expected one, as presets have different parameters'
    }
    errors.collect { message -> "${given.sweep}: ${message}".toString() }
}

def parseYaml(text) {
    try {
        // plain values only; a name that stands twice would lose one of its lists
        def options = new org.yaml.snakeyaml.LoaderOptions()
        options.setAllowDuplicateKeys(false)
        [content: new org.yaml.snakeyaml.Yaml(new org.yaml.snakeyaml.constructor.SafeConstructor(options)).load(text)]
    }
    catch (org.yaml.snakeyaml.error.YAMLException problem) {
        [error: "not YAML: ${problem.message.replaceAll(/\s+/, ' ').take(200)}"]
    }
}

def shapeError(content) {
    def sections = ['simulate', 'methods']
    def expected = "expected lists of values under simulate and methods, as in 'simulate: {sigma_beta: [0, 1], seed: [0, 1, 2]}'"
    if (!(content instanceof Map) || content.values().every { section -> !section }) {
        return expected
    }
    def unknown = content.keySet().find { name -> !sections.contains(name) }
    if (unknown != null) {
        return "no section '${unknown}'${suggestion(unknown.toString(), sections, '')}; ${expected}"
    }
    def flat = content.find { _name, section -> section != null && !(section instanceof Map) }
    if (flat) {
        return "${flat.key}: found '${flat.value}', ${expected}"
    }
    def bare = (content.methods ?: [:]).find { _method, settings -> !(settings instanceof Map) }
    bare ? "methods.${bare.key}: found '${bare.value}', expected names and values, as in 'harmony: {n_components: [20, 50]}'" : null
}

def simulationErrors(simulate, schema) {
    def rules = describedParameters(schema)
        .findAll { name, _rule -> name.startsWith('sim_') }
        .collectEntries { name, rule -> [name.drop(4), rule] }
    simulate.collectMany { name, values ->
        def where = "simulate.${name}"
        if (!rules.containsKey(name)) {
            return ["${where}: no such parameter${suggestion(name.toString(), rules.keySet(), '')}; there are ${rules.keySet().join(', ')}"]
        }
        listErrors(where, values) + listed(values)
            .collect { value -> valueError(where, rules[name], value) }
            .findAll { message -> message != null }
    }
}

def methodErrors(methods) {
    def cards = readCards()
    methods.collectMany { method, settings ->
        if (!cards.containsKey(method)) {
            return ["methods.${method}: no such method${suggestion(method.toString(), cards.keySet(), '')}; there are ${cards.keySet().join(', ')}"]
        }
        settings.collectMany { name, values ->
            def where = "methods.${method}.${name}"
            def wrong = listErrors(where, values)
            wrong ?: listed(values)
                .collect { value -> methodError(where, method, name, value) }
                .findAll { message -> message != null }
                .unique()
        }
    }
}

def listErrors(where, values) {
    def several = listed(values)
    if (several.isEmpty()) {
        return ["${where}: the list is empty, expected one value or more"]
    }
    if (several.contains(null)) {
        return ["${where}: a value is missing"]
    }
    def twice = several.find { value -> several.count(value) > 1 }
    twice == null ? [] : ["${where}: ${twice} is listed twice"]
}

// One value is a list of one
def listed(values) {
    (values instanceof List) ? values : [values]
}

// What is swept: [simulate: name -> values, variants: method -> list of [id:, params:], about: name -> values]; nothing of
// a run without a sweep
def readGrid(given) {
    def content = given.sweep ? parseYaml(sweepFile(given).text).content : [:]
    def methods = (content.methods ?: [:]).findAll { method, _settings -> methodNames(given.methods).contains(method) }
    def unused = (content.methods ?: [:]).keySet() - methods.keySet()
    if (unused) {
        log.warn("${given.sweep}: parameters of ${unused.join(', ')} are not used, --methods does not name them")
    }
    def simulate = (content.simulate ?: [:]).collectEntries { name, values -> [name, listed(values)] }
    def lists = methods.collectEntries { method, settings ->
        [method, settings.collectEntries { name, values -> [name, listed(values)] }]
    }
    def named = lists.collectEntries { method, settings ->
        settings.collectEntries { name, values -> ["${method}: ${name}".toString(), values] }
    }
    [
        simulate: simulate,
        variants: lists.collectEntries { method, settings ->
            [method, product(settings).collect { params -> [id: variantId(params), params: params] }]
        },
        about: simulate + named,
    ]
}

// Every combination: [a: [1, 2], b: [3]] -> [[a: 1, b: 3], [a: 2, b: 3]]
def product(lists) {
    lists.inject([[:]]) { found, name, values ->
        found.collectMany { one -> values.collect { value -> one + [(name): value] } }
    }
}

// How large the sweep is
def sweepText(points, plan) {
    def datasets = points.sum { point -> point.names.size() }
    def variants = plan.countBy { job -> [job.method, job.params_id] }.size()
    "Sweep: ${points.size()} settings, ${datasets} datasets, ${datasets * plan.size()} fits, ${points.size() * (variants + 3) + 2} tasks"
}

// The points of the grid, each a setting of the simulation with one dataset per seed
def gridPoints(grid, options, code) {
    def seeds = grid.simulate.seed ?: [options.simulate.seed]
    product(grid.simulate.findAll { name, _values -> name != 'seed' }).collect { setting ->
        def id = setting.collect { name, value -> name + brief(value) }.join('-') ?: 'simulated'
        def simulation = options.simulate + setting
        [
            meta: [id: id, code: code],
            names: seeds.collect { seed -> "${id}-seed${seed}".toString() },
            simulate: seeds.collect { seed -> simulation + [seed: seed] },
            preprocess: options.preprocess + [allow_continuous: options.preprocess.allow_continuous || isContinuous(simulation)],
        ]
    }
}

// Name of one combination of a method's parameters, in file names and in the report
def variantId(variant) {
    variant.collect { name, value -> "${name}=${brief(value)}" }.join('-')
}

// A value as a part of a name: letters, digits, _ and -, and told apart from others
def brief(value) {
    def text = value.toString()
    def plain = text.replace('.', 'p').replaceAll(/[^A-Za-z0-9_-]+/, '_').take(20)
    text.length() <= 20 && text ==~ /[A-Za-z0-9_.-]+/ ? plain : "${plain}_${text.md5().take(4)}".toString()
}

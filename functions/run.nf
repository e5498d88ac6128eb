// What a run is made of, from its parameters: the input, the plan of fits, the options of every step, the last message.

include { isContinuous ; methodError ; plannedMethods ; readCards ; readDeclared ; simulates ; stop ; suggestion } from './parameters'

// Parameters of each method from the YAML file: method -> name -> value
def methodParameters(path, methods) {
    if (!path) {
        return [:]
    }
    def content = new org.yaml.snakeyaml.Yaml().load(file(path, glob: false).text) ?: [:]
    if (!(content instanceof Map) || content.values().any { value -> !(value instanceof Map) }) {
        stop("${path}: expected method -> name -> value, as in 'harmony: {n_components: 50}'")
    }
    def unknown = content.keySet().find { method -> !readCards().containsKey(method) }
    if (unknown) {
        stop("${path}: no method '${unknown}'${suggestion(unknown.toString(), readCards().keySet(), '')}")
    }
    def wrong = content.collectMany { method, settings ->
        settings
            .collect { name, value -> methodError("${method}.${name}", method, name, value) }
            .findAll { message -> message != null }
    }
    if (wrong) {
        stop("${path}: ${wrong.join('; ')}")
    }
    def unused = content.keySet().findAll { method -> !methods.contains(method) }
    if (unused) {
        log.warn("${path}: parameters of ${unused.join(', ')} are not used, --methods does not name them")
    }
    content
}

// Seeds of the fits. The simulations of a sweep have seeds of their own, over which it takes its means
def seedCount(given) {
    given.seeds ?: (given.sweep ? 1 : 3)
}

// Every method, in a sweep every one of its variants (method -> list of [id:, params:]), with every seed
def fitPlan(given, variants) {
    def cards = readCards()
    def methods = plannedMethods(given)
    def own = methodParameters(given.method_params, methods)
    def declared = readDeclared()
    methods.collectMany { method ->
        def card = cards[method]
        (variants[method] ?: [[id: null, params: [:]]]).collectMany { variant ->
            def settings = (own[method] ?: [:]) + variant.params
            def hash = 'p' + groovy.json.JsonOutput.toJson(settings).md5().take(6)
            def id = variant.id ?: (settings ? hash : 'default')
            (0..<seedCount(given)).collect { seed ->
                [
                    method: method,
                    program: card.program,
                    image: imageOf(card, given.container),
                    params_id: id,
                    params: settings,
                    seed: seed,
                    max_epochs: given.max_epochs,
                    // the models of a sweep are many, and its seeds make them again
                    model: !given.sweep && declared[method]?.model,
                ]
            }
        }
    }
}

// The image of a method's tasks: the common one, or one of its own with the same registry and version. A digest or a
// file names one image alone: there the method ends as not applicable
def imageOf(card, common) {
    card.image && !(common ==~ /.*@.*|.*\.(sif|img)/) ? common.replaceFirst(/[^\/:]+(?=(:[^\/:]*)?$)/, card.image) : common
}

// The files that a samplesheet names, in the order of its rows; its own checks are preprocess's, before any reading
def sampleFiles(sheet) {
    def rows = sheet.splitCsv(header: true, strip: true, quote: '"')
        .collect { row -> row.collectEntries { column, value -> [column.replace('\uFEFF', ''), value] } }
        .findAll { row -> row.values().any() }
    if (!rows) {
        stop("${sheet}: the samplesheet has no rows")
    }
    def absent = ['sample', 'path'].findAll { column -> !rows[0].containsKey(column) }
    if (absent) {
        stop("${sheet}: column ${absent.join(' and ')} missing in the samplesheet; found ${rows[0].keySet().join(', ')}")
    }
    rows.collect { row ->
        if (!row.path) {
            stop("${sheet}: sample '${row.sample}' has no path")
        }
        def name = row.path.startsWith('/') || row.path.contains('://') ? row.path : "${sheet.parent}/${row.path}"
        def found = file(name, glob: false)
        if (!found.exists()) {
            stop("${sheet}: sample '${row.sample}': ${found}: no such file")
        }
        found
    }
}

// What became of the run: the report, and every fit that is not in its ranking
def closingMessage(success, outdir, planned, fits) {
    def lost = fits.findAll { row -> row.status != 'ok' }.sort { row -> row.id }
    def lines = lost.collect { row -> "  ${row.id}: ${row.status}${row.exit_code == null ? '' : ' (exit ' + row.exit_code + ')'}: ${row.message}" }
    def count = "${fits.size() - lost.size()} of ${planned} fits done"
    success
        ? "\n${([count] + lines).join('\n')}\nReport: ${outdir}/multiqc/multiqc_report.html\n"
        : "\nThe run failed; the message is above, what was finished is in ${outdir}; mend it and add -resume\n"
}

// One hash over the package: Nextflow hashes only what a script names, so that -resume would miss an edited import
def codeFingerprint() {
    def sources = files("${projectDir}/bin/**").findAll { source -> !(source.toString() =~ /__pycache__|\.egg-info/) }
    sources.sort { source -> source.toString() }.collect { source -> source.text }.join('\n').md5().take(12)
}

def datasetName(given) {
    simulates(given) ? 'simulated' : file(given.input, glob: false).baseName.replaceAll(/[^A-Za-z0-9_-]+/, '_')
}

// The one point of a run without a sweep
def inputPoint(given, options, code) {
    def name = datasetName(given)
    def source = options.simulate ? null : file(given.input, glob: false)
    [
        meta: [id: name, code: code],
        names: [name],
        simulate: options.simulate ? [options.simulate] : null,
        source: source,
        samples: source && source.extension == 'csv' ? sampleFiles(source) : [],
        preprocess: options.preprocess,
    ]
}

// Options of the program of each step, by their names without dashes
def stepOptions(given) {
    def simulation = given.findAll { name, _value -> name.startsWith('sim_') }.collectEntries { name, value -> [name.drop(4), value] }
    [
        outdir: given.outdir,
        simulate: simulates(given) ? simulation : null,
        preprocess: given.subMap(['batch_key', 'section_key', 'counts_from', 'min_counts', 'min_genes', 'min_cells', 'n_top_genes']) + [
            label_key: given.label_key ?: (simulates(given) ? 'cell_type' : null),
            allow_continuous: given.allow_continuous || (simulates(given) && isContinuous(simulation)),
        ],
        integrate: given.integrated && !given.sweep ? [use: given.use, zarr: given.integrated_zarr] : null,
        score: given.subMap(['max_cells', 'batch_silhouette', 'targets']) + [no_evidence: !given.evidence || given.sweep],
    ]
}

// What the report says of the run; nothing that changes when the same run is resumed
def aboutRun(run, given, code, grid) {
    [
        version: run.manifest.version,
        revision: run.commitId ?: run.revision,
        nextflow: run.nextflow.version.toString(),
        profile: run.profile,
        container: run.containerEngine ? given.container : null,
        code: code,
        parameters: given.findAll { name, value -> value != null && name != 'help' && !name.contains('-') } + [seeds: seedCount(given)],
    ] + (given.sweep ? [sweep: grid.about] : [:])
}

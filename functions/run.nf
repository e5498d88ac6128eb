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
                    gpu: (given.gpu || given.device == 'cuda') && declared[method]?.gpu,
                    device: declared[method]?.gpu ? given.device : 'auto',
                ]
            }
        }
    }
}

// The fits of the null calibration: those of a plan, with three seeds or more, as fewer say little of what chance does. What
// is asked of a fit and may name batches of the data is left out, but for corrected expression, which is tested
def nullPlan(plan, calibrate) {
    def declared = calibrate ? readDeclared() : [:]
    def seeds = Math.max(3, plan.collect { job -> job.seed }.max() + 1)
    (calibrate ? plan.findAll { job -> job.seed == 0 } : []).collectMany { job ->
        def rules = declared[job.method]?.parameters ?: [:]
        def expression = ['corrected', 'denoised'].findAll { name -> rules.containsKey(name) }.take(1).collectEntries { name -> [name, true] }
        def settings = job.params.findAll { name, _value -> !rules[name]?.asked } + expression
        (0..<seeds).collect { seed -> job + [params: settings, seed: seed, model: false] }
    }
}

// The image of a method's tasks: the common one, or one of its own with the same registry and version. A digest or a
// file names one image alone: there the method ends as not applicable
def imageOf(card, common) {
    card.image && !(common ==~ /.*@.*|.*\.(sif|img)/) ? common.replaceFirst(/[^\/:]+(?=(:[^\/:]*)?$)/, card.image) : common
}

// The lines of a samplesheet that are not blank, as lists of texts: separated by what finds the columns sample and path,
// as unbatch.data.samplesheet reads them
def sheetLines(sheet) {
    def text = sheetText(sheet.bytes)
    def lines = sheetBody(text).readLines()
    def stated = text =~ /^sep=(.)\r?\n/
    def sep = stated.find() ? stated.group(1) : separator(lines.find { line -> line.replaceAll(/[\s,;|"]/, '') } ?: '')
    lines.collect { line -> sheetCells(line, sep) }.findAll { cells -> cells.any { cell -> cell.trim() } }
}

// Text of a file in UTF-8, or UTF-16 with its mark
def sheetText(bytes) {
    def wide = bytes.length > 1 && [[-1, -2], [-2, -1]].contains([bytes[0] as int, bytes[1] as int])
    new String(bytes, wide ? 'UTF-16' : 'UTF-8').replace('\uFEFF', '')
}

// What is below the line with which spreadsheets state the separator
def sheetBody(text) {
    text.replaceFirst(/^sep=.\r?\n/, '')
}

// What separates the columns sample and path, else what a header has most of
def separator(header) {
    [',', ';', '\t', '|'].max { sep ->
        def cells = header.split(java.util.regex.Pattern.quote(sep), -1).collect { cell -> unquoted(cell).toLowerCase() }
        100000 * ['sample', 'path'].count { name -> cells.contains(name) } + cells.size()
    }
}

// The cells of a line; within double quotes a separator is text, and two quotes are one
def sheetCells(line, sep) {
    def cells = []
    def cell = new StringBuilder()
    def state = [quoted: false, open: false]
    line.toList().each { letter ->
        if (letter == '"' && (state.quoted || state.open || !cell.toString().trim())) {
            // a second quote in a row, after one that seemed to close the text
            if (!state.quoted && state.open && cell.length() > 0) {
                cell.append('"')
            }
            else if (!state.quoted) {
                cell.setLength(0)
            }
            state.quoted = !state.quoted
            state.open = true
        }
        else if (letter == sep && !state.quoted) {
            cells.add(cell.toString())
            cell.setLength(0)
            state.open = false
        }
        else {
            cell.append(letter)
            state.open = state.quoted
        }
    }
    cells + [cell.toString()]
}

// A cell without blanks at its ends and quotes around it
def unquoted(cell) {
    def text = (cell ?: '').replaceAll(/^[\s\u00A0\u200B]+|[\s\u00A0\u200B]+$/, '')
    def inner = text =~ /^(?:"(.*)"|'(.*)'|\u201C(.*)\u201D|\u201E(.*)\u201C|\u2018(.*)\u2019|\u00AB(.*)\u00BB)$/
    inner.matches() ? ((1..6).collect { number -> inner.group(number) }.find { found -> found != null }).trim() : text
}

// Whether the input is a samplesheet and not counts, by the rule of is_samplesheet of unbatch.data.samplesheet: the header
// has the columns sample and path, or below a wrong one are names of files or mostly no numbers
def isSheet(source) {
    if (!source.isFile() || !(source.extension.toLowerCase() in ['csv', 'tsv', 'txt'])) {
        return false
    }
    // tables of counts have gigabytes
    def limit = 65536
    def bytes = source.withInputStream { stream -> stream.readNBytes(limit) }
    def whole = bytes.length < limit
    def filled = sheetBody(sheetText(bytes)).readLines().findAll { line -> line.replaceAll(/[\s,;|"]/, '') }
    // a line that the limit cut says nothing, and no sheet has such a long header; tables may start with comments
    def lines = (whole ? filled : filled.dropRight(1)).findAll { line -> !line.startsWith('#') }.take(5)
    if (!lines) {
        return whole
    }
    def sep = lines[0] =~ /[,;\t|]/ ? separator(lines[0]) : ' '
    def rows = lines.collect { line -> sheetCells(line, sep).collect { cell -> unquoted(cell) } }
    if (rows[0]*.toLowerCase().containsAll(['sample', 'path'])) {
        return true
    }
    def cells = rows.drop(1).collectMany { row -> row.drop(1) }
    def numbers = cells.count { cell -> cell ==~ /[+-]?\d+\.?\d*([eE][+-]?\d+)?/ }
    cells.any { cell -> cell ==~ /(?i).*\.(h5ad|h5|hdf5|h5mu|loom|zarr|csv|tsv|txt|gz|zip|mtx)/ } || !cells || numbers < 0.5 * cells.size()
}

// The files that a samplesheet names, in the order of its rows; its own checks are preprocess's, before any reading
def sampleFiles(sheet) {
    def lines = sheetLines(sheet)
    if (lines.size() < 2) {
        stop("${sheet}: the samplesheet has no rows")
    }
    def header = lines[0].collect { cell -> unquoted(cell) }
    def absent = ['sample', 'path'].findAll { column -> !header.any { name -> name.equalsIgnoreCase(column) } }
    if (absent) {
        stop("${sheet}: column ${absent.join(' and ')} missing in the samplesheet; found ${header.findAll { name -> name }.join(', ')}")
    }
    def place = ['sample', 'path'].collectEntries { column -> [column, header.findIndexOf { name -> name.equalsIgnoreCase(column) }] }
    lines.drop(1).collect { cells ->
        def sample = unquoted(cells[place.sample])
        def path = unquoted(cells[place.path])
        if (!path) {
            stop("${sheet}: sample '${sample}' has no path")
        }
        def home = path == '~' || path.startsWith('~/') ? System.getProperty('user.home') + path.drop(1) : path
        // what has a scheme is fetched by Nextflow
        def name = home.startsWith('/') || home.contains('://') ? home : "${sheet.parent}/${home}"
        def found = file(name, glob: false)
        if (!found.exists()) {
            stop("${sheet}: sample '${sample}': ${found.toUriString()}: no such file")
        }
        found
    }
}

// What became of the run: the report, and every fit that is not in its ranking
def closingMessage(success, outdir, planned, fits, problems) {
    def lost = fits.findAll { row -> row.status != 'ok' }.sort { row -> row.id }
    def lines = lost.collect { row -> "  ${row.id}: ${row.status}${row.exit_code == null ? '' : ' (exit ' + row.exit_code + ')'}: ${row.message}" }
    def count = "${fits.size() - lost.size()} of ${planned} fits done"
    success
        ? "\n${([count] + lines).join('\n')}\nReport: ${outdir}/multiqc/multiqc_report.html\n"
        : "\nThe run failed: see the error above.${problems.collect { problem -> '\n' + problem }.join('')}${problems ? '\n' : ' '}Finished results are in ${outdir}; fix the cause and run again with -resume\n"
}

// One hash over the package: Nextflow hashes only what a script names, and -resume would miss an edited import
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
        samples: source && isSheet(source) ? sampleFiles(source) : [],
        preprocess: options.preprocess,
    ]
}

// Options of the program of each step, by their names without dashes
def stepOptions(given) {
    def simulation = given.findAll { name, _value -> name.startsWith('sim_') }.collectEntries { name, value -> [name.drop(4), value] }
    [
        outdir: given.outdir,
        simulate: simulates(given) ? simulation : null,
        preprocess: given.subMap(['batch_key', 'section_key', 'counts_from', 'gene_names', 'min_counts', 'min_genes', 'min_cells', 'n_top_genes']) + [
            label_key: given.label_key ?: (simulates(given) ? 'cell_type' : null),
            allow_continuous: given.allow_continuous || (simulates(given) && isContinuous(simulation)),
        ],
        calibrate: given.calibrate ? [batch: given.calibrate_batch, max_cells: given.calibrate_cells] : null,
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
        parameters: given + [seeds: seedCount(given)],
    ] + (given.sweep ? [sweep: grid.about] : [:])
}

#!/usr/bin/env nextflow

include { UNBATCH } from './workflows/unbatch'
include { fitPlan ; helpText ; parameterErrors ; readSchema ; sampleFiles } from './workflows/parameters'

workflow {
    main:
    def schema = readSchema()
    if (params.help) {
        log.info(helpText(schema))
    }
    else {
        def problems = parameterErrors(params, schema)
        if (problems) {
            error("Wrong parameters:\n  ${problems.join('\n  ')}\n(nextflow run . --help lists them all)")
        }
        def plan = fitPlan(params)
        def meta = datasetMeta(params, codeFingerprint())
        UNBATCH(
            params.simulate ? channel.empty() : channel.of(inputOf(meta, file(params.input))),
            plan,
            stepOptions(params, meta),
            aboutRun(workflow, params, meta.code),
            file("${projectDir}/assets/methods.yml"),
        )
    }
}

// One hash over the package: Nextflow hashes only what a script names, so that -resume would miss an edited import
def codeFingerprint() {
    def sources = files("${projectDir}/bin/**", hidden: false).findAll { source -> source.name ==~ /.*\.(py|yml)|[a-z-]+/ }
    sources.sort { source -> source.toString() }.collect { source -> source.text }.join('\n').md5().take(12)
}

def datasetMeta(given, code) {
    def name = given.simulate ? 'simulated' : file(given.input).baseName.replaceAll(/[^A-Za-z0-9_-]+/, '_')
    [id: name, dataset: name, code: code]
}

def inputOf(meta, source) {
    [meta, source, source.extension == 'csv' ? sampleFiles(source) : []]
}

// Options of the program of each step, by their names without dashes
def stepOptions(given, meta) {
    def simulation = given.findAll { name, _value -> name.startsWith('sim_') }.collectEntries { name, value -> [name.drop(4), value] }
    [
        outdir: given.outdir,
        simulated: meta,
        simulate: given.simulate ? simulation : null,
        preprocess: given.subMap(['batch_key', 'counts_from', 'min_counts', 'min_genes', 'min_cells', 'n_top_genes']) + [
            label_key: given.label_key ?: (given.simulate ? 'cell_type' : null),
            allow_continuous: given.allow_continuous || (given.simulate && given.sim_noise == 'gaussian'),
        ],
        fit: [max_epochs: given.max_epochs],
        score: given.subMap(['max_cells', 'batch_silhouette']),
    ]
}

// What the report says of the run; nothing that changes when the same run is resumed
def aboutRun(run, given, code) {
    [
        version: run.manifest.version,
        revision: run.commitId ?: run.revision,
        nextflow: run.nextflow.version.toString(),
        profile: run.profile,
        container: run.containerEngine ? given.container : null,
        code: code,
        parameters: given.findAll { name, value -> value != null && name != 'help' && !name.contains('-') },
    ]
}

#!/usr/bin/env nextflow

include { UNBATCH } from './workflows/unbatch'
include { helpText ; parameterErrors ; readSchema ; stop } from './workflows/parameters'
include { aboutRun ; closingMessage ; codeFingerprint ; datasetMeta ; fitPlan ; inputOf ; stepOptions } from './workflows/run'

workflow {
    main:
    def schema = readSchema()
    if (params.help) {
        log.info(helpText(schema))
    }
    else {
        def problems = parameterErrors(params, schema)
        if (problems) {
            stop("Wrong parameters:\n  ${problems.join('\n  ')}\n(nextflow run . --help lists them all)")
        }
        def plan = fitPlan(params)
        def meta = datasetMeta(params, codeFingerprint())
        def fits = []
        UNBATCH(
            params.simulate ? channel.empty() : channel.of(inputOf(meta, file(params.input, glob: false))),
            plan,
            stepOptions(params, meta),
            aboutRun(workflow, params, meta.code),
            file("${projectDir}/assets/methods.yml"),
        )
        UNBATCH.out.ch_outcome_rows.subscribe { row -> fits << row }

        // inside the closure, 25.04 and 26.04 know neither `workflow` nor `params`
        def run = workflow
        def outdir = file(params.outdir, glob: false).toAbsolutePath()
        workflow.onComplete = { log.info(closingMessage(run.success, outdir, plan.size(), fits)) }
    }
}

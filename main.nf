#!/usr/bin/env nextflow

include { UNBATCH } from './workflows/unbatch'
include { gridPoints ; readGrid ; sweepErrors ; sweepText } from './functions/grid'
include { helpText ; parameterErrors ; readSchema ; simulates ; stop } from './functions/parameters'
include { aboutRun ; closingMessage ; codeFingerprint ; fitPlan ; inputPoint ; stepOptions } from './functions/run'

workflow {
    main:
    def schema = readSchema()
    if (params.help) {
        log.info(helpText(schema))
    }
    else {
        def problems = parameterErrors(params, schema) + sweepErrors(params, schema)
        if (problems) {
            stop("Wrong parameters:\n  ${problems.join('\n  ')}\n(nextflow run . --help lists them all)")
        }
        def code = codeFingerprint()
        def grid = readGrid(params)
        def plan = fitPlan(params, grid.variants)
        def options = stepOptions(params)
        def points = params.sweep ? gridPoints(grid, options, code) : [inputPoint(params, options, code)]
        def fits = []
        if (params.sweep) {
            log.info(sweepText(points, plan))
        }
        UNBATCH(points, plan, options, aboutRun(workflow, params, code, grid), file("${projectDir}/assets/methods.yml"))
        UNBATCH.out.ch_outcome_rows.subscribe { row -> fits << row }

        // inside the closure, 25.04 and 26.04 know neither `workflow` nor `params`
        def run = workflow
        def planned = plan.size() * points.sum { point -> point.names.size() }
        def outdir = file(params.outdir, glob: false).toAbsolutePath()
        workflow.onComplete = { log.info(closingMessage(run.success, outdir, planned, fits)) }
    }
}

#!/usr/bin/env nextflow

include { UNBATCH } from './workflows/unbatch'
include { gridPoints ; readGrid ; sweepErrors ; sweepText } from './workflows/grid'
include { helpText ; parameterErrors ; readSchema ; simulates ; stop ; typedParameters } from './workflows/parameters'
include { aboutRun ; closingMessage ; codeFingerprint ; datasetMeta ; fitPlan ; inputOf ; stepOptions } from './workflows/run'

workflow {
    main:
    def schema = readSchema()
    def given = typedParameters(params, schema)
    if (given.help == true) {
        log.info(helpText(schema))
    }
    else {
        def problems = parameterErrors(given, schema) + sweepErrors(given, schema)
        if (problems) {
            stop("Wrong parameters:\n  ${problems.join('\n  ')}\n(nextflow run . --help lists them all)")
        }
        def code = codeFingerprint()
        def meta = datasetMeta(given, code)
        def grid = readGrid(given)
        def plan = fitPlan(given, grid.variants)
        def options = stepOptions(given, meta)
        def points = given.sweep ? gridPoints(grid, options, code) : []
        def fits = []
        if (points) {
            log.info(sweepText(points, plan))
        }
        UNBATCH(
            simulates(given) ? channel.empty() : channel.of(inputOf(meta, file(given.input, glob: false))),
            points,
            plan,
            options,
            aboutRun(workflow, given, code, grid),
            file("${projectDir}/assets/methods.yml"),
        )
        UNBATCH.out.ch_outcome_rows.subscribe { row -> fits << row }

        // inside the closure, 25.04 and 26.04 know neither `workflow` nor `params`
        def run = workflow
        def planned = plan.size() * (points ? points.sum { point -> point.datasets.size() } : 1)
        def outdir = file(given.outdir, glob: false).toAbsolutePath()
        workflow.onComplete = { log.info(closingMessage(run.success, outdir, planned, fits)) }
    }
}

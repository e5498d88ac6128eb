#!/usr/bin/env nextflow

include { UNBATCH } from './workflows/unbatch'
include { gridPoints ; readGrid ; sweepErrors ; sweepText } from './functions/grid'
include { helpText ; parameterErrors ; readSchema ; resourcesOf ; simulates ; stop ; typedParameters } from './functions/parameters'
include { plannedFits } from './functions/null'
include { imageNames ; imagesOf ; statedParameters ; writeCrate ; writeImages ; writeParameters } from './functions/provenance'
include { resourcesText } from './functions/resources'
include { folderErrors ; fullFolders ; placeErrors } from './functions/places'
include { aboutRun ; closingMessage ; codeFingerprint ; fitPlan ; inputPoint ; nullPlan ; stepOptions } from './functions/run'

workflow {
    main:
    def schema = readSchema()
    def given = typedParameters(params, schema)
    if (given.help == true) {
        log.info(helpText(schema))
    }
    else {
        def work = workflow.workDir.toUriString()
        def wrong = parameterErrors(given, schema) + sweepErrors(given, schema)
        def problems = wrong ?: placeErrors(given, workflow.profile, work, projectDir) ?: folderErrors(given.outdir, work)
        if (problems) {
            stop("Wrong parameters:\n  ${problems.join('\n  ')}\n(nextflow run . --help lists them all)")
        }
        def code = codeFingerprint()
        def grid = readGrid(given)
        def plan = fitPlan(given, grid.variants)
        def nulls = nullPlan(plan, given.calibrate)
        def options = stepOptions(given)
        def points = given.sweep ? gridPoints(grid, options, code) : [inputPoint(given, options, code)]
        def fits = []
        if (given.sweep) {
            log.info(sweepText(points, plan))
        }
        else {
            log.info(resourcesText(points[0], plan.collect { job -> resourcesOf(job.method) }, given.max_memory))
        }
        def stated = statedParameters(given, workflow.launchDir)
        def about = aboutRun(workflow, stated, code, grid)
        writeParameters(stated, given.outdir)
        UNBATCH(points, plan, nulls, options, about, file("${projectDir}/assets/methods.yml"))
        UNBATCH.out.ch_outcome_rows.subscribe { row -> fits << row }

        // inside the closure, 25.04 and 26.04 know neither `workflow` nor `params`
        def run = workflow
        def planned = plannedFits(points, plan, nulls)
        def outdir = file(given.outdir, glob: false).toAbsolutePath().toUriString()
        def names = imageNames([given.container] + plan.collect { job -> job.image }, run.launchDir)
        def local = nextflow.Global.config.process?.executor in [null, 'local']
        workflow.onComplete = {
            def images = imagesOf(run.containerEngine, names, local)
            if (images) {
                writeImages(run.containerEngine, images, given.outdir)
            }
            if (run.success) {
                try {
                    writeCrate(about, points[0], images, given.outdir)
                }
                catch (Exception problem) {
                    log.warn("${outdir}/ro-crate-metadata.json could not be written: ${problem.message}")
                }
            }
            log.info(closingMessage(run.success, outdir, planned, fits, run.success ? [] : fullFolders(outdir, run.workDir.toUriString())))
        }
    }
}

// The big picture: input or simulation -> preprocess -> fit x methods x seeds -> score -> report.
// In a sweep, SWEEP does all that comes before the report.

include { SIMULATE       } from '../modules/simulate/main'
include { PREPROCESS     } from '../modules/preprocess/main'
include { FIT_BASELINE   } from '../modules/fit_baseline/main'
include { FIT_BATCHBLEND } from '../modules/fit_batchblend/main'
include { FIT_SCMEDAL    } from '../modules/fit_scmedal/main'
include { FIT_SEURAT     } from '../modules/fit_seurat/main'
include { SCORE          } from '../modules/score/main'
include { REPORT         } from '../modules/report/main'
include { MULTIQC        } from '../modules/multiqc/main'
include { SWEEP          } from './sweep'
include { showNotes      } from './notes'
include { outcomeRow ; readOutcome } from './outcomes'

workflow UNBATCH {
    take:
    inputs  // [meta, samplesheet or h5ad, files that the samplesheet names], empty when data are simulated
    points  // points of the grid of a sweep, then without inputs; else an empty list
    plan    // list of [method:, program:, image:, params_id:, params:, seed:], the same for every dataset
    options // map: step -> options of its program
    about   // map: what the report says of the run
    cards   // assets/methods.yml

    main:
    ch_simulated = channel.fromList(options.simulate && !points ? [[options.simulated, options.simulate]] : [])
    SIMULATE(ch_simulated)

    ch_inputs = inputs.mix(SIMULATE.out.dataset.map { meta, dataset -> [meta, dataset, []] })
    PREPROCESS(ch_inputs.map { meta, source, samples -> [meta, source, samples, options.preprocess] })
    ch_datasets = PREPROCESS.out.dataset
    PREPROCESS.out.notes.subscribe { meta, notes -> showNotes(meta.dataset, notes) }

    // every dataset with every method and seed, to the program that fits the method
    ch_jobs = ch_datasets
        .combine(channel.fromList(plan))
        .map { meta, dataset, job ->
            def id = "${meta.dataset}.${job.method}.${job.params_id}.s${job.seed}".toString()
            [meta + [id: id, method: job.method, params_id: job.params_id, seed: job.seed], dataset, job]
        }
        .branch { _meta, _dataset, job ->
            baseline: job.program == 'fit-baseline'
            batchblend: job.program == 'fit-batchblend'
            scmedal: job.program == 'fit-scmedal'
            seurat: job.program == 'fit-seurat'
            unknown: true
        }
    ch_jobs.unknown.subscribe { _meta, _dataset, job -> error("assets/methods.yml: ${job.method}: no program '${job.program}'") }
    FIT_BASELINE(ch_jobs.baseline.map { meta, dataset, job -> [meta, dataset, job.params, options.fit + [image: job.image]] })
    FIT_BATCHBLEND(ch_jobs.batchblend.map { meta, dataset, job -> [meta, dataset, job.params, options.fit] })
    FIT_SCMEDAL(ch_jobs.scmedal.map { meta, dataset, job -> [meta, dataset, job.params, options.fit] })
    FIT_SEURAT(ch_jobs.seurat.map { meta, dataset, job -> [meta, dataset, job.params, options.fit + [image: job.image]] })
    ch_fits = FIT_BASELINE.out.fit.mix(FIT_BATCHBLEND.out.fit, FIT_SCMEDAL.out.fit, FIT_SEURAT.out.fit)
    ch_outcomes = FIT_BASELINE.out.outcome
        .mix(FIT_BATCHBLEND.out.outcome, FIT_SCMEDAL.out.outcome, FIT_SEURAT.out.outcome)
        .map { meta, outcome -> [meta, readOutcome(outcome)] }

    // one row per planned fit, whatever became of it
    ch_rows = ch_jobs.baseline
        .mix(ch_jobs.batchblend, ch_jobs.scmedal, ch_jobs.seurat)
        .map { meta, _dataset, job -> [meta, job.method] }
        .join(ch_outcomes, remainder: true)
        .join(ch_fits, remainder: true)
        .map { meta, _method, outcome, fit -> [groupKey(meta.dataset, plan.size()), outcomeRow(meta, outcome, fit), fit ?: []] }
        .groupTuple()
        .map { dataset, rows, fits -> [dataset.toString(), rows.sort { row -> row.id }, fits.flatten().sort { fit -> fit.name }] }

    ch_to_score = ch_datasets
        .map { meta, dataset -> [meta.dataset, meta, dataset] }
        .join(ch_rows)
        .map { _name, meta, dataset, rows, fits -> [meta, dataset, fits, rows, options.score] }
    SCORE(ch_to_score)

    ch_swept = channel.empty()
    ch_swept_rows = channel.empty()
    if (points) {
        SWEEP(points, plan, options)
        ch_swept = SWEEP.out.ch_scores.toSortedList { a, b -> a.name <=> b.name }.map { scores -> [scores, [], [], cards, about] }
        ch_swept_rows = SWEEP.out.ch_outcome_rows
    }

    ch_report = SCORE.out.scores
        .map { meta, scores -> [meta.dataset, scores] }
        .join(ch_to_score.map { meta, dataset, fits, _rows, _options -> [meta.dataset, dataset, fits] })
        .toSortedList { a, b -> a[0] <=> b[0] }
        .filter { found -> found }
        .map { found ->
            [found.collect { row -> row[1] }, found.collect { row -> row[2] }, found.collectMany { row -> row[3] }, cards, about]
        }
    REPORT(ch_report.mix(ch_swept))

    ch_versions = channel.topic('versions')
        .unique()
        .toSortedList { a, b -> a[0] <=> b[0] }
        .map { found -> versionsText(found, about) }
        .collectFile(name: 'unbatch_mqc_versions.yml', storeDir: "${options.outdir}/pipeline_info")
    MULTIQC(
        REPORT.out.content
            .combine(ch_versions)
            .map { content, versions -> [content, versions, file("${projectDir}/assets/multiqc_config.yml", checkIfExists: true)] }
    )

    // emitted by plain names: Nextflow 25.04.0's parser loses `emit: name = value`
    ch_html = MULTIQC.out.report
    ch_outcome_rows = ch_rows.flatMap { _dataset, rows, _fits -> rows }.mix(ch_swept_rows)

    emit:
    ch_html
    ch_outcome_rows
}

// Collated versions as MultiQC reads them: {process: {tool: version}}
def versionsText(found, about) {
    def tools = found.collectEntries { process, json ->
        [process.tokenize(':').last(), new groovy.json.JsonSlurper().parseText(json)]
    }
    groovy.json.JsonOutput.prettyPrint(
        groovy.json.JsonOutput.toJson(tools + [Workflow: [unbatch: about.version, Nextflow: about.nextflow]])
    ) + '\n'
}

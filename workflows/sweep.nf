// A sweep: for every point of a grid, simulate -> preprocess -> fit x methods x seeds -> score.
// A task does its step for all datasets of a point, that is for all seeds, as a fit of simulated data takes less time
// than a task takes to start.

include { SIMULATE_GROUP } from '../modules/simulate_group/main'
include { FIT_GROUP      } from '../modules/fit_group/main'
include { SCORE_GROUP    } from '../modules/score_group/main'
include { fitCommand } from '../modules/arguments'
include { showCommonNotes } from './notes'
include { outcomeRow ; readOutcome } from './outcomes'

workflow SWEEP {
    take:
    points  // list of [meta:, datasets: list of [name:, simulate: options], preprocess: options]
    plan    // list of [method:, program:, image:, params_id:, params:, seed:], the same for every dataset
    options // map: step -> options of its program

    main:
    def unknown = plan.find { job -> !fitCommand(job.program, job.method) }
    if (unknown) {
        error("assets/methods.yml: ${unknown.method}: no program '${unknown.program}'")
    }

    SIMULATE_GROUP(channel.fromList(points).map { point -> [point.meta, point.datasets, point.preprocess] })
    ch_points = SIMULATE_GROUP.out.datasets.map { meta, datasets -> [meta, fileList(datasets)] }

    SIMULATE_GROUP.out.notes.flatMap { _meta, notes -> fileList(notes) }.toList().subscribe { notes -> showCommonNotes(notes) }

    // every point with every method and its parameters
    def variants = plan.groupBy { job -> [job.method, job.params_id] }.values().toList()
    ch_jobs = ch_points
        .combine(channel.fromList(variants.collect { jobs -> [jobs] }))
        .map { meta, datasets, jobs -> [fitMeta(meta, jobs[0]), datasets, jobs[0], fitJobs(datasets, jobs)] }
    FIT_GROUP(ch_jobs.map { meta, datasets, first, jobs -> [meta, datasets, first.program, first.params, jobs, options.fit + [image: first.image]] })
    ch_outcomes = FIT_GROUP.out.outcomes.map { meta, outcomes -> [meta, outcomesById(outcomes)] }
    ch_fits = FIT_GROUP.out.fits.map { meta, fits -> [meta, fileList(fits)] }

    // one row per planned fit, whatever became of it
    ch_rows = ch_jobs
        .map { meta, _datasets, _first, jobs -> [meta, jobs] }
        .join(ch_outcomes, remainder: true)
        .join(ch_fits, remainder: true)
        .map { meta, jobs, outcomes, fits -> [groupKey(meta.point, variants.size()), rowsOf(meta, jobs, outcomes, fits ?: []), fits ?: []] }
        .groupTuple()
        .map { point, rows, fits -> [point.toString(), rows.flatten().sort { row -> row.id }, fits.flatten().sort { fit -> fit.name }] }

    SCORE_GROUP(
        ch_points
            .map { meta, datasets -> [meta.point, meta, datasets] }
            .join(ch_rows)
            .map { _point, meta, datasets, rows, fits -> [meta, datasets, fits, rows.groupBy { row -> row.dataset }, options.score] }
    )

    ch_scores = SCORE_GROUP.out.scores.flatMap { _meta, scores -> fileList(scores) }
    ch_outcome_rows = ch_rows.flatMap { _point, rows, _fits -> rows }

    emit:
    ch_scores
    ch_outcome_rows
}

// A task that writes one file hands over that file, not a list
def fileList(found) {
    [found].flatten().sort { one -> one.name }
}

def fitMeta(meta, job) {
    def id = "${meta.point}.${job.method}.${job.params_id}".toString()
    meta + [id: id, method: job.method, params_id: job.params_id]
}

// All fits of one method to the datasets of a point
def fitJobs(datasets, jobs) {
    datasets.collectMany { dataset ->
        jobs.collect { job ->
            def id = "${dataset.baseName}.${job.method}.${job.params_id}.s${job.seed}".toString()
            [id: id, dataset: dataset.baseName, seed: job.seed]
        }
    }
}

def outcomesById(outcomes) {
    fileList(outcomes).collectEntries { outcome -> [outcome.name - '.outcome.json', readOutcome(outcome)] }
}

// What is known of the planned fits of a group
def rowsOf(meta, jobs, outcomes, fits) {
    jobs.collect { job ->
        def fit = fits.find { file -> file.name == "${job.id}.fit.h5ad".toString() }
        outcomeRow(meta + job, outcomes ? outcomes[job.id] : null, fit) + [dataset: job.dataset]
    }
}

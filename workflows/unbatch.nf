// The big picture: simulation or input -> preprocess -> fit x methods x seeds -> score -> one file, report; and, where it
// is asked for, one batch -> halves -> fit x methods x seeds -> calibrate -> report.
//
// A point is what is done together: in a run, its dataset; in a sweep, one setting of the simulation, whose seeds are
// datasets that a task takes one after another, as a fit of simulated data takes less time than a task takes to start.

include { SIMULATE   } from '../modules/simulate/main'
include { PREPROCESS } from '../modules/preprocess/main'
include { FIT ; FIT as FIT_GPU } from '../modules/fit/main'
include { SCORE      } from '../modules/score/main'
include { HALVE      } from '../modules/halve/main'
include { CALIBRATE  } from '../modules/calibrate/main'
include { INTEGRATE  } from '../modules/integrate/main'
include { REPORT     } from '../modules/report/main'
include { MULTIQC    } from '../modules/multiqc/main'
include { fileList ; fitTasks ; outcomesById ; rowsOf ; taskGroups ; tellProgress ; versionsText } from '../functions/fits'
include { isNull ; nullMeta ; plannedFits } from '../functions/null'
include { requireColumns ; showFitNotes ; showNotes ; showCommonNotes } from '../functions/notes'

workflow UNBATCH {
    take:
    points  // list of [meta: [id:, code:], names: of its datasets, simulate: list of options or null, source:, samples:, preprocess: options]
    plan    // list of [method:, program:, image:, params_id:, params:, seed:, ...], the same for every dataset
    nulls   // the same for the null calibration; empty without one
    options // map: step -> options of its program
    about   // map: what the report says of the run
    cards   // assets/methods.yml

    main:
    ch_points = channel.fromList(points).map { point -> [point.meta, point] }

    SIMULATE(
        ch_points
            .filter { _meta, point -> point.simulate }
            .map { meta, point -> [meta, [point.names, point.simulate].transpose().collect { name, given -> [name: name, options: given] }] }
    )
    ch_sources = ch_points
        .filter { _meta, point -> !point.simulate }
        .map { meta, point -> [meta, [point.source], point.samples] }
        .mix(SIMULATE.out.datasets.map { meta, datasets -> [meta, fileList(datasets), []] })

    PREPROCESS(
        ch_sources
            .join(ch_points)
            .map { meta, sources, samples, point -> [meta, sources, samples, point.names.sort(false), point.preprocess] }
    )
    ch_datasets = PREPROCESS.out.datasets.map { meta, datasets -> [meta, fileList(datasets)] }
    PREPROCESS.out.notes
        .flatMap { _meta, notes -> fileList(notes) }
        .toList()
        .map { notes ->
            requireColumns(notes, about.parameters.subMap(['colour_by', 'targets']))
            notes
        }
        .subscribe { notes -> about.sweep ? showCommonNotes(notes) : notes.each { file -> showNotes(file.name - '.notes.json', file) } }

    // every dataset with every method, its parameters and seeds
    def groups = taskGroups(plan, about.sweep as boolean)
    // in the null calibration, a task for all fits of a method, as in a sweep
    def null_groups = taskGroups(nulls, true)
    HALVE(ch_datasets.filter { options.calibrate }.map { meta, datasets -> [nullMeta(meta), datasets, options.calibrate] })
    ch_halves = HALVE.out.datasets.map { meta, datasets -> [meta, fileList(datasets)] }
    ch_tasks = ch_datasets
        .flatMap { meta, datasets -> fitTasks(meta, datasets, groups, about.sweep as boolean) }
        .mix(ch_halves.flatMap { meta, datasets -> fitTasks(meta, datasets, null_groups, true) })
    // a process of their own for fits that get a GPU, of which one runs at a time on a local machine
    ch_by_device = ch_tasks.branch { _meta, _datasets, job, _runs ->
        gpu: job.gpu
        cpu: true
    }
    FIT(ch_by_device.cpu)
    FIT_GPU(ch_by_device.gpu)
    ch_fits = FIT.out.fits.mix(FIT_GPU.out.fits)
    ch_outcomes = FIT.out.outcomes.mix(FIT_GPU.out.outcomes).map { meta, outcomes -> [meta, outcomesById(outcomes)] }
    def told = [outcomes: [], times: []]
    def planned = plannedFits(points, plan, nulls)
    ch_outcomes.subscribe { _meta, outcomes -> tellProgress(told, planned, outcomes.values()) }

    // one row per planned fit, whatever became of it
    ch_rows = ch_tasks
        .map { meta, _datasets, job, runs -> [meta, job, runs] }
        .join(ch_outcomes, remainder: true)
        .join(ch_fits.map { meta, fits -> [meta, fileList(fits)] }, remainder: true)
        .map { meta, job, runs, outcomes, fits -> [groupKey(meta.point, (isNull(meta.point) ? null_groups : groups).size()), rowsOf(meta, job, runs, outcomes, fits ?: []), fits ?: []] }
        .groupTuple()
        .map { point, rows, fits -> [point.toString(), rows.flatten().sort { row -> row.id }, fits.flatten().sort { fit -> fit.name }] }

    ch_to_score = ch_datasets
        .map { meta, datasets -> [meta.id, meta, datasets] }
        .join(ch_rows)
    SCORE(ch_to_score.map { _point, meta, datasets, rows, fits -> [meta, datasets, fits, rows.groupBy { row -> row.dataset }, options.score] })

    SCORE.out.scores
        .flatMap { _meta, scores -> fileList(scores) }
        .toList()
        .subscribe { scores -> showFitNotes(scores) }

    CALIBRATE(
        ch_halves
            .map { meta, datasets -> [meta.id, meta, datasets] }
            .join(ch_rows)
            .map { _point, meta, datasets, rows, fits -> [meta, datasets, fits, rows] }
    )
    ch_calibration = CALIBRATE.out.calibration.map { _meta, calibration -> calibration }.toList()

    // a run without a sweep, which has null for options.integrate, has one dataset
    INTEGRATE(
        ch_to_score
            .filter { options.integrate }
            .join(SCORE.out.scores.map { meta, scores -> [meta.id, scores] })
            .map { _point, meta, datasets, _rows, fits, scores -> [meta, datasets, fits, scores, cards, options.integrate] }
    )
    INTEGRATE.out.choice.subscribe { meta, choice -> showNotes(meta.id, choice) }

    // the report on a sweep draws no cells
    ch_report = SCORE.out.scores
        .map { meta, scores -> [meta.id, fileList(scores)] }
        .join(ch_to_score)
        .toSortedList { a, b -> a[0] <=> b[0] }
        .filter { found -> found }
        .map { found -> [found] }
        .combine(ch_calibration.map { found -> [found] })
        .map { found, calibration ->
            def drawn = about.sweep ? [] : found
            [found.collectMany { row -> row[1] }, calibration, drawn.collectMany { row -> row[3] }, drawn.collectMany { row -> row[5] }, cards, about]
        }
    REPORT(ch_report)

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
    ch_outcome_rows = ch_rows.flatMap { _point, rows, _fits -> rows }

    emit:
    ch_html
    ch_outcome_rows
}

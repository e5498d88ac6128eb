// The tasks of the fits, and what became of them.

// The planned fits by task: one each; in a sweep those of one method and set of parameters, with all seeds
def taskGroups(plan, swept) {
    plan.groupBy { job -> swept ? [job.method, job.params_id] : [job.method, job.params_id, job.seed] }.values().toList()
}

// The tasks that fit the methods of a plan to the datasets of a point: [meta, datasets, job, runs]. A meta says nothing
// of the other tasks: it is hashed, and a method more would have -resume fit all others again
def fitTasks(meta, datasets, groups, swept) {
    groups.collect { jobs ->
        def first = jobs[0]
        def runs = datasets.collectMany { dataset ->
            jobs.collect { job ->
                def id = "${dataset.baseName}.${job.method}.${job.params_id}.s${job.seed}".toString()
                [id: id, dataset: dataset.baseName, seed: job.seed]
            }
        }
        def id = swept ? "${meta.id}.${first.method}.${first.params_id}".toString() : runs[0].id
        [meta + [id: id, point: meta.id], datasets, first, runs]
    }
}

// A task that writes one file hands over that file, not a list
def fileList(found) {
    [found].flatten().sort { one -> one.name }
}

// How the fits of a task ended, by their ids
def outcomesById(outcomes) {
    def found = fileList(outcomes).collectEntries { file ->
        [file.name - '.outcome.json', new groovy.json.JsonSlurper().parseText(file.text)]
    }
    // a failure is no result to keep: without these files, all of them, -resume runs the task again
    if (found.values().any { outcome -> outcome.status == 'failed' }) {
        fileList(outcomes).each { file -> file.delete() }
    }
    found
}

// What is known of the planned fits of a task
def rowsOf(meta, job, runs, outcomes, fits) {
    runs.collect { run ->
        def told = (outcomes ? outcomes[run.id] : null) ?:
            [status: 'failed', exit_code: null, attempts: null, message: 'the task was stopped before it could say why']
        def fit = fits.find { file -> file.name == "${run.id}.fit.h5ad".toString() }
        [id: run.id, method: job.method, params_id: job.params_id, seed: run.seed, code: meta.code] + told +
            [fit: fit ? fit.name : null, dataset: run.dataset]
    }
}

// Says how many of the planned fits have ended, at most every few seconds, and when the last one has. What was told
// before is kept in `told`, a list of the outcomes so far and a list of times
def tellProgress(told, planned, outcomes) {
    told.outcomes.addAll(outcomes)
    def now = System.currentTimeMillis()
    if (told.outcomes.size() < planned && told.times && now - told.times.last() < 5000) {
        return
    }
    told.times << now
    def others = told.outcomes.findAll { outcome -> outcome.status != 'ok' }.countBy { outcome -> outcome.status }
    def apart = others ? " (${others.collect { status, count -> "${count} ${status}" }.join(', ')})" : ''
    log.info("${told.outcomes.size()} of ${planned} fits have ended${apart}")
}

// Collated versions as MultiQC reads them: {step or program: {tool: version}}
def versionsText(found, about) {
    def tools = found.collectEntries { step, json -> [step.tokenize(':').last(), new groovy.json.JsonSlurper().parseText(json)] }
    groovy.json.JsonOutput.prettyPrint(
        groovy.json.JsonOutput.toJson(tools + [Workflow: [unbatch: about.version, Nextflow: about.nextflow]])
    ) + '\n'
}

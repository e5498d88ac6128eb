// What became of the fits.

// How the task of a fit ended, in its own words. A failure is no result to keep: without its file, -resume runs the
// task again.
def readOutcome(file) {
    def outcome = new groovy.json.JsonSlurper().parseText(file.text)
    if (outcome.status == 'failed') {
        file.delete()
    }
    outcome
}

// What is known of a planned fit
def outcomeRow(meta, outcome, fit) {
    def told = outcome ?: [status: 'failed', exit_code: null, attempts: null, message: 'the task was stopped before it could say why']
    meta.subMap(['id', 'method', 'params_id', 'seed', 'code']) + told + [fit: fit ? fit.name : null]
}

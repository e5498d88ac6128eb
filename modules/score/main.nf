include { argumentList ; quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

process SCORE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor('score', '3 GB', datasets, [], task) }
    time { timeFor('score', '4 h', 1, datasets, task) }

    input:
    // outcomes: name of each dataset -> one map per planned fit, those that failed included; fits: the files of the others
    tuple val(meta), path(datasets), path(fits), val(outcomes), val(options)

    output:
    tuple val(meta), path('*.scores.json'), emit: scores
    tuple val(task.process), eval('score --version'), topic: 'versions'

    script:
    def written = outcomes.collect { name, rows -> "printf '%s' ${quote(groovy.json.JsonOutput.toJson(rows))} > ${name}.outcomes.json" }
    def jobs = outcomes.collect { name, rows ->
        def files = rows.collect { row -> row.fit }.findAll { file -> file }
        ['score', "${name}.h5ad"] + files + ['--outcomes', "${name}.outcomes.json", '--name', name] +
            argumentList(options) + ['--threads', task.cpus, '-o', "${name}.scores.json"]
    }
    """
    ${written.join('\n    ')}
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(jobs))} > jobs.json
    each jobs.json
    """

    stub:
    """
    touch ${outcomes.keySet().collect { name -> "${name}.scores.json" }.join(' ')}
    """
}

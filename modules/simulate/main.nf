include { argumentList ; quote } from '../../functions/arguments'
include { memoryFor } from '../../functions/resources'

process SIMULATE {
    tag "${meta.id}"
    memory { memoryFor('simulate', '3 GB', [], [], task) }
    // a job array asks before it knows its tasks
    time { 1.h * (simulations ?: [0]).size() * (task.attempt ?: 1) }

    input:
    // simulations: list of [name: of the dataset, options: of the program], one after another
    tuple val(meta), val(simulations)

    output:
    tuple val(meta), path('*.raw.h5ad'), emit: datasets
    tuple val(task.process), eval('simulate --version'), topic: 'versions'

    script:
    def jobs = simulations.collect { one ->
        ['simulate'] + argumentList(one.options) + ['--threads', task.cpus, '-o', "${one.name}.raw.h5ad"]
    }
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(jobs))} > jobs.json
    each jobs.json
    """

    stub:
    """
    touch ${simulations.collect { one -> "${one.name}.raw.h5ad" }.join(' ')}
    """
}

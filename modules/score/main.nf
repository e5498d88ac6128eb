include { arguments ; quote } from '../arguments'

process SCORE {
    tag "${meta.id}"
    label 'process_medium'

    input:
    // outcomes: one map per planned fit, those that failed included; fits: the files of those that did not
    tuple val(meta), path(dataset), path(fits), val(outcomes), val(options)

    output:
    tuple val(meta), path("${meta.id}.scores.json"), emit: scores
    tuple val(task.process), eval('score --version'), topic: 'versions'

    script:
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(outcomes))} > outcomes.json
    score ${dataset} ${fits} --outcomes outcomes.json --name ${meta.dataset} ${arguments(options)} \\
        --threads ${task.cpus} -o ${meta.id}.scores.json
    """

    stub:
    """
    touch ${meta.id}.scores.json
    """
}

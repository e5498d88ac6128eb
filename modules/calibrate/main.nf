include { quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

// Fits to the halves of a batch, compared: what each method does where there is no batch effect
process CALIBRATE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor('calibrate', '3 GB', datasets, [], task) }
    time { timeFor('calibrate', '4 h', 1, datasets, task) }

    input:
    // outcomes: one map per planned fit, those that failed included; fits: the files of the others
    tuple val(meta), path(datasets), path(fits), val(outcomes)

    output:
    tuple val(meta), path('*.calibration.json'), emit: calibration
    tuple val(task.process), eval('calibrate --version'), topic: 'versions'

    script:
    def name = meta.id - '.null'
    def arguments = [fits].flatten() + [datasets].flatten().collectMany { dataset -> ['--dataset', dataset] } +
        ['--name', name, '--outcomes', 'outcomes.json', '--threads', task.cpus, '-o', "${name}.calibration.json"]
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(outcomes))} > outcomes.json
    calibrate ${arguments.collect { argument -> quote(argument) }.join(' ')}
    """

    stub:
    """
    touch ${meta.id - '.null'}.calibration.json
    """
}

include { quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

process REPORT {
    tag 'report'
    label 'process_medium'
    memory { memoryFor('report', '4 GB', datasets, [], task) }
    time { timeFor('report', '4 h', 1, datasets, task) }

    input:
    tuple path(scores), path(calibration), path(datasets), path(fits), path(cards), val(about)

    output:
    path 'report', emit: content
    path 'sweep.csv', emit: table, optional: true
    tuple val(task.process), eval('report --version'), topic: 'versions'

    script:
    def dataset_options = [datasets].flatten().collect { file -> "--dataset ${file}" }.join(' ')
    def null_options = [calibration].flatten().collect { file -> "--calibration ${file}" }.join(' ')
    def fit_options = [fits].flatten().collect { file -> "--fit ${file}" }.join(' ')
    def colours = about.parameters?.colour_by ? "--colour-by ${quote(about.parameters.colour_by)}" : ''
    def sweep = about.sweep ? '--sweep sweep.csv' : ''
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(about))} > run.json
    report ${scores} ${null_options} ${dataset_options} ${fit_options} --methods ${cards} --parameters run.json ${sweep} ${colours} \\
        --threads ${task.cpus} -o report
    """

    stub:
    """
    mkdir report
    """
}

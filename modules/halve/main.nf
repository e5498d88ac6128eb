include { argumentList ; quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

// One batch of a dataset in halves that are called batches, between which there is no batch effect
process HALVE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor('halve', '3 GB', dataset, [], task) }
    time { timeFor('halve', '4 h', 1, dataset, task) }

    input:
    tuple val(meta), path(dataset), val(options)

    output:
    tuple val(meta), path('halves/*.null.*.h5ad'), emit: datasets
    tuple val(task.process), eval('halve --version'), topic: 'versions'

    script:
    def arguments = [dataset] + argumentList(options) + ['--threads', task.cpus, '-o', 'halves']
    """
    halve ${arguments.collect { argument -> quote(argument) }.join(' ')}
    """

    stub:
    """
    mkdir halves
    touch halves/${dataset.baseName}.null.again.h5ad halves/${dataset.baseName}.null.random.h5ad halves/${dataset.baseName}.null.unlike.h5ad
    """
}

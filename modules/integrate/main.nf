include { argumentList ; quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

// One file to go on with: the dataset, every method's embedding, neighbours, UMAP and clusters of the chosen one
process INTEGRATE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor('integrate', '3 GB', dataset, [], task) }
    time { timeFor('integrate', '4 h', 1, dataset, task) }

    input:
    tuple val(meta), path(dataset), path(fits), path(scores), path(cards), val(options)

    output:
    tuple val(meta), path('*.integrated.h5ad'), emit: integrated
    tuple val(meta), path('*.integrated.zarr'), emit: store, optional: true
    tuple val(meta), path('choice.json'), emit: choice
    tuple val(task.process), eval('integrate --version'), topic: 'versions'

    script:
    // no dataset has a dot in its name: the input and the output cannot have the same one
    def name = "${dataset.baseName}.integrated"
    def given = options.findAll { key, _value -> key != 'zarr' } + [zarr: options.zarr ? "${name}.zarr" : null]
    def arguments = [dataset, fits, '--scores', scores, '--methods', cards, '--threads', task.cpus].flatten() +
        argumentList(given) + ['--notes', 'choice.json', '-o', "${name}.h5ad"]
    """
    integrate ${arguments.collect { argument -> quote(argument) }.join(' ')}
    """

    stub:
    def name = "${dataset.baseName}.integrated"
    """
    touch ${name}.h5ad
    ${options.zarr ? "mkdir ${name}.zarr" : ''}
    echo '{}' > choice.json
    """
}

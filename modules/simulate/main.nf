include { arguments } from '../arguments'

process SIMULATE {
    tag "${meta.id}"

    input:
    tuple val(meta), val(options)

    output:
    tuple val(meta), path("${meta.id}.raw.h5ad"), emit: dataset
    tuple val(task.process), eval('simulate --version'), topic: 'versions'

    script:
    """
    simulate ${arguments(options)} --threads ${task.cpus} -o ${meta.id}.raw.h5ad
    """

    stub:
    """
    touch ${meta.id}.raw.h5ad
    """
}

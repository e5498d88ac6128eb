include { arguments } from '../arguments'

process PREPROCESS {
    tag "${meta.id}"
    label 'process_medium'

    input:
    // the files that a samplesheet names are staged in the order of its rows, as staged/1/NAME, staged/2/NAME, ...
    tuple val(meta), path(source, stageAs: 'source/*'), path(samples, stageAs: 'staged/?/*'), val(options)

    output:
    tuple val(meta), path("${meta.id}.h5ad"), emit: dataset
    tuple val(meta), path("${meta.id}.notes.json"), emit: notes
    tuple val(task.process), eval('preprocess --version'), topic: 'versions'

    script:
    def staged = samples ? '--staged staged' : ''
    """
    preprocess ${source} ${staged} ${arguments(options)} --threads ${task.cpus} --notes ${meta.id}.notes.json -o ${meta.id}.h5ad
    """

    stub:
    """
    touch ${meta.id}.h5ad
    echo '{}' > ${meta.id}.notes.json
    """
}

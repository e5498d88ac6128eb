include { argumentList ; quote } from '../../functions/arguments'
include { memoryFor ; timeFor } from '../../functions/resources'

process PREPROCESS {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor('preprocess', '3 GB', sources, samples, task) }
    time { timeFor('preprocess', '4 h', 1, [sources, samples], task) }

    input:
    // names: of the datasets, one a source; the files that a samplesheet names are staged in the order of its rows, as
    // staged/1/NAME, staged/2/NAME, ...
    tuple val(meta), path(sources, stageAs: 'source/*'), path(samples, stageAs: 'staged/?/*'), val(names), val(options)

    output:
    tuple val(meta), path('*.h5ad'), emit: datasets
    tuple val(meta), path('*.notes.json'), emit: notes
    tuple val(task.process), eval('preprocess --version'), topic: 'versions'

    script:
    def staged = samples ? ['--staged', 'staged'] : []
    def jobs = [[sources].flatten(), names].transpose().collect { source, name ->
        ['preprocess', source.toString()] + staged + argumentList(options) +
            ['--threads', task.cpus, '--notes', "${name}.notes.json", '-o', "${name}.h5ad"]
    }
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(jobs))} > jobs.json
    each jobs.json
    """

    stub:
    """
    touch ${names.collect { name -> "${name}.h5ad" }.join(' ')}
    echo '{}' | tee ${names.collect { name -> "${name}.notes.json" }.join(' ')}
    """
}

include { argumentList ; quote } from '../arguments'

process SIMULATE_GROUP {
    tag "${meta.id}"
    label 'process_group'

    input:
    // datasets: list of [name:, simulate: options of its simulation]
    tuple val(meta), val(datasets), val(options)

    output:
    tuple val(meta), path('datasets/*.h5ad'), emit: datasets
    tuple val(meta), path('notes/*.json'), emit: notes
    tuple val(task.process), eval('preprocess --version'), topic: 'versions'

    script:
    def jobs = datasets.collectMany { dataset ->
        def raw = "raw/${dataset.name}.h5ad"
        [
            ['simulate'] + argumentList(dataset.simulate) + ['--threads', task.cpus, '-o', raw],
            ['preprocess', raw] + argumentList(options) +
                ['--threads', task.cpus, '--notes', "notes/${dataset.name}.json", '-o', "datasets/${dataset.name}.h5ad"],
        ]
    }
    """
    mkdir raw datasets notes
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(jobs))} > jobs.json
    each jobs.json
    rm -r raw
    """

    stub:
    """
    mkdir datasets notes
    touch ${datasets.collect { dataset -> "datasets/${dataset.name}.h5ad" }.join(' ')}
    echo '{}' | tee ${datasets.collect { dataset -> "notes/${dataset.name}.json" }.join(' ')}
    """
}

include { fitCommand ; quote } from '../arguments'

process FIT_GROUP {
    tag "${meta.id}"
    label 'process_fit'
    container "${options.image}"

    input:
    // jobs: list of [id:, dataset: name of one of the datasets, seed:], all with the same method and parameters
    tuple val(meta), path(datasets), val(program), val(method_params), val(jobs), val(options)

    output:
    tuple val(meta), path('fits/*.fit.h5ad'), emit: fits, optional: true
    tuple val(meta), path('fits/*.outcome.json'), emit: outcomes
    tuple val(task.process), eval('attempt --version'), topic: 'versions'

    script:
    def epochs = options.max_epochs ? "--max-epochs ${options.max_epochs}" : ''
    // a process each, so that one that breaks is one row, and time and memory are those of one fit
    def attempts = jobs.collect { job ->
        """\
        attempt --number ${task.attempt} -o fits/${job.id}.outcome.json -- \\
            ${fitCommand(program, meta.method)} ${job.dataset}.h5ad --params params.yml ${epochs} \\
            --seed ${job.seed} --threads ${task.cpus} -o fits/${job.id}.fit.h5ad
        """.stripIndent()
    }
    """
    mkdir fits
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(method_params))} > params.yml
    ${attempts.join('')}
    """

    stub:
    def outcome = groovy.json.JsonOutput.toJson([exit_code: 0, status: 'ok', message: null, attempts: task.attempt])
    """
    mkdir fits
    for id in ${jobs.collect { job -> job.id }.join(' ')}; do
        touch fits/\$id.fit.h5ad
        echo '${outcome}' > fits/\$id.outcome.json
    done
    """
}

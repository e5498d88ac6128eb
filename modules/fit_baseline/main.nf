include { quote } from '../arguments'

process FIT_BASELINE {
    tag "${meta.id}"
    label 'process_fit'
    container "${options.image}"

    input:
    tuple val(meta), path(dataset), val(method_params), val(options)

    output:
    tuple val(meta), path("${meta.id}.fit.h5ad"), emit: fit, optional: true
    tuple val(meta), path("${meta.id}.outcome.json"), emit: outcome
    tuple val(task.process), eval('fit-baseline --version'), topic: 'versions'

    script:
    def epochs = options.max_epochs ? "--max-epochs ${options.max_epochs}" : ''
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(method_params))} > params.yml
    attempt --number ${task.attempt} -o ${meta.id}.outcome.json -- \\
        fit-baseline ${dataset} --method ${meta.method} --params params.yml ${epochs} \\
        --seed ${meta.seed} --threads ${task.cpus} -o ${meta.id}.fit.h5ad
    """

    stub:
    """
    touch ${meta.id}.fit.h5ad
    echo '{"exit_code": 0, "status": "ok", "message": null, "attempts": ${task.attempt}}' > ${meta.id}.outcome.json
    """
}

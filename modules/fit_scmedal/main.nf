include { quote } from '../arguments'

process FIT_SCMEDAL {
    tag "${meta.id}"
    label 'process_fit'

    input:
    tuple val(meta), path(dataset), val(method_params), val(options)

    output:
    tuple val(meta), path("${meta.id}.fit.h5ad"), emit: fit, optional: true
    tuple val(meta), path("${meta.id}.model"), emit: model, optional: true
    tuple val(meta), path("${meta.id}.outcome.json"), emit: outcome
    tuple val(task.process), eval('fit-scmedal --version'), topic: 'versions'

    script:
    def epochs = options.max_epochs ? "--max-epochs ${options.max_epochs}" : ''
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(method_params))} > params.yml
    attempt --number ${task.attempt} -o ${meta.id}.outcome.json -- \\
        fit-scmedal ${dataset} --mode ${meta.method} --params params.yml ${epochs} \\
        --seed ${meta.seed} --threads ${task.cpus} --model ${meta.id}.model -o ${meta.id}.fit.h5ad
    """

    stub:
    """
    touch ${meta.id}.fit.h5ad
    mkdir ${meta.id}.model
    echo '{"exit_code": 0, "status": "ok", "message": null, "attempts": ${task.attempt}}' > ${meta.id}.outcome.json
    """
}

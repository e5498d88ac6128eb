include { quote } from '../arguments'

process FIT_SEURAT {
    tag "${meta.id}"
    label 'process_fit'
    container "${options.image}"

    input:
    tuple val(meta), path(dataset), val(method_params), val(options)

    output:
    tuple val(meta), path("${meta.id}.fit.h5ad"), emit: fit, optional: true
    tuple val(meta), path("${meta.id}.outcome.json"), emit: outcome
    tuple val(task.process), eval('fit-seurat --version'), topic: 'versions'

    script:
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(method_params))} > params.yml
    attempt --number ${task.attempt} -o ${meta.id}.outcome.json -- \\
        fit-seurat ${dataset} --params params.yml \\
        --seed ${meta.seed} --threads ${task.cpus} -o ${meta.id}.fit.h5ad
    """

    stub:
    """
    touch ${meta.id}.fit.h5ad
    echo '{"exit_code": 0, "status": "ok", "message": null, "attempts": ${task.attempt}}' > ${meta.id}.outcome.json
    """
}

include { quote } from '../../functions/arguments'
include { memoryOf ; timeFor } from '../../functions/resources'
include { gpuOptions ; resourcesOf } from '../../functions/parameters'

// Any program that fits: its name, image and resources are those of the method's card
process FIT {
    tag "${meta.id}"
    label 'process_fit'
    // a job array asks before it knows its tasks: there job and runs are null
    container { job?.image }
    containerOptions { job?.gpu ? gpuOptions(workflow.containerEngine) : '' }
    // not in job, which is hashed: with more memory on the card, -resume keeps what is done
    cpus { resourcesOf(job?.method).cpus }
    memory { memoryOf(resourcesOf(job?.method).memory, resourcesOf(job?.method).memory_per_gb, datasets, [], task) }
    // the card's is that of one fit
    time { timeFor('fit', resourcesOf(job?.method).time, (runs ?: [0]).size(), datasets, task) }

    input:
    // job: map of method:, program:, image:, params:, max_epochs:, model:, gpu:, device:
    // runs: list of [id:, dataset: name of one of the datasets, seed:]
    tuple val(meta), path(datasets), val(job), val(runs)

    output:
    tuple val(meta), path('*.fit.h5ad'), emit: fits, optional: true
    tuple val(meta), path('*.model'), emit: models, optional: true
    tuple val(meta), path('*.outcome.json'), emit: outcomes
    tuple val("${job.program}"), eval("${job.program} --version"), topic: 'versions'

    script:
    def epochs = job.max_epochs ? "--max-epochs ${job.max_epochs}" : ''
    def device = job.device && job.device != 'auto' ? "--device ${job.device}" : ''
    // a process each: one that breaks is one row, and time and memory are those of one fit
    def attempts = runs.collect { run ->
        def model = job.model ? "--model ${run.id}.model" : ''
        """\
        attempt --number ${task.attempt} -o ${run.id}.outcome.json -- \\
            ${job.program} ${run.dataset}.h5ad --method ${job.method} --params params.yml ${epochs} ${model} ${device} \\
            --seed ${run.seed} --threads ${task.cpus} -o ${run.id}.fit.h5ad
        """.stripIndent()
    }
    """
    printf '%s' ${quote(groovy.json.JsonOutput.toJson(job.params))} > params.yml
    ${attempts.join('')}
    """

    stub:
    def outcome = groovy.json.JsonOutput.toJson([exit_code: 0, status: 'ok', message: null, attempts: task.attempt])
    """
    for id in ${runs.collect { run -> run.id }.join(' ')}; do
        touch \$id.fit.h5ad
        ${job.model ? 'mkdir $id.model' : ''}
        echo '${outcome}' > \$id.outcome.json
    done
    """
}

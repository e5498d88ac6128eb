// What the profiles of clusters, clouds and containers need, asked for before any task.

// What is missing for the profiles of this run, one sentence each; an empty list when nothing is
def placeErrors(given, profile, work, project) {
    def profiles = profile.toString().tokenize(',')*.trim()
    def needed = [
        slurm: [queue: 'the partition that takes the jobs (sinfo lists them)'],
        awsbatch: [queue: 'the queue that takes the jobs', aws_region: 'its region, such as eu-west-1'],
        'google-batch': [google_project: 'the project that pays', google_location: 'the region of its machines, such as europe-west4'],
        k8s: [k8s_claim: 'the claim of a volume with pipeline, data, work folder and results'],
    ]
    def missing = needed
        .findAll { name, _parameters -> profiles.contains(name) }
        .collectMany { name, parameters ->
            parameters
                .findAll { parameter, _what -> !given[parameter] }
                .collect { parameter, what -> "--${parameter}: missing; -profile ${name} needs ${what}" }
        }
    def arrays = given.array_size > 1 && !profiles.contains('slurm')
        ? ["--array_size: found ${given.array_size}, but only -profile slurm submits job arrays; leave it out"]
        : []
    (missing + arrays + workErrors(given, profiles, work, project) + imageErrors(given, profiles)).collect { message -> message.toString() }
}

// Whether results and work can be written to their folders, one sentence each
def folderErrors(outdir, work) {
    [['--outdir', outdir], ['-work-dir', work]]
        .collect { option, place -> folderError(option, place.toString()) }
        .findAll { message -> message != null }
}

def folderError(option, place) {
    def bucket = place.contains('://')
    def name = bucket ? place : file(place, glob: false).toAbsolutePath()
    try {
        def folder = file(place, glob: false)
        if (bucket) {
            tryBucket(folder.resolve(".unbatch-${UUID.randomUUID()}".toString()))
            return null
        }
        java.nio.file.Files.createDirectories(folder)
        java.nio.file.Files.delete(java.nio.file.Files.createTempFile(folder, '.unbatch', null))
        null
    }
    catch (Exception problem) {
        def permission = problem instanceof java.nio.file.AccessDeniedException
        def taken = problem instanceof java.nio.file.FileAlreadyExistsException
        def cause = "${org.codehaus.groovy.runtime.StackTraceUtils.extractRootCause(problem).message}"
        // without the path before it, or the number of the request after it
        def said = bucket ? cause.replaceFirst(/ \(Service: .*/, '') : cause.replaceFirst(/^.*: /, '')
        def reason = permission ? 'Permission denied' : taken ? 'it is a file' : said
        "${option}: ${name}: cannot be written to (${reason}); name a folder that takes files".toString()
    }
}

def tryBucket(probe) {
    probe.text = 'unbatch'
    try {
        java.nio.file.Files.delete(probe)
    }
    catch (Exception problem) {
        // whoever may write to a bucket may not always delete there
        log.debug("${probe} stays: ${problem.message}")
    }
}

// Which folders of a run that failed are on a full disk, one sentence each: Nextflow does not say why it cannot publish a
// file, and buckets have no end
def fullFolders(outdir, work) {
    def least = 100
    [['--outdir', outdir], ['-work-dir', work]]
        .findAll { _option, place -> !place.toString().contains('://') }
        .collect { option, place -> [option, place, file(place, glob: false).toFile().usableSpace.intdiv(1000000)] }
        .findAll { _option, _place, free -> free < least }
        .collect { option, place, free ->
            "${option}: ${place}: ${free} MB are free there, expected ${least} MB or more; make room or name another folder".toString()
        }
}

// Whether machines of the profile can reach the work folder; pods also run the pipeline's programs from its folder, and
// read what is collected in the results
def workErrors(given, profiles, work, project) {
    def buckets = [awsbatch: 's3://', 'google-batch': 'gs://']
        .findAll { name, scheme -> profiles.contains(name) && !work.startsWith(scheme) }
        .collect { name, scheme -> "-work-dir: found ${work}; -profile ${name} needs a folder of a bucket, as in -work-dir ${scheme}BUCKET/work" }
    def claim = given.k8s_mount.toString()
    if (!profiles.contains('k8s')) {
        return buckets
    }
    if (!claim.startsWith('/')) {
        return buckets + ["--k8s_mount: found '${claim}', expected an absolute path, such as /workspace"]
    }
    def elsewhere = [['-work-dir', work, 'a folder'], ['--outdir', given.outdir, 'a folder'], ['--input', given.input, 'it'], ['pipeline', project, 'it']]
        .findAll { name, place, _what -> place && (name in ['-work-dir', 'pipeline'] || !place.toString().contains('://')) }
        .findAll { _name, folder, _what -> !file(folder, glob: false).toAbsolutePath().startsWith(file(claim)) }
        .collect { name, folder, what -> "${name}: found ${folder}; -profile k8s needs ${what} on the claim, below --k8s_mount ${claim}" }
    buckets + elsewhere
}

// Whether the engine or the cloud of the profile can find the image
def imageErrors(given, profiles) {
    def image = given.container.toString()
    def clouds = ['awsbatch', 'google-batch'].findAll { name -> profiles.contains(name) && !image.contains('/') }
    def engines = ['apptainer', 'singularity'].findAll { name ->
        profiles.contains(name) && !image.contains('://') && !(image ==~ /[^\/]+\.[^\/]+\/.+/) && !file(image, glob: false).exists()
    }
    clouds.collect { name -> "--container: found ${image}; -profile ${name} needs an image with its registry, as in REGISTRY/unbatch:VERSION" } +
        engines.collect { name ->
            "--container: found ${image}; -profile ${name} needs a file that is there, such as unbatch.sif, or an image with its registry (docs/platforms.md)"
        }
}

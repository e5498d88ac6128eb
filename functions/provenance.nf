// What a run leaves about itself: its parameters, and an RO-Crate that names workflow, inputs with checksums and results.

def sha256(source) {
    def digest = java.security.MessageDigest.getInstance('SHA-256')
    // in parts, as inputs have gigabytes
    source.withInputStream { stream -> stream.eachByte(1048576) { buffer, count -> digest.update(buffer, 0, count) } }
    digest.digest().encodeHex().toString()
}

def filesBelow(folder) {
    java.nio.file.Files.walk(folder).filter { one -> java.nio.file.Files.isRegularFile(one) }.toList().toSorted { one -> one.toString() }
}

// The files that a run reads, those of a folder one by one
def inputFiles(point) {
    ((point.source ? [point.source] : []) + (point.samples ?: [])).collectMany { source ->
        source.isDirectory() ? filesBelow(source.toRealPath()) : [source]
    }
}

// Parameters that name files
def fileParameters() {
    ['input', 'outdir', 'method_params', 'sweep', 'container']
}

// The parameters as they are published: those that are set, and files below the folder of the launch by their place in it,
// as they can be given again there; other files as they were given
def statedParameters(given, launch) {
    def below = "${launch}/".toString()
    given
        .findAll { name, value -> value != null && name != 'help' && !name.contains('-') }
        .collectEntries { name, value ->
            def text = value.toString()
            [name, name in fileParameters() && text.startsWith(below) && text != below ? text.drop(below.length()) : value]
        }
}

// Parameters as they can be given again: -params-file params.json
def writeParameters(stated, outdir) {
    def folder = file("${outdir}/pipeline_info", glob: false)
    folder.mkdirs()
    folder.resolve('params.json').text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(stated)) + '\n'
}

// Names of images as they are stated in what is published, each once
def imageNames(images, launch) {
    images.collect { name -> statedParameters([container: name], launch).container }.unique()
}

// The images of a run, by name and digest: [[name:, digest:], ...], none without an engine. A name can state its digest; of
// others it is that of the image on this machine, where the tasks ran here: elsewhere the same name may be another image
def imagesOf(engine, names, local) {
    (engine ? names : []).collect { name ->
        def stated = name =~ /@(sha256:[0-9a-f]{64})$/
        [name: name, digest: stated.find() ? stated.group(1) : local ? inspected(engine, name) : null]
    }
}

// What an engine says of an image of this machine: its digest in a registry, or that of its configuration; null otherwise
def inspected(engine, name) {
    if (!(engine in ['docker', 'podman'])) {
        return null
    }
    try {
        def asked = [engine, 'image', 'inspect', '--format', '{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}', name]
        def process = asked.execute()
        def answer = new StringBuilder()
        process.consumeProcessOutput(answer, new StringBuilder())
        process.waitForOrKill(10000)
        def found = answer =~ /(sha256:)?([0-9a-f]{64})/
        found.find() ? "sha256:${found.group(2)}".toString() : null
    }
    catch (java.io.IOException _problem) {
        null
    }
}

def writeImages(engine, images, outdir) {
    def text = groovy.json.JsonOutput.toJson([engine: engine, images: images])
    file("${outdir}/pipeline_info/containers.json", glob: false).text = groovy.json.JsonOutput.prettyPrint(text) + '\n'
}

def references(things) {
    things.collect { thing -> ['@id': thing['@id']] }
}

def imageText(image) {
    "${image.name.replaceFirst(/^\/.*\//, '')}${image.digest && !image.name.contains('@') ? ' (' + image.digest + ')' : ''}".toString()
}

// The crate, as a map; names of files are below the folder of the results, or without folders those of inputs: nothing says
// where on a machine they were
def crate(about, inputs, results, images, when) {
    def sources = inputs.withIndex().collect { one, number ->
        ['@id': "#input-${number + 1}".toString(), '@type': 'File', name: one.name, sha256: one.sha256, contentSize: one.bytes.toString()]
    }
    def written = results.collect { one ->
        def address = java.net.URLEncoder.encode(one.name, 'UTF-8').replace('+', '%20').replace('%2F', '/')
        ['@id': address, '@type': 'File', name: one.name, contentSize: one.bytes.toString()]
    }
    def settings = about.parameters
        .findAll { name, _value -> !(name in ['input', 'outdir', 'custom_config_base']) }
        .collect { name, value ->
            def text = name in fileParameters() ? value.toString().replaceFirst(/^\/.*\//, '') : value.toString()
            ['@id': "#parameter-${name}".toString(), '@type': 'PropertyValue', name: name, value: text]
        }
    [
        '@context': 'https://w3id.org/ro/crate/1.1/context',
        '@graph': [
            ['@id': 'ro-crate-metadata.json', '@type': 'CreativeWork', conformsTo: ['@id': 'https://w3id.org/ro/crate/1.1'], about: ['@id': './']],
            [
                '@id': './',
                '@type': 'Dataset',
                name: 'Results of unbatch',
                description: "What unbatch ${about.version} found".toString(),
                datePublished: when,
                license: 'no licence is stated; that of the inputs holds',
                hasPart: references(written),
                mentions: ['@id': '#run'],
            ],
            [
                '@id': '#run',
                '@type': 'CreateAction',
                name: 'Run of unbatch',
                endTime: when,
                instrument: ['@id': '#unbatch'],
                object: references(sources) + references(settings),
                result: references(written),
            ],
            [
                '@id': '#unbatch',
                '@type': 'SoftwareApplication',
                name: 'unbatch',
                version: about.version,
                identifier: about.revision ?: about.code,
                softwareRequirements: (["Nextflow ${about.nextflow}".toString()] + images.collect { image -> imageText(image) }).join(', '),
            ],
        ] + sources + settings + written,
    ]
}

// Written at the end, when all is published
def writeCrate(about, point, images, outdir) {
    def folder = file(outdir, glob: false)
    def inputs = inputFiles(point).collect { source -> [name: source.name, sha256: sha256(source), bytes: source.size()] }
    // the folders by name: outdir may hold the work folder, too
    def results = ['integrated.h5ad', 'integrated.zarr', 'multiqc', 'scores', 'fits', 'models', 'dataset', 'simulated']
        .collect { name -> folder.resolve(name) }
        .findAll { one -> one.exists() }
        .collectMany { one -> filesBelow(one) }
        .collect { one -> [name: folder.relativize(one).toString(), bytes: one.size()] }
    def text = groovy.json.JsonOutput.toJson(crate(about, inputs, results, images, java.time.Instant.now().toString()))
    folder.resolve('ro-crate-metadata.json').text = groovy.json.JsonOutput.prettyPrint(text) + '\n'
}

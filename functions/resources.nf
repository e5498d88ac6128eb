// What tasks ask for, by the size of their data: docs/platforms.md says how it was measured.

// In addition to what a step needs for itself: times the bytes of the largest of its files. That of a fit is its card's
def memoryFactors() {
    [simulate: 0, preprocess: 14, score: 4, integrate: 9, halve: 8, calibrate: 8, report: 6, multiqc: 0]
}

// Bytes of a file, or of all files of a folder
def bytesOf(path) {
    if (!path.isDirectory()) {
        return path.size()
    }
    java.nio.file.Files.walk(path.toRealPath()).filter { one -> java.nio.file.Files.isRegularFile(one) }.toList().sum { one -> one.size() } ?: 0
}

// In addition to what a step needs for itself: hours for each GB of its files
def hoursForGigabyte() {
    [preprocess: 4, fit: 24, score: 8, integrate: 8, halve: 8, calibrate: 8, report: 8]
}

def bytesOfAll(files) {
    ([files].flatten() - null).collect { file -> bytesOf(file) }
}

def memoryFor(step, base, files, samples, task) {
    memoryOf(base, memoryFactors()[step], files, samples, task)
}

// Memory that a task asks for. Files are datasets of one after the other, samples are read together. A task of this machine
// asks for no more than there is, as it would not be run at all
def memoryOf(base, factor, files, samples, task) {
    def data = factor * ((bytesOfAll(files).max() ?: 0) + (bytesOfAll(samples).sum() ?: 0))
    def wanted = ((base as nextflow.util.MemoryUnit).toBytes() + data) * (task.attempt ?: 1)
    def there = nextflow.util.SysHelper.getAvailMemory().toBytes()
    new nextflow.util.MemoryUnit((task.executor in [null, 'local'] ? [wanted, there].min() : wanted) as long)
}

// Time that a task asks for: its own, so many times as it does its work, and that of all its files
def timeFor(step, base, times, files, task) {
    def own = (base as nextflow.util.Duration).toMillis() * times
    def data = hoursForGigabyte()[step] * (bytesOfAll(files).sum() ?: 0) / 1e9 * 3600000
    new nextflow.util.Duration(((own + data) * (task.attempt ?: 1)) as long)
}

def gigabytes(base, factor, bytes) {
    String.format(java.util.Locale.ROOT, '%.1f', ((base as nextflow.util.MemoryUnit).toBytes() + factor * bytes) / 1024 ** 3)
}

// What the steps will ask for at their first try, in a sentence. A dataset is about three times the file it is made of; of
// data yet to be simulated only the least is known
def resourcesText(point, fits, most) {
    def raw = ((point.source ? [point.source] : []) + point.samples).collect { file -> bytesOf(file) }.sum() ?: 0
    def asked = fits.collect { fit -> gigabytes(fit.memory, fit.memory_per_gb, 3 * raw).toDouble() }
    def least = point.simulate ? 'at least' : 'about'
    "Tasks ask for ${least} ${gigabytes('3 GB', memoryFactors().preprocess, raw)} GB (preprocess), ${asked.toSet().sort().with { each -> each.size() > 1 ? "${each.first()} to ${each.last()}" : each.first() }} GB (fits) and " +
        "${gigabytes('3 GB', memoryFactors().score, 3 * raw)} GB (score) at first, never above --max_memory ${most}"
}

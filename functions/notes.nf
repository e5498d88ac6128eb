// What preprocess has to say about the data, and integrate about its choice, for the terminal.

// Warnings, what is left of the data and which method is chosen; of a task that is cached, too
def showNotes(name, file) {
    def found = readNotes(file)
    found.findAll { note -> note.severity == 'warning' }.each { note -> log.warn(visible("${name}: ${note.text}")) }
    found.findAll { note -> note.severity == 'info' && note.code in ['kept', 'chosen'] }.each { note -> log.info(visible("${name}: ${note.text}")) }
}

// End the run before the fits where a parameter names a column that the cells do not have
def requireColumns(files, wanted) {
    def absent = absentColumns(files, wanted)
    if (absent) {
        error(visible(absent.join('; ')))
    }
}

// wanted: parameter -> names of columns, separated by commas; files of notes, of which those of a stub name no columns
def absentColumns(files, wanted) {
    def known = files.collect { file -> new groovy.json.JsonSlurper().parseText(file.text).columns }.findAll { columns -> columns != null }
    wanted.collectMany { option, text ->
        def names = (text ?: '').toString().tokenize(',').collect { name -> name.trim() }.findAll { name -> name }
        known
            .collectMany { columns ->
                (names - columns).collect { name -> "--${option}: the cells have no column '${name}', found ${columns.join(', ')}".toString() }
            }
            .unique()
    }
}

// Show the warnings of the fits in files of scores
def showFitNotes(files) {
    fitNotes(files).each { line -> log.warn(visible(line)) }
}

// Each warning once, with the methods and the number of fits that it is about; of those that differ in numbers alone the first
def fitNotes(files) {
    files
        // those of a stub are empty
        .collectMany { file -> new groovy.json.JsonSlurper().parseText(file.text ?: '{}').rows ?: [] }
        .collectMany { row -> (row.notes ?: []).findAll { note -> note.severity == 'warning' }.collect { note -> note + [method: row.method] } }
        .groupBy { note -> note.code == 'warning' ? note.text : note.code }
        .collect { _key, notes ->
            def methods = notes.collect { note -> note.method }.unique().join(', ')
            "${methods} (${notes.size()} fit${notes.size() == 1 ? '' : 's'}): ${notes[0].text}".toString()
        }
}

// Of many datasets: every kind of warning once
def showCommonNotes(files) {
    files
        .collectMany { file -> readNotes(file).findAll { note -> note.severity == 'warning' }.unique { note -> note.code } }
        .groupBy { note -> note.code }
        .each { _code, notes -> log.warn(visible("${notes.size()} of ${files.size()} datasets, such as: ${notes[0].text}")) }
}

def readNotes(file) {
    new groovy.json.JsonSlurper().parseText(file.text).notes ?: []
}

// Without what could move the terminal's cursor, turn the direction of the text or forge a line
def visible(text) {
    text.toString().replaceAll('[\\p{C}\\p{Zl}\\p{Zp}]', '?')
}

// What preprocess has to say about the data, and integrate about its choice, for the terminal.

// Warnings, what is left of the data and which method is chosen; of a task that is cached, too
def showNotes(name, file) {
    def found = readNotes(file)
    found.findAll { note -> note.severity == 'warning' }.each { note -> log.warn(visible("${name}: ${note.text}")) }
    found.findAll { note -> note.severity == 'info' && note.code in ['kept', 'chosen'] }.each { note -> log.info(visible("${name}: ${note.text}")) }
}

// End the run before the fits where a parameter names a column that the cells do not have
def requireColumns(files, wanted) {
    def absent = wanted.collectMany { option, names ->
        def given = (names ?: '').toString().tokenize(',').collect { name -> name.trim() }.findAll { name -> name }
        files
            .collect { file -> new groovy.json.JsonSlurper().parseText(file.text).columns }
            // those of a stub are not known
            .findAll { columns -> columns != null }
            .collectMany { columns -> given.findAll { name -> !columns.contains(name) }.collect { name -> "--${option}: the cells have no column '${name}', found ${columns.join(', ')}" } }
            .unique()
    }
    if (absent) {
        error(visible(absent.join('; ')))
    }
}

// Warnings of fits, each once with the methods that it is about
def showFitNotes(files) {
    files
        .collectMany { file -> new groovy.json.JsonSlurper().parseText(file.text).rows ?: [] }
        .collectMany { row -> (row.notes ?: []).findAll { note -> note.severity == 'warning' }.collect { note -> [method: row.method, code: note.code, text: note.text] } }
        .groupBy { note -> [note.method, note.code == 'warning' ? note.text : note.code] }
        .values()
        .groupBy { notes -> notes[0].text }
        .each { text, groups ->
            def fits = groups.sum { notes -> notes.size() }
            log.warn(visible("${groups.collect { notes -> notes[0].method }.unique().join(', ')} (${fits} fit${fits == 1 ? '' : 's'}): ${text}"))
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

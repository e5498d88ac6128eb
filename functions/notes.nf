// What preprocess has to say about the data, and integrate about its choice, for the terminal.

// Warnings, what is left of the data and which method is chosen; of a task that is cached, too
def showNotes(name, file) {
    def found = readNotes(file)
    found.findAll { note -> note.severity == 'warning' }.each { note -> log.warn(visible("${name}: ${note.text}")) }
    found.findAll { note -> note.severity == 'info' && note.code in ['kept', 'chosen'] }.each { note -> log.info(visible("${name}: ${note.text}")) }
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

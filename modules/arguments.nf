// Turn a map of options into the arguments of a program. Values come from users and files: always quoted.

def quote(value) {
    "'" + value.toString().replace("'", "'\\''") + "'"
}

def arguments(options) {
    argumentList(options).collect { argument -> quote(argument) }.join(' ')
}

// The same, not quoted: for a list that no shell reads
def argumentList(options) {
    options
        .findAll { _name, value -> value != null && value != false }
        .collectMany { name, value ->
            def option = '--' + name.replace('_', '-')
            value == true ? [option] : [option, value.toString()]
        }
}

// The program that fits a method, with the option that names the method to it; null when it is not known
def fitCommand(program, method) {
    [
        'fit-baseline': "fit-baseline --method ${quote(method)}",
        'fit-batchblend': "fit-batchblend --mode ${quote(method)}",
        'fit-seurat': 'fit-seurat',
        'fit-scmedal': "fit-scmedal --mode ${quote(method)}",
    ][program]
}

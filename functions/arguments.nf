// Turn a map of options into the arguments of a program. Values come from users and files: always quoted.

def quote(value) {
    "'" + value.toString().replace("'", "'\\''") + "'"
}

// Not quoted: for a list that no shell reads
def argumentList(options) {
    options
        .findAll { _name, value -> value != null && value != false }
        .collectMany { name, value ->
            def option = '--' + name.replace('_', '-')
            value == true ? [option] : [option, value.toString()]
        }
}

// Turn a map of options into the arguments of a program. Values come from users and files: always quoted.

def quote(value) {
    "'" + value.toString().replace("'", "'\\''") + "'"
}

def arguments(options) {
    options
        .findAll { _name, value -> value != null && value != false }
        .collect { name, value ->
            def option = '--' + name.replace('_', '-')
            value == true ? option : "${option} ${quote(value)}"
        }
        .join(' ')
}

"""What can go wrong on the user's side, and the exit code that says so."""


class UnbatchError(Exception):
    """A problem that one sentence explains; programs print it without a traceback."""

    exit_code = 1


class InputError(UnbatchError):
    """Wrong usage or input: the sentence names the file and field, what was found and what would be right."""

    exit_code = 2


class NotApplicable(UnbatchError):
    """The method cannot say anything about this data (no coordinates, no labels, one batch)."""

    exit_code = 99

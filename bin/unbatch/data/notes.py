"""What a step has to say about the data: to the log at once, and kept for the terminal and the report."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unbatch.text import safe_text

log = logging.getLogger("unbatch")

Severity = Literal["warning", "info"]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know.

    Attributes
    ----------
    code
        What it is about, for programs; the same whatever the wording.
    severity
        ``warning`` if a result may be wrong or weaker than it looks, else ``info``.
    text
        A sentence without control characters. Names in it are those of the data: to be escaped in HTML.
    numbers
        What the sentence counts, by name; values are those that JSON has.
    """

    code: str
    severity: Severity
    text: str
    numbers: dict[str, Any]


class Notes:
    """Collects notes, and logs each: a warning as one, the others at INFO."""

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def __iter__(self) -> Iterator[Note]:
        """Warnings first, each kind in the order in which they came."""
        return iter(sorted(self._notes, key=lambda note: note.severity != "warning"))

    def warn(self, code: str, text: str, **numbers: Any) -> None:
        """Keep and log what the user must know."""
        self._add(Note(code, "warning", safe_text(text), numbers))

    def tell(self, code: str, text: str, **numbers: Any) -> None:
        """Keep and log what is good to know."""
        self._add(Note(code, "info", safe_text(text), numbers))

    def _add(self, note: Note) -> None:
        log.log(logging.WARNING if note.severity == "warning" else logging.INFO, "%s", note.text)
        self._notes.append(note)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the notes as JSON has them."""
        return [asdict(note) for note in self]


class _Listener(logging.Handler):
    """Keeps every warning as a note, each text once."""

    def __init__(self, prefix: str) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[Note] = []
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        text = safe_text(record.getMessage().removeprefix(self._prefix))
        if all(note.text != text for note in self.notes):
            self.notes.append(Note(str(getattr(record, "code", "warning")), "warning", text, {}))


@contextmanager
def logged_warnings(source: str) -> Iterator[list[Note]]:
    """Collect what is logged as a warning in the block, as notes; the log has it all the same.

    A warning has the code that the call gives it (``extra={"code": "few-spots"}``), else ``"warning"``.

    Parameters
    ----------
    source
        Name of the data, with which messages may begin; the notes go without it.
    """
    listener = _Listener(f"{source}: ")
    log.addHandler(listener)
    try:
        yield listener.notes
    finally:
        log.removeHandler(listener)


def notes_text(notes: list[Note]) -> str:
    """Write notes as a file holds them, for `read_notes`."""
    return json.dumps([asdict(note) for note in notes], ensure_ascii=False)


def read_notes(text: str) -> list[Note]:
    """Read the notes of a dataset or a fit (``uns['unbatch']['notes']``); anything else in the text is ignored."""
    try:
        rows = json.loads(text)
    except ValueError:
        return []
    wanted = {"code": str, "severity": str, "text": str, "numbers": dict}
    return [
        Note(**{name: row[name] for name in wanted})
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in wanted.items())
    ]

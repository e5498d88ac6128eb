"""What a step has to say about the data: to the log at once, and kept for the terminal and the report."""

import json
import logging
from collections.abc import Iterator
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


def read_notes(text: str) -> list[Note]:
    """Read the notes that a dataset holds (``uns['unbatch']['notes']``); what is none of them is left out."""
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

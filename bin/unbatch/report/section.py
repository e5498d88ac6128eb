"""Sections of the report about the fits of one method; its file declares them (``sections`` of ``methods/NAME.py``)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbatch.report.inputs import Cells
    from unbatch.report.scores import Entry


@dataclass(frozen=True)
class Sections:
    """What the report shows of the fits of a method.

    Attributes
    ----------
    read
        Reads a fit: its file, that of its dataset, and the cells; None of a fit that has nothing to show.
    pages
        Makes the pages of what was read (`unbatch.report.page.make_page`).
    parts
        Parts of the report that only this method has: title and one sentence by key, in the order of the page. Pages
        may also belong to the parts of `unbatch.report.page`.
    omitted
        What is not shown of fits that are too many, for the warnings.
    most, most_in_all
        Fits that are shown of a dataset and of all datasets, the best-ranked ones.
    warnings
        Sentences on what was read that belong to the warnings; is also given the labels that occur in one batch only.
    """

    read: "Callable[[Path, Path, Cells], Any | None]"
    pages: "Callable[[Any, Shown], list[dict[str, Any]]]"
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    omitted: str = "Fits whose own sections are not shown"
    most: int = 3
    most_in_all: int = 6
    warnings: Callable[[Any, list[tuple[str, str, int]]], list[str]] = lambda _fit, _confined: []


@dataclass(frozen=True)
class Shown:
    """Where the pages of a fit belong.

    Attributes
    ----------
    cells
        The cells of the dataset.
    name
        What stands before the titles of the pages: dataset, if there are several, and method.
    suffix
        What tells the files of the pages from those of other fits.
    seed
        Seed of drawing orders.
    evidence
        Whether the dataset was probed for the batch.
    """

    cells: "Cells"
    name: str
    suffix: str
    seed: int = 0
    evidence: bool = False


@dataclass(frozen=True)
class FitShown:
    """A fit that is shown: its entry in the table, what was read of it, and the sections of its method."""

    entry: "Entry"
    fit: Any
    sections: Sections


@dataclass
class Budget:
    """How many fits were shown so far, by what they would be missed for."""

    shown: dict[str, int] = field(default_factory=dict)

    def left(self, sections: Sections) -> int:
        """Fits of a method that may still be shown of the next dataset."""
        return max(min(sections.most, sections.most_in_all - self.shown.get(sections.omitted, 0)), 0)

    def take(self, sections: Sections) -> None:
        """Count a fit as shown."""
        self.shown[sections.omitted] = self.shown.get(sections.omitted, 0) + 1

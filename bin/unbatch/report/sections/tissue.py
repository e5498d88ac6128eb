"""Tissue maps: labels, and the first principal components of each embedding as colours."""

from collections.abc import Iterator

import numpy as np

from unbatch.report import draw, embedding
from unbatch.report.context import View
from unbatch.report.read import FitFile
from unbatch.report.scores import UNCORRECTED, Entry
from unbatch.report.section import MAX_TISSUES, Page, Section, render
from unbatch.report.sections.embeddings import place
from unbatch.text import some

MAX_COLOURED = 4
"""Methods whose embedding is drawn as colour, and sections for each of them."""


def _coloured(view: View) -> list[Entry]:
    """Choose the methods to draw: the best and None side by side, then the next."""
    found = [entry for entry in view.entries if entry.kind != "control"][: MAX_COLOURED - 1]
    found[1:1] = [entry for entry in view.entries if entry.shows == UNCORRECTED]
    return found


def _take(view: View, entry: Entry, fit: FitFile) -> np.ndarray | None:
    wanted = view.cells.positions is not None and entry in _coloured(view)
    return embedding.component_colours(fit.embedding) if wanted else None


def _pages(view: View) -> Iterator[Page]:
    if view.dataset is None or view.cells.positions is None:
        return
    cells = view.cells
    batches = cells.batches_of_sections()
    sections = embedding.sections(cells.positions, batches, cells.section, MAX_TISSUES)
    dots = draw.section_colours(cells.batches, batches)
    about = {"directions": sections.directions, "shown": len(sections.shown), "all": len(cells.sections)}

    def panel(code: int, colours: np.ndarray, by: str, note: str = "", **more: np.ndarray | int) -> dict[str, str]:
        members = sections.members[code]
        return {
            "title": cells.sections[code],
            "note": note,
            "colour": dots[code],
            "image": draw.tissue(sections.positions[members], colours[members], sections.extent, **more),
            "alt": f"Tissue map of section {cells.sections[code]}, cells coloured by {by}",
        }

    if cells.label is not None:
        legend = draw.legend(cells.labels, numbered=len(cells.labels) > len(draw.OKABE_ITO))
        table = draw.palette(legend)
        panels = [
            panel(
                code,
                table[cells.label],
                "label",
                _note(view, batches[code], code, len(sections.members[code])),
                known=table,
            )
            for code in sections.shown
        ]
        missing = "unlabelled" if (cells.label < 0).any() else None
        parts = [{"title": "", "note": "", "panels": panels}]
        content = render("sections/tissue", legend=legend, missing=missing, parts=parts, **about)
        yield Page("By label", content, "label")
    taken = dict(view.taken[SECTION])
    if taken:
        parts = [
            {
                "title": entry.label,
                "note": place(entry),
                "panels": [
                    panel(code, taken[entry], f"their place in the embedding of {entry.label}", pixels=400)
                    for code in sections.first(MAX_COLOURED)
                ],
            }
            for entry in _coloured(view)
        ]
        yield Page("Embedding as colour", render("sections/tissue", legend=None, parts=parts, **about), "colour")


def _note(view: View, batches: list[int], code: int, size: int) -> str:
    """Name the batches of a section, where they have another name, and count its cells."""
    names = [view.cells.batches[batch] for batch in batches]
    listed = "" if names == [view.cells.sections[code]] else f"{some(names, 3)}; "
    return f"{listed}{size:,} cells"


SECTION = Section(
    "tissue",
    "Tissue maps",
    "Whether an embedding follows the anatomy, and in the same way in every section.",
    each=_pages,
    take=_take,
)

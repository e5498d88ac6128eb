"""UMAPs of the embeddings by batch, label and any other columns, and of second embeddings next to the first."""

from collections.abc import Iterator

import numpy as np
from joblib import Parallel, delayed

from unbatch.report import draw, embedding
from unbatch.report.context import Report, View
from unbatch.report.read import Colours, FitFile
from unbatch.report.scores import Entry
from unbatch.report.section import Page, Section, render
from unbatch.report.text import cut, short

MOST_SECOND = 3
"""Fits of a dataset whose second embedding is drawn with the first."""


def _take(view: View, _entry: Entry, fit: FitFile) -> list[np.ndarray]:
    """Take the chosen cells of the embedding, and of a second one where there are not too many of these."""
    second = fit.second if sum(len(each) - 1 for _, each in view.taken[SECTION]) < MOST_SECOND else None
    return [values[view.chosen] for values in (fit.embedding, second) if values is not None]


def _pages(view: View) -> Iterator[Page]:
    taken = view.taken[SECTION]
    if not taken:
        return
    layouts = iter(_lay_out([values for _, several in taken for values in several], view.report))
    placed = [(entry, [next(layouts) for _ in several]) for entry, several in taken]
    every = [(entry.label, place(entry), first) for entry, (first, *_) in placed]
    # the rank is that of the first embedding alone
    both = [
        (f"{entry.label}: {effect}", f"seed {entry.compared[0]['seed']}", layout)
        for entry, pair in placed
        if len(pair) > 1
        for effect, layout in zip(("fixed", "random"), pair, strict=True)
    ]
    cells = view.cells
    by = [Colours("batch", cells.batches, cells.batch)]
    by += [Colours("label", cells.labels, cells.label)] if cells.label is not None else []
    for panels, title, key in ((every, "By", ""), (both, "Fixed and random effects, by", "effects_")):
        if panels:
            yield from (_page(view, colours, colours.title, panels, title, key) for colours in by)
    for number, name in enumerate(view.report.colour_by):
        if name not in view.undrawn:
            yield _page(view, view.dataset.colours(name), f"column_{number}", every, "By")


def _page(
    view: View, colours: Colours, what: str, panels: list[tuple[str, str, np.ndarray]], title: str, key: str = ""
) -> Page:
    """Draw every embedding with cells in the same colours; `what` is batch, label or the key of a column."""
    if colours.values is not None:
        values = colours.values[view.chosen]
        known = values[np.isfinite(values)]
        limits = tuple(np.percentile(known, [1, 99])) if len(known) else (0.0, 0.0)
        more = {"legend": None, "limits": [short(end) for end in limits], "missing": len(known) < len(values)}
        images = [draw.measured(layout, values, limits, view.report.seed) for _, _, layout in panels]
    else:
        codes = colours.codes[view.chosen]
        numbered = what != "batch" and len(colours.names) > len(draw.OKABE_ITO)
        legend = draw.legend(colours.names, numbered)
        none = "unlabelled" if what == "label" else "no value"
        more = {"legend": legend, "limits": None, "missing": none if (codes < 0).any() else None}
        images = [draw.cells(layout, codes, legend, view.report.seed) for _, _, layout in panels]
    content = render(
        "sections/embeddings",
        what=what,
        effects=bool(key),
        shown=len(view.chosen),
        all=len(view.cells.names),
        panels=[
            {"title": name, "note": note, "image": image, "alt": f"UMAP of {name}, cells coloured by {colours.title}"}
            for (name, note, _), image in zip(panels, images, strict=True)
        ],
        **more,
    )
    return Page(f"{title} {cut(colours.title, 60)}", content, f"{key}{what}")


def _lay_out(inputs: list[np.ndarray], report: Report) -> list[np.ndarray]:
    # every process compiles UMAP anew, some 15 s: only where the layouts take much longer
    workers = min(report.threads, len(inputs)) if sum(map(len, inputs)) >= 60_000 else 1
    return Parallel(n_jobs=max(workers, 1))(delayed(embedding.umap)(each, report.seed) for each in inputs)


def place(entry: Entry) -> str:
    """Say which rank and seed the drawn fit of a method has."""
    standing = f"rank {entry.rank}" if entry.rank else "control" if entry.kind == "control" else "not ranked"
    return f"{standing}, seed {entry.compared[0]['seed']}"


SECTION = Section(
    "umap",
    "Embeddings (UMAP)",
    "Two-dimensional layouts of the embeddings.",
    each=_pages,
    take=_take,
    most=16,
    most_in_all=48,
    omitted="Embeddings that are not drawn",
)

"""UMAPs of the embeddings, by batch and label, and of second embeddings next to the first."""

from collections.abc import Iterator

import numpy as np
from joblib import Parallel, delayed

from unbatch.report import draw, embedding
from unbatch.report.context import Report, View
from unbatch.report.read import FitFile
from unbatch.report.scores import Entry
from unbatch.report.section import Page, Section, render

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
    for panels, title, key in ((every, "By", ""), (both, "Fixed and random effects, by", "effects_")):
        for what, names, codes in (("batch", cells.batches, cells.batch), ("label", cells.labels, cells.label)):
            if not panels or codes is None:
                continue
            codes = codes[view.chosen]
            legend = draw.legend(names, numbered=what == "label" and len(names) > len(draw.OKABE_ITO))
            content = render(
                "sections/embeddings",
                what=what,
                effects=bool(key),
                shown=len(view.chosen),
                all=len(cells.names),
                legend=legend,
                missing="unlabelled" if (codes < 0).any() else None,
                panels=[
                    {
                        "title": name,
                        "note": note,
                        "image": draw.cells(layout, codes, legend, view.report.seed),
                        "alt": f"UMAP of {name}, cells coloured by {what}",
                    }
                    for name, note, layout in panels
                ],
            )
            yield Page(f"{title} {what}", content, f"{key}{what}")


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
    "What the embeddings look like.",
    each=_pages,
    take=_take,
    most=16,
    most_in_all=48,
    omitted="Embeddings that are not drawn",
)

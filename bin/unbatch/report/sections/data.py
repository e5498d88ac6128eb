"""The data: what they hold, what `preprocess` warned of and renamed, and what each sample lost."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data.notes import Note
from unbatch.report import draw
from unbatch.report.context import View
from unbatch.report.read import Cells
from unbatch.report.section import MAX_TISSUES, Page, Section, render
from unbatch.report.text import cut

OPEN_SAMPLES = 20
"""Samples, and batches, in a table before the others are folded away."""

MOST_LABELS, MOST_RENAMED = 25, 50
"""Labels with a column of their own, the most frequent ones; names in the table of those that were changed."""

_MOST_DRAWN = 5_000
"""Cells of a batch that a violin is drawn of."""

_UNLISTED = frozenset(["kept"])
"""Codes of notes that say what the table says."""


def _pages(view: View) -> Iterator[Page]:
    if view.dataset is None:
        return
    about, cells = view.dataset.about, view.cells
    if about.notes or about.losses is not None:
        yield _samples_page(view)
    yield Page("Cells by batch and label" if cells.labels else "Cells by batch", _cells_by_batch(cells), "cells")
    depth = view.dataset.depth
    if depth is not None:
        drawn = len(cells.batches[:MAX_TISSUES])
        others = len(cells.batches) - drawn
        content = render("sections/depth", image=_violins(cells, depth, view.report.seed), others=others, drawn=drawn)
        yield Page("Counts and detected genes", content, "depth")
    renamed = _renamed(about.notes)
    if renamed:
        yield Page("Names that were changed", render("sections/renamed", rows=renamed, most=MOST_RENAMED), "renamed")


def _samples_page(view: View) -> Page:
    about = view.dataset.about
    samples = [] if about.losses is None else _samples(about.losses, about.parameters)
    content = render(
        "sections/data",
        warnings=[note.text for note in about.warnings],
        remarks=[note.text for note in about.notes if note.severity != "warning" and note.code not in _UNLISTED],
        samples=samples,
        files=any(sample["file"] for sample in samples),
        places=any(sample["places"] for sample in samples),
        open=OPEN_SAMPLES,
    )
    return Page("Samples", content)


def _cells_by_batch(cells: Cells) -> str:
    """Count the cells of each batch, in each section where a batch has several or a section is of several."""
    divided = len(cells.sections) != len(cells.batches) or any(len(each) > 1 for each in cells.batches_of_sections())
    group = np.column_stack((cells.batch, cells.section if divided else np.zeros_like(cells.batch)))
    pairs, row = np.unique(group, axis=0, return_inverse=True)
    row = row.ravel()
    labels = cells.labels or []
    # the last column is of cells without a label
    code = np.zeros_like(row) if cells.label is None else np.where(cells.label < 0, len(labels), cells.label)
    table = np.zeros((len(pairs), len(labels) + 1), dtype=int)
    np.add.at(table, (row, code), 1)
    frequent = np.argsort(-table[:, : len(labels)].sum(axis=0), kind="stable")
    shown, rare = np.sort(frequent[:MOST_LABELS]), frequent[MOST_LABELS:]
    rows = []
    for (batch, section), counts in zip(pairs.tolist(), table, strict=True):
        found = [counts[label] for label in shown] + ([counts[rare].sum()] if len(rare) else [])
        found += [counts[-1]] if labels and table[:, -1].any() else []
        rows.append(
            {
                "batch": cells.batches[batch],
                "section": cells.sections[section] if divided else "",
                "cells": f"{counts.sum():,}",
                "counts": [f"{count:,}" for count in found],
            }
        )
    heads = [labels[label] for label in shown] + ([f"{len(rare):,} rarer labels"] if len(rare) else [])
    heads += ["no label"] if labels and table[:, -1].any() else []
    return render("sections/cells", rows=rows, labels=heads, divided=divided, open=OPEN_SAMPLES)


def _violins(cells: Cells, depth: tuple[np.ndarray, np.ndarray], seed: int) -> str:
    """Draw counts and detected genes of the cells of each batch."""
    rng = np.random.default_rng(seed)
    batches = range(min(len(cells.batches), MAX_TISSUES))
    mine = [np.flatnonzero(cells.batch == code) for code in batches]
    mine = [each if len(each) <= _MOST_DRAWN else rng.choice(each, _MOST_DRAWN, replace=False) for each in mine]
    colours = draw.legend(cells.batches).colours
    names = [cut(cells.batches[code], 18) for code in batches]
    with draw.figure(9.2, 0.9 + 0.42 * len(mine)) as figure:
        panels = zip(
            figure.subplots(1, 2, sharey=True), depth, ("Counts of a cell", "Detected genes of a cell"), strict=True
        )
        for axes, values, title in panels:
            for place, (code, rows) in enumerate(zip(batches, mine, strict=True)):
                found = np.log10(np.maximum(values[rows], 1e-2))
                # a density needs values that differ
                if len(np.unique(found)) > 1:
                    for body in axes.violinplot(
                        [found], [place], orientation="horizontal", widths=0.85, showextrema=False
                    )["bodies"]:
                        body.set(facecolor=colours[code], alpha=0.75)
                axes.plot(np.median(found), place, "o", color=draw.INK, markersize=4)
            axes.set(xlabel=title, yticks=list(batches), yticklabels=names, ylim=(len(mine) - 0.5, -0.5))
            axes.set_xticks([np.log10(tick) for tick in _ticks(*axes.get_xlim())])
            axes.xaxis.set_major_formatter(lambda power, _place: f"{10**power:,.{max(0, -int(np.floor(power)))}f}")
        return draw.svg(figure)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of 10, six at most where there are not more powers of 10."""
    powers = [10.0**power for power in range(int(np.floor(low)), int(np.ceil(high)) + 1)]
    fine, coarse = (
        [tick for power in powers for tick in (power * step for step in steps) if low <= np.log10(tick) <= high]
        for steps in ((1, 2, 5), (1,))
    )
    return fine if len(fine) <= 6 or len(coarse) < 2 else coarse


def _renamed(notes: list[Note]) -> list[dict[str, str]]:
    """List the names of batches, labels and sections that were changed."""
    rows = []
    for note in notes:
        renamed, cells = (note.numbers.get(key) for key in ("renamed", "cells"))
        if note.code != "names-mended" or not isinstance(renamed, dict) or not isinstance(cells, dict):
            continue
        rows += [
            {
                "what": f"{note.numbers.get('what', '')} ({note.numbers.get('column', '')})",
                "old": repr(old),
                "new": str(new),
                "cells": f"{int(cells.get(old, 0)):,}",
            }
            for old, new in renamed.items()
        ]
    return rows


def _samples(losses: pd.DataFrame, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    filters = {"min_counts": "counts", "min_genes": "genes"}
    asked = [f"fewer than {parameters[name]:g} {what}" for name, what in filters.items() if parameters.get(name)]
    rows = []
    for name, row in losses.iterrows():
        others, unshared, rare = (int(row.get(key, 0)) for key in ("not_genes", "genes_not_shared", "genes_dropped"))
        lost, genes, unclear = int(row["cells_dropped"]), int(row["genes"]), int(row.get("genes_ambiguous", 0))
        why = [
            (others, "are no genes"),
            (unclear, "have no name of their own"),
            (unshared, "are not in all samples"),
            (rare, f"are in fewer than {int(parameters.get('min_cells', 0))} cells"),
        ]
        rows.append(
            {
                "name": str(name),
                "cells": f"{int(row['cells']):,}",
                "cells_lost": f"{lost:,}",
                "cells_kept": f"{int(row['cells']) - lost:,}",
                "why_cells": f"{lost:,} have {' or '.join(asked) or 'been filtered'}" if lost else "",
                "genes": f"{genes + others + unclear:,}",
                "genes_lost": f"{others + unclear + unshared + rare:,}",
                "genes_kept": f"{genes - unshared - rare:,}",
                "why_genes": "; ".join(f"{count:,} {what}" for count, what in why if count),
                "file": ", ".join(str(row[key]) for key in ("kind", "file") if row.get(key)),
                "counts": str(row.get("counts_from", "")),
                "places": str(row.get("coordinates_from", "")),
                "much": lost > 0.5 * row["cells"] or unshared > 0.1 * genes,
            }
        )
    return rows


SECTION = Section(
    "data_warnings",
    "The data",
    "Warnings of preprocess, losses of each sample, and cells of each batch.",
    each=_pages,
)

"""Genes that the batch shifts: cells as if from another batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from unbatch.report.fits.common import EFFECT, OPEN_ROWS, Z90, surest
from unbatch.report.fits.scmedal.read import WAYS, Autoencoders
from unbatch.report.read import Cells
from unbatch.report.section import MAX_TISSUES, FitSection, Page, Shown, render
from unbatch.report.text import signed

TOP_GENES = 6
"""Genes of a label that are listed."""
ROUNDING = 1e-4
"""Shifts below this are none: cells in their own batch differ by what float32 rounds."""


def _pages(fit: Autoencoders, shown: Shown) -> Iterator[Page]:
    if fit.counterfactual is not None and fit.counterfactual.batches:
        yield Page("Cells as if from another batch", _shifts(fit, shown.cells), "shifts")


def _shifts(fit: Autoencoders, cells: Cells) -> str:
    found = fit.counterfactual
    shown = found.batches[:MAX_TISSUES]
    absent = _absent(cells)
    parts = [
        {
            # the program's name of it, unless a batch has that name
            "title": "the average of all batches" if batch == "average" not in cells.batches else batch,
            "rows": [
                {
                    "label": label,
                    "cells": f"{int(found.cells[place]):,}",
                    "absent": (label, batch) in absent,
                    **_genes(fit.genes, found.shift[number, place], found.shift_se[number, place]),
                }
                for place, label in enumerate(found.labels)
            ],
        }
        for number, batch in enumerate(shown)
    ]
    return render(
        "fits/scmedal/shifts",
        parts=parts,
        open=OPEN_ROWS,
        way=WAYS.get(found.way, found.way),
        embedding_has_batch=found.way != "batch-free",
        genes=f"{len(fit.genes):,}",
        chance=f"{0.1 * len(fit.genes):,.0f}",
        omitted=len(found.batches) - len(shown),
    )


def _absent(cells: Cells) -> set[tuple[str, str]]:
    """Labels that a batch has no cell of, as label and batch."""
    if cells.label is None:
        return set()
    present = set(zip(cells.label.tolist(), cells.batch.tolist(), strict=True))
    return {
        (label, batch)
        for i, label in enumerate(cells.labels)
        for j, batch in enumerate(cells.batches)
        if (i, j) not in present
    }


def _genes(names: list[str], shift: np.ndarray, se: np.ndarray) -> dict[str, Any]:
    """Say which genes are surely shifted, the most first, and how many there are."""
    sure = np.abs(shift) > np.maximum(Z90 * se, ROUNDING)
    first = [g for g in surest(np.abs(shift), se)[:TOP_GENES] if sure[g]]
    return {
        "still": np.abs(shift).max(initial=0) < ROUNDING,
        "sure": f"{int(sure.sum()):,}",
        "genes": [
            (names[g], signed(shift[g]), f"{signed(shift[g] - Z90 * se[g])} to {signed(shift[g] + Z90 * se[g])}")
            for g in first
        ],
    }


SECTION = FitSection(*EFFECT, _pages)

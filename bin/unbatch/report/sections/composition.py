"""Cells of each label in each batch, and where batch and biology are confounded."""

from typing import Any

import numpy as np

from unbatch.report.confounding import Finding
from unbatch.report.read import Cells
from unbatch.report.section import render

MOST_LABELS, MOST_BATCHES = 10, 6
"""Rows and columns of the table on the first screen; the others are added up."""


def table(cells: Cells, findings: list[Finding]) -> str:
    """Show the counts, labels that one batch alone has first, and say what follows."""
    counts = cells.by_label()
    content: dict[str, Any] = {"findings": findings, "heads": [], "rows": [], "total": []}
    if counts is not None:
        in_batches = (counts > 0).sum(axis=1)
        alone = (in_batches == 1) & (len(cells.batches) > 1)
        order = np.lexsort((-counts.sum(axis=1), ~alone))
        batches = np.argsort(-counts.sum(axis=0), kind="stable")[:MOST_BATCHES]
        batches = np.sort(batches)
        rest = np.setdiff1d(np.arange(len(cells.batches)), batches)
        heads = [cells.batches[code] for code in batches] + ([f"{len(rest):,} more"] if len(rest) else [])

        def row(name: str, own: np.ndarray, only: bool = False) -> dict[str, Any]:
            values = [*own[batches].tolist(), *([int(own[rest].sum())] if len(rest) else [])]
            whole = max(int(own.sum()), 1)
            return {
                "name": name,
                "only": only,
                "cells": [{"text": f"{value:,}", "none": value == 0, "share": value / whole} for value in values],
            }

        content["heads"] = heads
        content["rows"] = [row(cells.labels[code], counts[code], bool(alone[code])) for code in order[:MOST_LABELS]]
        if len(order) > MOST_LABELS:
            others = order[MOST_LABELS:]
            content["rows"].append(row(f"{len(others):,} more labels", counts[others].sum(axis=0)))
        if (cells.label < 0).any():
            bare = np.bincount(cells.batch[cells.label < 0], minlength=len(cells.batches))
            content["rows"].append(row("no label", bare))
        content["total"] = row("all cells", np.bincount(cells.batch, minlength=len(cells.batches)))["cells"]
    return render("sections/composition", **content)

"""The data: what `preprocess` warned of, and what each sample lost."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from unbatch.report.context import View
from unbatch.report.section import Page, Section, render

OPEN_SAMPLES = 20
"""Samples in the table before the others are folded away."""

_UNLISTED = frozenset(["kept"])
"""Codes of notes that say what the table says."""


def _pages(view: View) -> Iterator[Page]:
    about = view.dataset and view.dataset.about
    if not about or (not about.notes and about.losses is None):
        return
    content = render(
        "sections/data",
        warnings=[note.text for note in about.warnings],
        remarks=[note.text for note in about.notes if note.severity != "warning" and note.code not in _UNLISTED],
        samples=[] if about.losses is None else _samples(about.losses, about.parameters),
        open=OPEN_SAMPLES,
    )
    yield Page("Samples" if view.name else "", content)


def _samples(losses: pd.DataFrame, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    filters = {"min_counts": "counts", "min_genes": "genes"}
    asked = [f"fewer than {parameters[name]:g} {what}" for name, what in filters.items() if parameters.get(name)]
    rows = []
    for name, row in losses.iterrows():
        others, unshared, rare = (int(row.get(key, 0)) for key in ("not_genes", "genes_not_shared", "genes_dropped"))
        lost = int(row["cells_dropped"])
        why = [
            (others, "are no genes"),
            (unshared, "are not in all samples"),
            (rare, f"are in fewer than {int(parameters.get('min_cells', 0))} cells"),
        ]
        genes = int(row["genes"])
        rows.append(
            {
                "name": str(name),
                "cells": f"{int(row['cells']):,}",
                "cells_lost": f"{lost:,}",
                "cells_kept": f"{int(row['cells']) - lost:,}",
                "why_cells": f"{lost:,} have {' or '.join(asked) or 'been filtered'}" if lost else "",
                "genes": f"{genes + others:,}",
                "genes_lost": f"{others + unshared + rare:,}",
                "genes_kept": f"{genes - unshared - rare:,}",
                "why_genes": "; ".join(f"{count:,} {what}" for count, what in why if count),
                "counts": str(row.get("counts_from", "")),
                "much": lost > 0.5 * row["cells"] or unshared > 0.1 * genes,
            }
        )
    return rows


SECTION = Section(
    "data_warnings",
    "What to know about the data",
    "What preprocess warned of, and what each sample lost.",
    each=_pages,
)

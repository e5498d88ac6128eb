"""The page on the data: what `preprocess` warned of, and what each sample lost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from unbatch.data.io import read_h5ad
from unbatch.data.notes import Note, read_notes
from unbatch.report.page import make_page, render

OPEN_SAMPLES = 20
"""Samples in the table before the others are folded away."""

_UNLISTED = frozenset(["kept"])
"""Codes of notes that say what the table says."""


@dataclass(frozen=True)
class About:
    """What is known of how a dataset was made.

    Attributes
    ----------
    notes
        What `preprocess` had to say, warnings first.
    losses
        Genes and cells of each sample before and after, or None for a file of an older version.
    parameters
        Options of `preprocess`.
    """

    notes: list[Note] = field(default_factory=list)
    losses: pd.DataFrame | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def warnings(self) -> list[Note]:
        """Those notes that weaken what the report says."""
        return [note for note in self.notes if note.severity == "warning"]


def read_about(path: str | Path) -> About:
    """Read what a dataset says of how it was made; what is not as it should be is left out."""
    about = read_h5ad(path, ["uns/unbatch"]).uns.get("unbatch", {})
    notes, losses, parameters = about.get("notes", ""), about.get("losses"), about.get("parameters")
    whole = isinstance(losses, pd.DataFrame) and {"genes", "genes_not_shared", "cells", "cells_dropped"} <= set(losses)
    return About(
        read_notes(notes) if isinstance(notes, str) else [],
        losses if whole else None,
        dict(parameters) if isinstance(parameters, dict) else {},
    )


def page(about: About, number: int, where: str) -> dict[str, Any] | None:
    """Make the page, or None where there is nothing to say.

    Parameters
    ----------
    about
        What is known of the dataset.
    number
        Of the dataset, for the name of the file.
    where
        What stands before the title.
    """
    if not about.notes and about.losses is None:
        return None
    content = render(
        "dataset",
        warnings=[note.text for note in about.warnings],
        remarks=[note.text for note in about.notes if note.severity != "warning" and note.code not in _UNLISTED],
        samples=[] if about.losses is None else _samples(about.losses, about.parameters),
        open=OPEN_SAMPLES,
    )
    return make_page("data_warnings", f"{where}Samples" if where else "", content, str(number))


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

"""What the report shows of fits of autoencoders: their training, genomaps, and genes that change between batches."""

from pathlib import Path
from typing import Any

from unbatch.data.io import open_hdf5
from unbatch.report import autoencoders
from unbatch.report.inputs import Cells
from unbatch.report.section import Sections, Shown


def _read(fit: Path, _dataset: Path, _cells: Cells) -> autoencoders.Autoencoders | None:
    # a fit of another program that only has the method's name has no training to show
    with open_hdf5(fit) as file:
        if "uns/unbatch/best_epoch" not in file:
            return None
    return autoencoders.read_autoencoders(fit)


def _pages(fit: autoencoders.Autoencoders, shown: Shown) -> list[dict[str, Any]]:
    return autoencoders.pages(fit, shown.cells, shown.name, f"{shown.suffix}_ae", evidence=shown.evidence)


SECTIONS = Sections(
    read=_read,
    pages=_pages,
    omitted="Fits whose training and counterfactuals are not shown",
)

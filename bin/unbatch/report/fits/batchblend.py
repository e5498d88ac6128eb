"""What the report shows of fits with metagenes: the batch effect, the metagenes, and a simulation's truth."""

from typing import Any

from unbatch.report import effect, metagenes, recovered
from unbatch.report.factorisation import Factorisation, read_factorisation
from unbatch.report.section import Sections, Shown


def _pages(fit: Factorisation, shown: Shown) -> list[dict[str, Any]]:
    return [
        *effect.pages(fit, shown.cells, shown.name, shown.suffix),
        *metagenes.pages(fit, shown.cells, shown.seed, shown.name, shown.suffix),
        *recovered.pages(fit, shown.cells, shown.name, shown.suffix),
    ]


SECTIONS = Sections(
    read=read_factorisation,
    pages=_pages,
    omitted="Fits whose metagenes and batch effect are not shown",
    warnings=effect.confounded,
)

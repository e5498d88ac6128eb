"""Genes that vary over the tissue, and genes that differ between groups of spots."""

from collections.abc import Iterator

import numpy as np

from unbatch.report.fits.spavae.prediction import gene_maps
from unbatch.report.fits.spavae.read import Differential, Spatial
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import NONE, cut, decimals, signed

FALSE = 0.05
"""False discovery rate of genes that are counted."""
ROWS, OPEN = 30, 10
"""Genes of the table, and those that are seen before anything is unfolded."""
TOP, MOST_GROUPS, OPEN_GROUPS = 8, 24, 8
"""Genes of a group, groups that are shown, and those that are seen before anything is unfolded."""
FLOOR = 1e-290
"""P-values below this are not told apart."""
SURE = 1.0
"""Logarithm of a Bayes factor from which on a change counts as likely."""


def _pages(fit: Spatial, shown: Shown) -> Iterator[Page]:
    if not fit.spatial:
        return
    yield Page("Tests of all genes", _table(fit), "table")
    if fit.maps is not None and shown.cells.positions is not None:
        chosen = [number for number, why in enumerate(fit.maps.why) if why == "spatial"]
        if chosen:
            p = fit.spatial["p_value"]
            notes = {number: f"p {_small(p[fit.maps.place[number]])}" for number in chosen}
            yield Page("First genes on the tissue", gene_maps(fit, shown, chosen, notes), "maps")


def _table(fit: Spatial) -> str:
    found = fit.spatial
    order = np.lexsort((-found["moran"], found["p_value"]))[:ROWS]
    has_share = "share" in found
    rows = [
        {
            "gene": fit.genes[gene],
            "p": _small(found["p_value"][gene]),
            "q": _small(found["q_value"][gene]),
            "moran": decimals(float(found["moran"][gene])),
            "moran_p": _small(found["moran_p_value"][gene]),
            # where p-values of several scales are at the floor, none is the smallest
            "scale": f"{np.sqrt(found['scale'][gene]):.0f}" if found["p_value"][gene] > FLOOR else NONE,
            "share": decimals(float(found["share"][gene])) if has_share else "",
            "permuted": decimals(float(found["permuted"][gene])) if has_share else "",
        }
        for gene in order
    ]
    about_share = None
    if has_share:
        low, high = np.percentile(found["permuted"], [2.5, 97.5])
        spatial = found["q_value"] < FALSE
        about_share = {
            "low": decimals(float(low)),
            "high": decimals(float(high)),
            "above": int((found["share"] > high).sum()),
            "both": int(((found["share"] > high) & spatial).sum()),
        }
    return render(
        "fits/spavae/spatial",
        rows=rows,
        open=OPEN,
        genes=len(fit.genes),
        found=int((found["q_value"] < FALSE).sum()),
        share=about_share,
    )


def _small(value: float) -> str:
    """Write a p-value."""
    if value < FLOOR:
        return f"< {FLOOR:.0e}"
    return decimals(float(value), 3) if value >= 0.001 else f"{value:.0e}"


def _tests(fit: Spatial, _shown: Shown) -> Iterator[Page]:
    if fit.differential is not None:
        yield Page("Groups against one another", _groups(fit, fit.differential), "groups")


def _groups(fit: Spatial, found: Differential) -> str:
    values, parts = found.values, []
    pair = len(found.groups) == 1 and " vs " in found.groups[0]
    for number, name in enumerate(found.groups[:MOST_GROUPS]):
        change, factor = values["change"][number], values["bayes_factor"][number]
        # draws bound the Bayes factor, which many genes reach: the larger change comes first
        order = np.lexsort((-np.abs(change), -factor))[:TOP]
        parts.append(
            {
                "title": f"Domain {name}" if found.column == "domains" and not pair else name,
                "sure": int((factor >= SURE).sum()),
                "delta": decimals(float(values["delta"][number])),
                "rows": [
                    {
                        "gene": fit.genes[gene],
                        "change": signed(float(change[gene])),
                        "factor": signed(float(factor[gene])),
                        "first": decimals(float(values["first"][number, gene])),
                        "second": decimals(float(values["second"][number, gene])),
                    }
                    for gene in order
                ],
            }
        )
    return render(
        "fits/spavae/differential",
        column=cut(found.column, 60),
        domains=found.column == "domains",
        pair=pair,
        parts=parts,
        open=OPEN_GROUPS,
        omitted=len(found.groups) - len(parts),
        sure=SURE,
    )


SECTION = FitSection(
    "spatial_genes",
    "Spatially variable genes",
    "Which genes vary over the tissue, by a test that needs no fit.",
    _pages,
)
DIFFERENTIAL = FitSection(
    "differential", "Differential expression", "Which genes differ between groups of spots, by the model.", _tests
)

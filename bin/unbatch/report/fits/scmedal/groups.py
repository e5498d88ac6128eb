"""Tests between two groups of batches, of cells put into each of them."""

from collections.abc import Iterator

import numpy as np

from unbatch.report.fits.common import EFFECT
from unbatch.report.fits.scmedal.read import WAYS, Autoencoders
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import signed

TOP_GENES = 6
"""Genes of a label that are listed."""
FDR = 0.1
"""Level that tests are counted at."""


def _pages(fit: Autoencoders, _shown: Shown) -> Iterator[Page]:
    found, genes = fit.tests, fit.genes
    if found is None:
        return
    rows = []
    for place, label in enumerate(found.labels):
        of = {key: values[place] for key, values in found.tested.items()}
        below = {key: int((of[key] < FDR).sum()) for key in ("fdr", "rank_fdr", "observed_fdr")}
        order = np.argsort(np.where(np.isnan(of["p"]), np.inf, of["p"]), kind="stable")[:TOP_GENES]
        observed = found.observed_batches[place]
        rows.append(
            {
                "label": label,
                "cells": f"{int(found.cells[place]):,}",
                "tested": int((~np.isnan(of["p"])).sum()),
                "mixed": below["fdr"],
                "ranks": below["rank_fdr"],
                "observed": below["observed_fdr"] if not np.isnan(of["observed_p"]).all() else None,
                "observed_batches": f"{observed[0]:.0f} + {observed[1]:.0f}",
                "genes": [
                    {
                        "name": genes[g],
                        "difference": signed(of["difference"][g]),
                        "fdr": f"{of['fdr'][g]:.2g}",
                        "passes": bool(of["fdr"][g] < FDR),
                    }
                    for g in order
                    if not np.isnan(of["p"][g])
                ],
            }
        )
    content = render(
        "fits/scmedal/groups",
        way=WAYS.get(found.way, found.way),
        column=found.column,
        names=found.names,
        batches=found.batches,
        smallest=f"{found.smallest_p:.2g}",
        level=f"{FDR:g}",
        rows=rows,
        genes=f"{len(genes):,}",
    )
    yield Page("Groups of batches", content, "groups")


SECTION = FitSection(*EFFECT, _pages)

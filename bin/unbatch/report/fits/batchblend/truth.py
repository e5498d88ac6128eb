"""How well a fit recovers the truth of a simulation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from unbatch.metrics import recovery
from unbatch.report import draw
from unbatch.report.fits.batchblend.read import Factorisation
from unbatch.report.fits.common import Z90, shown_batches
from unbatch.report.read import Cells
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import amount, decimals


def _pages(fit: Factorisation, shown: Shown) -> Iterator[Page]:
    if fit.truth is not None:
        content = render("fits/batchblend/truth", **_metagenes(fit), **_effect(fit), parts=_scatters(fit, shown.cells))
        yield Page("", content)


def _metagenes(fit: Factorisation) -> dict[str, Any]:
    truth = fit.truth
    estimated, true, by_genes = recovery.match_metagenes(fit.metagenes, truth.metagenes)
    total = truth.amounts.sum(axis=1, keepdims=True)
    by_cells = recovery.correlation(fit.shares[:, estimated], (truth.amounts / total)[:, true]).diagonal()
    return {
        "pairs": [
            {"true": k + 1, "estimated": j + 1, "genes": decimals(a), "cells": decimals(b)}
            for k, j, a, b in zip(true, estimated, by_genes, by_cells, strict=True)
        ],
        "sizes": (fit.metagenes.shape[1], truth.metagenes.shape[1]),
        "medians": (decimals(np.nanmedian(by_genes)), decimals(np.nanmedian(by_cells))),
    }


def _effect(fit: Factorisation) -> dict[str, Any]:
    effect, truth = fit.effect, fit.truth
    if effect is None:
        return {"numbers": [], "batches": []}
    offset = recovery.offset_recovery(effect.offset, truth.offset)
    estimated, true, _ = recovery.match_metagenes(fit.metagenes, truth.metagenes)
    beta = recovery.correlation(effect.beta[:, estimated].reshape(-1, 1), truth.beta[:, true].reshape(-1, 1)).item()
    covered = recovery.coverage(effect.offset, effect.offset_se, truth.offset)
    logs = np.log(effect.factor), np.log(truth.factor)
    numbers = [
        ("Offset, difference between batches: cosine", _three(offset["cosine"]), "1"),
        ("Offset, difference between batches: relative error", _three(offset["relative_error"]), "0"),
        ("Offset, sum over genes and batches: relative error", _three(offset["total_error"]), "0"),
        ("Offset: true values within the 90% intervals", _three(covered), "0.9"),
        ("Batch effect on matched metagenes (beta): correlation", _three(beta), "1"),
        (
            "Factors: true values within the 90% intervals",
            _three(recovery.coverage(logs[0], effect.log_factor_se, logs[1])),
            "0.9",
        ),
    ]
    correlations = recovery.factor_correlation(effect.factor, truth.factor)
    batches = [
        {
            "name": batch,
            "total": amount(effect.offset[t].sum()),
            "true": amount(truth.offset[t].sum()),
            "factors": _three(correlations[t]),
        }
        for t, batch in enumerate(fit.batches)
    ]
    return {"numbers": numbers, "batches": batches}


def _scatters(fit: Factorisation, cells: Cells) -> list[dict[str, Any]]:
    effect, truth = fit.effect, fit.truth
    if effect is None:
        return []
    shown, colours, omitted = shown_batches(fit.batches, cells)
    found = (
        ("Offset by gene, counts", effect.offset, effect.offset_se, truth.offset, "offset"),
        (
            "Factor by gene, logarithm to base 2",
            np.log2(effect.factor),
            effect.log_factor_se / np.log(2),
            np.log2(truth.factor),
            "log2 factor",
        ),
    )
    return [
        {
            "title": title,
            "note": omitted,
            "panels": [
                {
                    "title": fit.batches[t],
                    "colour": colour,
                    "note": "",
                    "image": _against(true[t], estimate[t], Z90 * se[t], colour, unit),
                    "alt": f"Estimated against true {unit} of each gene in batch {fit.batches[t]}",
                }
                for t, colour in zip(shown, colours, strict=True)
            ],
        }
        for title, estimate, se, true, unit in found
        # an estimate of nothing where nothing is true has nothing to show
        if np.abs(estimate).max() > 1e-9 or np.abs(true).max() > 1e-9
    ]


def _against(truth: np.ndarray, estimate: np.ndarray, width: np.ndarray, colour: str, unit: str) -> str:
    """Draw estimates against the truth, with whiskers and the line on which both are the same.

    Parameters
    ----------
    truth, estimate
        A point each.
    width
        Half the length of the whiskers; NaN for none.
    colour
        Colour of the points.
    unit
        Unit of both axes.
    """
    with draw.figure(2.4, 2.4, dpi=200, **{"font.size": 8}) as figure:
        axes = figure.subplots()
        low, high = min(truth.min(), estimate.min()), max(truth.max(), estimate.max())
        pad = max(0.06 * (high - low), 1e-6)
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=draw.FAINT, lw=0.8, zorder=0)
        axes.errorbar(truth, estimate, width, fmt="none", ecolor="#C4CCD4", elinewidth=0.5, zorder=1)
        # as much ink for 100 genes as for 2,000
        axes.scatter(truth, estimate, s=np.clip(700 / len(truth), 1.5, 9), c=colour, linewidths=0, zorder=2)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(f"True {unit}")
        axes.set_ylabel(f"Estimated {unit}")
        return draw.png(figure)


def _three(value: float) -> str:
    return decimals(value, 3)


SECTION = FitSection("truth", "Truth against estimate", "How well a fit recovers the truth of a simulation.", _pages)

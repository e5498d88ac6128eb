"""Page on how much of a simulation's truth a fit finds."""

from typing import Any

import numpy as np

from unbatch.metrics import recovery
from unbatch.report import metagene_figures
from unbatch.report.effect import Z90, shown_batches
from unbatch.report.factorisation import Factorisation
from unbatch.report.inputs import Cells
from unbatch.report.metagenes import amount
from unbatch.report.page import make_page, render


def pages(fit: Factorisation, cells: Cells, name: str, suffix: str) -> list[dict[str, Any]]:
    """Make the pages on truth against estimate, none if the truth is not known.

    Parameters
    ----------
    fit
        The fit.
    cells
        Of its dataset.
    name
        How the fit is called, harmless in HTML.
    suffix
        Of the names of the files.
    """
    if fit.truth is None:
        return []
    content = render("truth", **_metagenes(fit), **_effect(fit), parts=_scatters(fit, cells))
    return [make_page("truth", name, content, suffix)]


def _metagenes(fit: Factorisation) -> dict[str, Any]:
    truth = fit.truth
    estimated, true, by_genes = recovery.match_metagenes(fit.metagenes, truth.metagenes)
    total = truth.amounts.sum(axis=1, keepdims=True)
    by_cells = recovery.correlation(fit.shares[:, estimated], (truth.amounts / total)[:, true]).diagonal()
    return {
        "pairs": [
            {"true": k + 1, "estimated": j + 1, "genes": _two(a), "cells": _two(b)}
            for k, j, a, b in zip(true, estimated, by_genes, by_cells, strict=True)
        ],
        "sizes": (fit.metagenes.shape[1], truth.metagenes.shape[1]),
        "medians": (_two(np.nanmedian(by_genes)), _two(np.nanmedian(by_cells))),
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
        ("Offset: true values within the 90 % intervals", _three(covered), "0.9"),
        ("Batch effect on matched metagenes (beta): correlation", _three(beta), "1"),
        (
            "Factors: true values within the 90 % intervals",
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
    shown, colours, omitted = shown_batches(fit, cells)
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
                    "image": metagene_figures.against(true[t], estimate[t], Z90 * se[t], colour, unit),
                    "alt": f"Estimated against true {unit} of each gene in batch {fit.batches[t]}",
                }
                for t, colour in zip(shown, colours, strict=True)
            ],
        }
        for title, estimate, se, true, unit in found
        # an estimate of nothing where nothing is true has nothing to show
        if np.abs(estimate).max() > 1e-9 or np.abs(true).max() > 1e-9
    ]


def _two(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _three(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"

"""The batch effect of a fit: what was found, what was removed of it, and which genes it hits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from unbatch.models.batchblend.evidence import ALL
from unbatch.models.verdicts import NUMBERS, Verdict, sentence
from unbatch.report.fits.batchblend.metagenes import gloss
from unbatch.report.fits.batchblend.read import Factorisation
from unbatch.report.fits.common import EFFECT, OPEN_ROWS, Z90, shown_batches, surest
from unbatch.report.read import Cells
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import amount, first, join, parameter, plus_minus, share, times

TOP_GENES = 10
LITTLE = 0.05
"""Share of a difference that composition could make which is not worth a sentence."""
TOP_PAIRS = 30
_NUMBERS = {
    "size": "an offset as share of the mean cell of all batches, factors as spread of their logarithms",
    "error": "its standard error",
    "composition": "share of the difference that other cells in the batches could make as well",
    "removed": "share of the difference that is removed",
    "removed_error": "its standard deviation",
    "meeting": "share of cells with cells of the other batch as near as their own, without that part",
}
"""What the numbers of the evidence are."""
_TEXTS = ("batch", "step", "verdict")
"""Columns of the evidence that are no numbers."""


def _pages(fit: Factorisation, shown: Shown) -> Iterator[Page]:
    if fit.effect is None:
        return
    for title, make, key in (
        ("What was found", _found, "found"),
        ("What was removed, by pair", _pairs, "pairs"),
        ("On the metagenes", _on_metagenes, "metagenes"),
        ("Added counts by gene", _offsets, "offsets"),
        ("Factors by gene", _factors, "factors"),
    ):
        content = make(fit, shown.cells)
        if content:
            yield Page(title, content, key)


def sentences(fit: Factorisation, cells: Cells) -> list[tuple[str, str]]:
    """Say in plain words what was found in each batch.

    Returns
    -------
    list
        Name of the batch and what to say of it; plain text, escape it for HTML.
    """
    of_batch = {name: cells.batch == code for code, name in enumerate(cells.batches)}
    said = []
    for t, batch in enumerate(fit.batches):
        words = [_offset_words(fit, t, of_batch.get(batch)), _factor_words(fit, t)]
        said.append((batch, " ".join(words)))
    return said


def confounded(fit: Factorisation, confined: list[tuple[str, str, int]]) -> list[str]:
    """Say where labels that one batch alone has may have been taken for the batch effect, a sentence each; plain text.

    Parameters
    ----------
    fit
        The fit.
    confined
        Labels that occur in one batch only: label, batch, cells.
    """
    said = []
    for row in _steps(fit):
        if row["step"] != "factors":
            continue
        share, removed = (_number_of(fit, row, name) for name in ("composition", "removed"))
        # of what composition could make, that much was removed
        if not share * removed > LITTLE:
            continue
        pair = row["batch"].split(" | ")
        own = [f"{label} (only in {batch}, {cells:,} cells)" for label, batch, cells in confined if batch in pair]
        if own:
            said.append(
                f"{join(pair)}: {removed:.0%} of their difference was removed, although composition could explain "
                f"{share:.0%} of it, and they differ in composition: {first(own, 5, '; ')}. Part of what sets these "
                "labels apart may "
                "have been removed as if it were a batch effect, and their cells moved towards others; with "
                "`strength: 0` it stays in the data."
            )
    return said


def _offset_words(fit: Factorisation, t: int, members: np.ndarray | None) -> str:
    effect = fit.effect
    if not effect.offset[t].any():
        return _nothing(fit, fit.batches[t], "offset", "additive offset")
    about = _about(fit, fit.batches[t], "offset")
    removed = _number_of(fit, about[0], "removed") if about else np.nan
    if about and not about[0]["accepted"] and np.isfinite(removed):
        return (
            f"An additive offset is not shown: {share(removed)} of its estimate is removed, {amount(effect.total[t])} "
            "counts a cell."
        )
    text = f"Every cell has {_interval(effect.total[t], effect.total_se[t])} counts from an additive offset"
    if members is not None and members.any():
        own = fit.amounts[members].sum(dtype=np.float64) / members.sum()
        text += f", {share(effect.total[t] / (effect.total[t] + own))} of the mean library size"
    genes = [fit.genes[g] for g in surest(effect.offset[t], effect.offset_se[t])[:3]]
    text += f"; most in {join(genes)}."
    return text if not removed < ALL else f"{text} This is {share(removed)} of the estimate, which is uncertain."


def _factor_words(fit: Factorisation, t: int) -> str:
    effect = fit.effect
    logs, se = np.log(effect.factor[t]), effect.log_factor_se[t]
    if not np.abs(logs).max() > 1e-9:
        return _nothing(fit, fit.batches[t], "factors", "gene-wise factor")
    sure = int((np.abs(logs) > 2 * se).sum())
    size = len(logs)
    text = f"{sure:,} of {size:,} genes have a factor that differs from 1 by more than 2 standard errors"
    if sure:
        strongest = [f"{fit.genes[g]} ({times(effect.factor[t, g])})" for g in surest(np.abs(logs), se)[:3]]
        text += f" (some {0.0455 * size:,.0f} would by chance), above all {join(strongest)}"
    return f"{text}.{_refusals(fit, fit.batches[t], 'factors')}"


def _refusals(fit: Factorisation, batch: str, step: str) -> str:
    """Say against which batches the factors were mostly left."""
    about = _about(fit, batch, step)
    refused = [row["batch"] for row in about if row["refused"]]
    if not refused:
        return ""
    others = [name for pair in refused for name in pair.split(" | ") if name != batch]
    against = ""
    if others:
        against = f" against {join(others) if len(others) <= 5 else f'{len(others)} other batches'}"
    return f" Mostly left in the data{against}, in {len(refused)} of {len(about)} comparisons."


def _nothing(fit: Factorisation, batch: str, step: str, what: str) -> str:
    """Say that something is absent: refused, not there (and why), or not looked for."""
    about = _about(fit, batch, step)
    if not about:
        return f"No {what} was looked for."
    refused = [row for row in about if row["refused"]]
    left = refused or [row for row in about if not row["accepted"]]
    reasons = dict.fromkeys(row["reason"].strip().rstrip(".").removeprefix("Not corrected: ") for row in left)
    why = "; ".join(reason[:1].lower() + reason[1:] for reason in reasons if reason)
    return f"No {what} was {'removed' if refused else 'found'}{f': {why}' if why else ''}."


def _about(fit: Factorisation, batch: str, step: str) -> list[dict[str, Any]]:
    """List the tests of a step for a batch, alone or in a pair."""
    return [row for row in _steps(fit) if row["step"] == step and batch in (row["batch"], *row["batch"].split(" | "))]


def _number_of(fit: Factorisation, row: dict[str, Any], name: str) -> float:
    """Return a number of a tested step; NaN where a file does not have it."""
    return float(fit.evidence[name][row["row"]]) if name in fit.evidence else np.nan


def _steps(fit: Factorisation) -> list[dict[str, Any]]:
    columns = fit.evidence
    found = []
    for i, (batch, step, code) in enumerate(zip(*(columns.get(key, []) for key in _TEXTS), strict=True)):
        verdict = Verdict(str(code))
        numbers = {name: float(columns[name][i]) for name in NUMBERS if name in columns}
        found.append(
            {
                "row": i,
                "batch": str(batch),
                "step": str(step),
                "verdict": verdict,
                "accepted": verdict.accepted,
                "refused": verdict.refused,
                "reason": sentence(str(step), verdict, **numbers),
            }
        )
    return found


def _interval(value: float, se: float) -> str:
    if not (np.isfinite(se) and se > 0):
        return amount(value)
    return f"{amount(value)} (90% interval {amount(max(value - Z90 * se, 0))} to {amount(value + Z90 * se)})"


def _found(fit: Factorisation, cells: Cells) -> str:
    # refusals first: they must not be missed
    steps = sorted(_steps(fit), key=lambda step: (not step["refused"], not step["accepted"]))
    numeric = {
        name: values
        for name, values in fit.evidence.items()
        if name not in (*_TEXTS, "accepted", "refused", "threshold", "cells") and values.dtype.kind in "biuf"
    }
    numeric = {name: numeric[name] for name in [*_NUMBERS, *numeric] if name in numeric}
    rows = [{**step, "numbers": [_number(values[step["row"]]) for values in numeric.values()]} for step in steps]
    untried = not steps and not fit.effect.offset.any() and not np.log(fit.effect.factor).any()
    return render(
        "fits/batchblend/effect",
        sentences=[] if untried else sentences(fit, cells),
        untried=untried,
        single=len(fit.batches) == 1,
        rows=rows,
        columns=[name.replace("_", " ") for name in numeric],
        meanings=[(name, _NUMBERS[name]) for name in numeric if name in _NUMBERS],
        refused=sum(step["refused"] for step in steps),
        accepted=sum(step["accepted"] for step in steps),
        open=OPEN_ROWS,
    )


def _on_metagenes(fit: Factorisation, cells: Cells) -> str:
    beta, genes = fit.effect.beta, gloss(fit)
    shown, colours, omitted = shown_batches(fit.batches, cells)
    top = beta[shown].max()
    if not top > 0:
        return ""
    hit = [k for k in [*fit.order, *np.flatnonzero(fit.dead)] if beta[shown, k].max() > 1e-3 * top]
    return render(
        "fits/batchblend/beta",
        caption=omitted,
        heads=[{"name": fit.batches[t], "colour": colour} for t, colour in zip(shown, colours, strict=True)],
        rows=[
            {
                "number": k + 1,
                "genes": genes[k],
                "cells": [{"width": 100 * max(beta[t, k], 0) / top, "text": amount(beta[t, k])} for t in shown],
            }
            for k in hit
        ],
        rest=beta.shape[1] - len(hit),
    )


def _pairs(fit: Factorisation, cells: Cells) -> str:
    """Difference of each pair of batches: the part that is removed, and the part that is left."""
    rows = []
    for row in _steps(fit):
        removed, error, size = (_number_of(fit, row, name) for name in ("removed", "removed_error", "size"))
        if row["step"] == "factors" and np.isfinite(removed) and np.isfinite(size):
            low, high = (min(max(removed + side * Z90 * np.nan_to_num(error), 0), 1) for side in (-1, 1))
            interval = f" ({share(low)} to {share(high)})" if high - low > 0.005 else ""
            rows.append(
                {
                    "pair": join(row["batch"].split(" | "))
                    if " | " in row["batch"]
                    else f"{row['batch']} and the model's cells",
                    "size": 100 * size,
                    "removed": 100 * removed,
                    "low": 100 * low,
                    "whisker": 100 * (high - low),
                    "text": f"{share(removed)} removed{interval}",
                    "spread": amount(size, 2),
                }
            )
    if not rows:
        return ""
    rows.sort(key=lambda each: -each["size"])
    top = rows[0]["size"]
    for row in rows:
        row["size"] = 100 * row["size"] / top
    return render("fits/batchblend/pairs", rows=rows[:TOP_PAIRS], rest=max(0, len(rows) - TOP_PAIRS))


def _offsets(fit: Factorisation, cells: Cells) -> str:
    effect = fit.effect
    shown, colours, omitted = shown_batches(fit.batches, cells)
    parts = []
    for t, colour in zip(shown, colours, strict=True):
        if effect.offset[t].any():
            genes = surest(effect.offset[t], effect.offset_se[t])[:TOP_GENES]
            parts.append((t, colour, genes[effect.offset[t, genes] > 0]))
    if not parts:
        return ""
    without = [fit.batches[t] for t in shown if not effect.offset[t].any()]
    if without:
        listed = join(without) if len(without) <= 5 else f"{len(without)} batches"
        omitted += f" Not shown, as there is none: {listed}."
    ends = [(effect.offset[t] + Z90 * np.nan_to_num(effect.offset_se[t]))[genes].max() for t, _, genes in parts]
    top = max(ends)
    panels = []
    for t, colour, genes in parts:
        others = np.delete(effect.offset, t, axis=0)
        panels.append(
            {
                "title": fit.batches[t],
                "note": f"{_estimate(effect.total[t], effect.total_se[t])} in all",
                "colour": colour,
                "axis": ["0", amount(top / 2, 2), f"{amount(top, 2)} counts"],
                "rows": [
                    _bar(
                        fit.genes[g],
                        0,
                        effect.offset[t, g] / top,
                        Z90 * effect.offset_se[t, g] / top,
                        _estimate(effect.offset[t, g], effect.offset_se[t, g]),
                        others[:, g].mean() / top if len(others) else None,
                    )
                    for g in genes
                ],
            }
        )
    return render("fits/batchblend/bars", what="offset", omitted=omitted, panels=panels)


def _factors(fit: Factorisation, cells: Cells) -> str:
    effect = fit.effect
    shown, colours, omitted = shown_batches(fit.batches, cells)
    logs, se = np.log2(effect.factor), effect.log_factor_se / np.log(2)
    parts = [
        (t, colour, surest(np.abs(logs[t]), se[t])[:TOP_GENES])
        for t, colour in zip(shown, colours, strict=True)
        if np.abs(logs[t]).max() > 1e-9
    ]
    if not parts:
        return ""
    top = max((np.abs(logs[t]) + Z90 * np.nan_to_num(se[t]))[genes].max() for t, _, genes in parts)
    panels = [
        {
            "title": fit.batches[t],
            "note": f"{int((np.abs(logs[t]) > 2 * se[t]).sum()):,} of {len(fit.genes):,} genes differ by > 2 se",
            "colour": colour,
            "axis": [times(2**-top), "× 1", times(2**top)],
            "rows": [
                _bar(
                    fit.genes[g],
                    0.5,
                    logs[t, g] / top / 2,
                    Z90 * se[t, g] / top / 2,
                    times(effect.factor[t, g]),
                )
                for g in genes
            ],
        }
        for t, colour, genes in parts
    ]
    return render("fits/batchblend/bars", what="factor", omitted=omitted, panels=panels)


def _number(value: Any) -> str:
    return parameter(value) if isinstance(value, bool | np.bool) else amount(value)


def _estimate(value: float, se: float) -> str:
    return plus_minus(value, Z90 * se if se > 0 else None, amount, lambda half: amount(half, 2))


def _bar(gene: str, zero: float, size: float, width: float, text: str, tick: float | None = None) -> dict[str, Any]:
    """Places of a bar with its whisker on a track, in per cent of it.

    Parameters
    ----------
    gene, text
        What is written before and behind it.
    zero, size, width
        Where the bar begins, how far it goes and half the length of its whisker, in shares of the track.
    tick
        Place of a mark.
    """
    end = zero + size
    low, high = (np.clip(end + side * np.nan_to_num(width), 0, 1) for side in (-1, 1))
    return {
        "gene": gene,
        "left": 100 * min(zero, end),
        "width": 100 * abs(size),
        "low": 100 * low,
        "whisker": 100 * (high - low),
        "tick": None if tick is None else 100 * min(tick, 1),
        "text": text,
    }


SECTION = FitSection(*EFFECT, _pages)

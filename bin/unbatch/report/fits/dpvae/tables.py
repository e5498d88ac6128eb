"""Tables: against rivals, coverage of radii, spatial scores, training on one section and testing on another."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from unbatch.report import draw
from unbatch.report.fits.dpvae.read import LEVELS, Located
from unbatch.report.section import Page, Shown, render
from unbatch.report.text import decimals, share

NAMES = {
    "dpvae": "dp-VAE",
    "ridge": "ridge regression",
    "knn": "50 nearest neighbours",
    "forest": "random forest",
    "mean": "mean position",
    "celery": "CeLEry",
    "tangram": "Tangram",
}
SPACES = {"expression": "expression", "latent": "latent values", "positions": "predicted positions"}
TIE = 0.02
"""Difference in disparity that one seed does not tell."""


def pages(fit: Located, _shown: Shown) -> Iterator[Page]:
    """Make the tables that the fit has values for."""
    if len(fit.baselines):
        yield Page("Against simple regression", _rivals(fit), "rivals")
    if len(fit.coverage):
        yield Page("How sure a position is", _coverage(fit), "coverage")
    if len(fit.transfer):
        yield Page("Trained on one section, tested on another", _transfer(fit), "transfer")
    if len(fit.spatial):
        yield Page("Distances kept", _spatial(fit), "spatial")


def name_of(method: str) -> str:
    """Name a method as tables do."""
    return NAMES.get(method, method)


def _rivals(fit: Located) -> str:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in fit.baselines.rows():
        groups.setdefault((row["section"], row["kind"]), []).append(row)
    parts, verdicts = [], []
    for (section, kind), rows in groups.items():
        best = {name: min(row[name] for row in rows) for name in ("disparity", "rmse", "median")}
        parts.append(
            {
                "section": section,
                "kind": kind,
                "spots": f"{rows[0]['spots']:,}",
                "rows": [
                    {
                        "name": name_of(row["method"]),
                        "cells": [
                            (decimals(row[name], 3 if name == "disparity" else 1), row[name] == best[name])
                            for name in ("disparity", "rmse", "median")
                        ],
                        # a mean that is off by rounding is written as zero without a sign
                        "r2": [decimals(float(np.round(value, 2)) + 0.0) for value in np.atleast_1d(row["r2"])],
                    }
                    for row in rows
                ],
            }
        )
        own, rivals = rows[0], [row for row in rows[1:] if row["method"] != "mean"]
        if rivals:
            verdicts.append((section, _verdict(own, min(rivals, key=lambda row: row["disparity"]))))
    axes = len(parts[0]["rows"][0]["r2"])
    return render("fits/dpvae/rivals", parts=parts, verdicts=verdicts, axes=axes)


def _verdict(own: dict[str, Any], rival: dict[str, Any]) -> str:
    apart = own["disparity"] - rival["disparity"]
    name, other = name_of(own["method"]), name_of(rival["method"])
    if abs(apart) < TIE:
        return f"{name} and {other}, the best rival, can't be told apart ({apart:+.3f} in disparity)"
    if apart < 0:
        return f"{name} is ahead of {other}, the best rival, by {-apart:.3f} in disparity"
    return f"{other} is ahead of {name} by {apart:.3f} in disparity: use that instead"


def _coverage(fit: Located) -> str:
    groups: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for row in fit.coverage.rows():
        groups.setdefault((row["section"], row["kind"]), {})[float(row["level"])] = row
    rows = []
    for (section, kind), by_level in groups.items():
        ninety = by_level.get(0.9)
        # a share of so many spots differs from its level by chance
        spots = next(iter(by_level.values()))["spots"]
        rows.append(
            {
                "section": section,
                "kind": kind,
                "spots": f"{spots:,}",
                "shares": [
                    (share(by_level[level]["share"]), abs(by_level[level]["share"] - level) > _slack(level, spots))
                    if level in by_level
                    else ("", False)
                    for level in LEVELS
                ],
                "radius": decimals(float(ninety["radius"]), 1) if ninety else "",
                "source": fit.radii_from.get(section, ""),
            }
        )
    far = None
    if fit.distance is not None and np.isfinite(fit.far):
        beyond = fit.distance > fit.far
        far = {
            "limit": decimals(fit.far),
            "rows": [
                (name, share(float(beyond[fit.section == code].mean())), _errors(fit, beyond, code))
                for code, name in enumerate(fit.sections)
                if (fit.section == code).any()
            ],
        }
    levels = [f"{100 * level:g}" for level in LEVELS]
    return render("fits/dpvae/coverage", rows=rows, levels=levels, far=far, sources=bool(fit.radii_from))


def _slack(level: float, spots: int) -> float:
    """Half the width of the range that the coverage of so many spots is within by chance and by finite calibration."""
    return 0.02 + 2 * float(np.sqrt(level * (1 - level) / max(spots, 1)))


def _errors(fit: Located, beyond: np.ndarray, code: int) -> str:
    """Median error of the spots that are far and of the others."""
    mine = (fit.section == code) & fit.scored
    if (mine & beyond).sum() < 5 or (mine & ~beyond).sum() < 5:
        return ""
    return f"{np.median(fit.error[mine & beyond]):.1f} against {np.median(fit.error[mine & ~beyond]):.1f}"


def _spatial(fit: Located) -> str:
    rows = [
        {
            "section": row["section"],
            "space": SPACES.get(row["space"], row["space"]),
            "spots": f"{row['spots']:,}",
            "moran": decimals(float(row["moran"])),
            "geary": decimals(float(row["geary"])),
            "r": decimals(float(row["r"])),
            "interval": f"{row['low']:.2f} to {row['high']:.2f}",
            "p": f"{row['p']:.2g}",
            "distortion": decimals(float(row["distortion"][-1] / max(row["distortion"][0], 1e-9)), 1),
        }
        for row in fit.spatial.rows()
    ]
    return render("fits/dpvae/spatial", rows=rows, image=_correlations(fit))


def _correlations(fit: Located) -> str:
    """Draw the correlation of distances with its interval, section by section and space by space."""
    rows = fit.spatial.rows()
    sections, spaces = (list(dict.fromkeys(row[name] for row in rows)) for name in ("section", "space"))
    colours = dict(zip(spaces, draw.legend(spaces).colours, strict=True))
    with draw.figure(8.8, 0.8 + 0.42 * min(len(sections), 12)) as figure:
        axes = figure.subplots()
        for row in rows:
            line = sections.index(row["section"])
            if line >= 12:
                continue
            at = line + 0.22 * (spaces.index(row["space"]) - (len(spaces) - 1) / 2)
            colour, named = colours[row["space"]], line == 0
            axes.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=2)
            axes.plot(row["r"], at, "o", color=colour, markersize=5, label=SPACES.get(row["space"]) if named else None)
        axes.set_yticks(range(min(len(sections), 12)), [name[:24] for name in sections[:12]])
        axes.set_ylim(min(len(sections), 12) - 0.5, -0.5)
        axes.set_xlabel("correlation of distances with those on the tissue, 95 % interval over spots")
        axes.axvline(0, color=draw.FAINT, linewidth=1)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10)
        return draw.svg(figure)


def _transfer(fit: Located) -> str:
    rows = fit.transfer.rows()
    names = list(dict.fromkeys(row["train"] for row in rows))
    values = {(row["method"], row["train"], row["test"]): float(row["disparity"]) for row in rows}
    tables = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [values.get((method, train, test)) for train in names for test in names]
        shades = draw.shades(own, lower_is_better=True)
        cells = [
            {
                "train": train,
                "cells": [
                    (decimals(values.get((method, train, test))), shades[i * len(names) + j])
                    for j, test in enumerate(names)
                ],
            }
            for i, train in enumerate(names)
        ]
        tables.append({"name": name_of(method), "rows": cells})
    return render("fits/dpvae/transfer", names=names, tables=tables)

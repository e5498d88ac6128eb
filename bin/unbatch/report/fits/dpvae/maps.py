"""Sections with their spots at true and at predicted positions, and how far these are apart."""

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np

from unbatch.report import draw
from unbatch.report.fits.dpvae.read import Located
from unbatch.report.section import Page, Shown, render
from unbatch.report.text import amount, share

MAX_SECTIONS, OPEN = 6, 2
"""Sections that are drawn, and that are seen before anything is unfolded."""
MAX_SPOTS = 6_000
STEPS = 12
"""Colours along each axis of the tissue; few, or the file is large."""
LEVELS = 32
NINETY = 2
"""Column of the radii that 90 of 100 spots are within."""


def pages(fit: Located, shown: Shown) -> Iterator[Page]:
    """Draw each section."""
    order = sorted(
        (code for code in range(len(fit.sections)) if (fit.section == code).any()),
        # what was predicted without its positions is most telling
        key=lambda code: (not ((fit.section == code) & (fit.part != "known")).any(), code),
    )
    rng = np.random.default_rng(shown.seed)
    chosen = {}
    for code in order[:MAX_SECTIONS]:
        rows = np.flatnonzero((fit.section == code) & fit.scored)
        chosen[code] = np.sort(rng.choice(rows, MAX_SPOTS, replace=False)) if len(rows) > MAX_SPOTS else rows
    chosen = {code: rows for code, rows in chosen.items() if len(rows) > 1}
    if not chosen:
        return
    every = np.concatenate(list(chosen.values()))
    top = {"error": float(np.percentile(fit.error[every], 95)) or 1.0}
    finite = None if fit.radii is None else fit.radii[every, NINETY][np.isfinite(fit.radii[every, NINETY])]
    if finite is not None and len(finite):
        top["radius"] = float(np.percentile(finite, 95)) or 1.0
    parts = [_section(fit, code, rows, top) for code, rows in chosen.items()]
    content = render(
        "fits/dpvae/maps",
        parts=parts,
        open=OPEN,
        omitted=len(order) - len(chosen),
        error=amount(top["error"]),
        radius=amount(top["radius"]) if "radius" in top else None,
        most=MAX_SPOTS if any(len(rows) == MAX_SPOTS for rows in chosen.values()) else 0,
        known=any((fit.part[rows] == "known").any() for rows in chosen.values()),
    )
    yield Page("On the tissue", content, "maps")


def _section(fit: Located, code: int, rows: np.ndarray, top: dict[str, float]) -> dict[str, Any]:
    name, true, predicted, error = fit.sections[code], fit.true[rows], fit.predicted[rows], fit.error[rows]
    frame = np.array([true.min(axis=0), true.max(axis=0)])
    colours, table = _of_place(true, frame)
    shades = mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS))
    panels = [
        {"title": "True", "note": "colour: where a spot is", "image": _draw(true, colours, frame, table)},
        {"title": "Predicted", "note": "the same colours", "image": _draw(predicted, colours, frame, table)},
        {
            "title": "Error",
            "note": f"median {amount(float(np.median(error)))} pitches",
            "image": _draw(true, _shade(error, top["error"], shades), frame, shades),
        },
    ]
    if "radius" in top:
        radius = fit.radii[rows, NINETY]
        inside = share(float((error <= radius).mean()))
        panels.append(
            {
                "title": "90 % radius",
                "note": f"holds {inside} of these spots",
                "image": _draw(true, _shade(radius, top["radius"], shades), frame, shades),
            }
        )
    for panel in panels:
        panel["alt"] = f"{panel['title']} of the spots of section {name}"
    kinds = [kind for kind in ("held out", "unknown", "applied", "known") if (fit.part[rows] == kind).any()]
    return {"title": name, "note": f"{len(rows):,} spots ({', '.join(kinds)})", "panels": panels}


def _of_place(places: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours of positions, n x 3, and all colours that can occur."""
    size = np.maximum(frame[1] - frame[0], 1e-9)
    steps = np.clip(((places - frame[0]) / size * STEPS).astype(int), 0, STEPS - 1)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, STEPS)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    # red to the right, blue downwards, green against both: all corners differ, also for the colour-blind
    table = np.column_stack([0.1 + 0.85 * grid[:, 0], 0.85 - 0.35 * grid.sum(1), 0.15 + 0.8 * grid[:, 1]])
    table = np.clip(table, 0, 1)
    return table[steps[:, 0] * STEPS + steps[:, 1]], table


def _shade(values: np.ndarray, top: float, shades: np.ndarray) -> np.ndarray:
    share_of_top = np.clip(np.nan_to_num(values, posinf=top) / top, 0, 1)
    return shades[np.minimum((share_of_top * LEVELS).astype(int), LEVELS - 1)]


def _draw(places: np.ndarray, colours: np.ndarray, frame: np.ndarray, known: np.ndarray, pixels: int = 380) -> str:
    """Draw spots in the frame of the true ones; those beyond it are at its edge."""
    margin = 0.03 * np.maximum(np.ptp(frame, axis=0), 1)
    (left, upper), (right, lower) = frame[0] - margin, frame[1] + margin
    ratio = float(np.clip((lower - upper) / (right - left), 0.4, 2))
    with draw.figure(pixels / 100, pixels / 100 * ratio, dpi=100) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(lower, upper)
        shown = np.clip(places, frame[0] - margin / 2, frame[1] + margin / 2)
        # as wide as the distance to the next spot
        side = np.clip(pixels / (right - left) * 0.72 * 1.1, 1.2, 9)
        axes.scatter(*shown.T, s=side**2, c=colours, linewidths=0, antialiased=False)
        return draw.png(figure, known)

"""Figures of fits with metagenes: arrays in, image files as data addresses out."""

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unbatch.report.figures import FAINT, STYLE, png, svg, tissue

LEVELS = 32
"""Shades of a map; few, so that its file is small."""

SHADES = mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS))
"""Colours of a map, from nothing to its top."""


def share_map(positions: np.ndarray, shares: np.ndarray, top: float, extent: np.ndarray) -> str:
    """Draw the share of a metagene in each cell of a section.

    Parameters
    ----------
    positions
        n x 2, y downwards.
    shares
        n.
    top
        Share that has the last colour, as do all above.
    extent
        Width and height of the largest section.
    """
    levels = np.minimum((np.clip(shares / top, 0, 1) * LEVELS).astype(int), LEVELS - 1)
    return tissue(positions, SHADES[levels], extent, SHADES, pixels=300)


def affinity(estimate: np.ndarray, permuted: np.ndarray, marked: np.ndarray, names: list[str]) -> str:
    """Draw affinities beside those of permuted cells, on one scale centred at 0.

    Parameters
    ----------
    estimate, permuted
        K x K.
    marked
        K x K: what differs from permutation; a dot is drawn there.
    names
        Of the metagenes.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        top = max(np.abs(estimate).max(), np.abs(permuted).max(), np.finfo(float).tiny)
        # a panel is 3 inches wide: two digits fit beside one another at this size
        size = np.clip(160 / len(names), 5, 10)
        for axes, values, label in zip(panels, (estimate, permuted), ("Estimated", "Cells permuted"), strict=True):
            image = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
            axes.set_title(label, fontsize=11.5, loc="left")
            axes.set_xticks(range(len(names)), names, fontsize=size)
            axes.set_yticks(range(len(names)), names, fontsize=size)
            axes.tick_params(length=0)
            axes.set_xlabel("Metagene")
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("Metagene of the neighbour")
        row, column = np.nonzero(marked)
        panels[0].scatter(column, row, s=size**2 / 3, c="#000000", edgecolors="white", linewidths=0.6)
        bar = figure.colorbar(image, ax=panels, shrink=0.85, aspect=25)
        bar.outline.set_visible(False)
        bar.ax.set_ylabel("← side by side      apart →")
        return svg(figure)


def course(
    terms: dict[str, np.ndarray],
    phase: np.ndarray,
    phases: dict[int, str],
    step: str = "Iteration",
    best: int | None = None,
) -> str:
    """Draw the objective and its terms over the iterations, a panel each, with lines between the phases.

    Parameters
    ----------
    terms
        Values by name, NaN where a term has none.
    phase
        Phase of every iteration.
    phases
        Names of the phases.
    step
        What the fit goes by.
    best
        The step to mark as the one that was kept, from 1.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.5 * -(-len(terms) // 2)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(-(-len(terms) // 2), 2, squeeze=False, sharex=True).ravel()
        steps = np.arange(1, len(phase) + 1)
        starts = np.flatnonzero(np.diff(phase)) + 1
        for axes, (name, values) in zip(panels, terms.items(), strict=False):
            for part in np.split(np.arange(len(phase)), starts):
                # a point alone has no line
                axes.plot(steps[part], values[part], "o-" if len(part) < 3 else "-", color="#0072B2", lw=1.8, ms=4)
            for start in starts:
                axes.axvline(start + 0.5, color=FAINT, lw=1, ls="--")
            if best is not None:
                axes.axvline(best, color="#D55E00", lw=1.2, ls=(0, (4, 2)))
            axes.set_title(name, fontsize=11.5, loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
        for axes in panels[len(terms) :]:
            axes.set_visible(False)
        if len(starts):
            # a strip of its own for the names of the phases, which the curve would strike out
            low, high = panels[0].get_ylim()
            panels[0].set_ylim(low, high + 0.2 * (high - low))
            for start in (0, *starts):
                name = phases.get(int(phase[start]), f"phase {int(phase[start])}")
                end = start == 0
                panels[0].annotate(
                    name, (starts[0] + 0.5 if end else start + 0.5, 1), (-4 if end else 4, -3),
                    ("data", "axes fraction"), "offset points",
                    ha="right" if end else "left", va="top", size=9.5, color="#52606D",
                )  # fmt: skip
        for axes in panels[max(len(terms) - 2, 0) : len(terms)]:
            axes.set_xlabel(step)
            axes.tick_params(labelbottom=True)
        return svg(figure)


def against(truth: np.ndarray, estimate: np.ndarray, width: np.ndarray, colour: str, unit: str) -> str:
    """Draw estimates against the truth, with whiskers and the line on which both are the same.

    Parameters
    ----------
    truth, estimate
        A point each.
    width
        Half the length of the whiskers; NaN for none.
    colour
        Of the points.
    unit
        Of both axes.
    """
    with mpl.rc_context(STYLE | {"font.size": 8}):
        figure = Figure(figsize=(2.4, 2.4), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        low, high = min(truth.min(), estimate.min()), max(truth.max(), estimate.max())
        pad = max(0.06 * (high - low), 1e-6)
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=FAINT, lw=0.8, zorder=0)
        axes.errorbar(truth, estimate, width, fmt="none", ecolor="#C4CCD4", elinewidth=0.5, zorder=1)
        # as much ink for 100 genes as for 2,000
        axes.scatter(truth, estimate, s=np.clip(700 / len(truth), 1.5, 9), c=colour, linewidths=0, zorder=2)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(f"True {unit}")
        axes.set_ylabel(f"Estimated {unit}")
        return png(figure)

"""The metagenes of a fit: their genes, where they are, who neighbours whom, how the fit went."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np

from unbatch.report import draw, embedding
from unbatch.report.fits.batchblend.read import Factorisation
from unbatch.report.fits.common import lines
from unbatch.report.read import Cells
from unbatch.report.section import MAX_TISSUES, FitSection, Page, Shown, render
from unbatch.report.text import plain, share, times

TOP_GENES = 8
"""Genes of a metagene that are listed."""
OPEN_ROWS, OPEN_MAPS, OPEN_AFFINITIES = 15, 6, 2
"""Metagenes in a table, metagenes on the tissue and affinities that are seen before anything is unfolded."""
MAX_MAPS = 96
"""Maps in all: with more metagenes, fewer sections are drawn."""
MAX_SPOTS = 10_000
"""Cells in a map, which is too small to show more."""

LEVELS = 32
"""Shades of a map; few, or its file is large."""

_PHASES = {0: "genes only", 1: "with other cells"}


def _pages(fit: Factorisation, shown: Shown) -> Iterator[Page]:
    yield Page("Genes", _genes(fit), "genes")
    if shown.cells.positions is not None and len(fit.order):
        yield Page("On the tissue", _maps(fit, shown.cells, shown.seed), "maps")
    if fit.affinity is not None and len(fit.order):
        yield Page("Neighbours", _affinities(fit), "affinities")
    if fit.history:
        yield _course(fit)


def against_rest(fit: Factorisation) -> np.ndarray:
    """Weight of each gene in each metagene over that in all the others together, G x K; NaN without others."""
    abundance = fit.abundance
    rest = 1 - abundance
    others = fit.metagenes @ (abundance[:, None] * (1 - np.eye(len(abundance)))) / np.where(rest > 1e-9, rest, np.nan)
    # of what is next to never read, it is not known how much rarer it is elsewhere
    least = 1e-2 / len(fit.genes)
    return (fit.metagenes + least) / (others + least)


def telling(fit: Factorisation) -> np.ndarray:
    """Genes of each metagene, those first that tell it from the others, as indices G x K.

    By weight times the logarithm of `against_rest`, a gene's part in the Kullback-Leibler divergence of the metagene
    from the others: neither genes that are frequent everywhere come first, nor rare ones that nobody would read.
    """
    ratio = against_rest(fit)
    score = fit.metagenes * np.where(np.isnan(ratio), 1, np.log(ratio))
    return np.argsort(-score, axis=0, kind="stable")


def gloss(fit: Factorisation, count: int = 3) -> list[str]:
    """Name the first telling genes of each metagene, to recognise it by."""
    first = telling(fit)[:count]
    return [", ".join(fit.genes[gene] for gene in first[:, k]) for k in range(first.shape[1])]


def _genes(fit: Factorisation) -> str:
    abundance, ratio, apart = fit.abundance, against_rest(fit), telling(fit)
    heavy = np.argsort(-fit.metagenes, axis=0, kind="stable")
    most = abundance.max()
    living = set(fit.order.tolist())
    rows = [
        {
            "number": k + 1,
            "dead": k not in living,
            "share": share(abundance[k]),
            "bar": 100 * abundance[k] / most if most else 0,
            "apart": [(fit.genes[g], times(ratio[g, k])) for g in apart[:TOP_GENES, k]] if k in living else [],
            "heavy": [(fit.genes[g], share(fit.metagenes[g, k])) for g in heavy[:TOP_GENES, k]] if k in living else [],
        }
        for k in [*fit.order, *(k for k in range(len(abundance)) if k not in living)]
    ]
    dead = len(rows) - len(living)
    corrects = fit.effect is not None and bool(fit.effect.offset.any() or np.log(fit.effect.factor).any())
    return render(
        "fits/batchblend/metagenes", rows=rows, open=OPEN_ROWS, genes=len(fit.genes), dead=dead, corrects=corrects
    )


def _maps(fit: Factorisation, cells: Cells, seed: int) -> str:
    order = fit.order
    most = max(min(MAX_TISSUES, MAX_MAPS // max(len(order), 1)), 1)
    sections = embedding.sections(cells.positions, cells.batches_of_sections(), cells.section, most)
    colours = draw.section_colours(cells.batches, cells.batches_of_sections())
    members, caption = sections.thinned(MAX_SPOTS, seed)
    genes = gloss(fit)
    rows = []
    for k in order:
        values = fit.shares[:, k]
        # a metagene that less than 1% of the cells have still has a scale
        top = float(np.percentile(values, 99)) or float(values.max())
        rows.append(
            {
                "number": k + 1,
                "genes": genes[k],
                "top": share(top),
                "panels": [
                    {
                        "image": _map(sections.positions[found], values[found] / (top or 1), sections.extent),
                        "alt": f"Share of metagene {k + 1} in the cells of section {cells.sections[code]}",
                    }
                    for code, found in members.items()
                ],
            }
        )
    heads = [{"name": cells.sections[code], "colour": colours[code]} for code in members]
    return render("fits/batchblend/maps", caption=caption, heads=heads, rows=rows, open=OPEN_MAPS)


def _map(positions: np.ndarray, values: np.ndarray, extent: np.ndarray) -> str:
    """Draw values in the cells of a section, in shades from 0 to 1; all above have the last one."""
    shades = mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS))
    levels = np.minimum((np.clip(values, 0, 1) * LEVELS).astype(int), LEVELS - 1)
    return draw.tissue(positions, shades[levels], extent, shades, pixels=300)


def _affinities(fit: Factorisation) -> str:
    order = fit.order
    names = [str(k + 1) for k in order]
    shared = len(fit.affinity.estimate) == 1
    panels = []
    for place, (estimate, permuted, sd) in enumerate(
        zip(*(each[:MAX_TISSUES] for each in vars(fit.affinity).values()), strict=True)
    ):
        estimate, permuted, sd = (each[np.ix_(order, order)] for each in (estimate, permuted, sd))
        marked = np.abs(estimate - permuted) > 2 * sd
        upper = np.triu_indices(len(order))
        title = "" if shared or place >= len(fit.batches) else fit.batches[place]
        panels.append(
            {
                "title": title,
                "note": f"{int(marked[upper].sum())} of {len(upper[0])} pairs exceed permutation; some "
                f"{0.0455 * len(upper[0]):.0f} would by chance",
                "image": _matrices(estimate, permuted, marked, names),
                "alt": f"Affinities of metagenes {title}, estimated and after permutation of the cells",
            }
        )
    omitted = len(fit.affinity.estimate) - len(panels)
    return render("fits/batchblend/affinity", panels=panels, open=OPEN_AFFINITIES, omitted=omitted)


def _matrices(estimate: np.ndarray, permuted: np.ndarray, marked: np.ndarray, names: list[str]) -> str:
    """Draw affinities and those of permuted cells, on one scale centred at 0.

    Parameters
    ----------
    estimate, permuted
        K x K.
    marked
        K x K: what differs from permutation; a dot is drawn there.
    names
        Names of the metagenes.
    """
    with draw.figure(9.2, 4.6) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        top = max(np.abs(estimate).max(), np.abs(permuted).max(), np.finfo(float).tiny)
        # a panel is 3 inches wide: two digits fit next to one another at this size
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
        return draw.svg(figure)


_TERMS = {
    "objective": "Objective (what is minimised)",
    "data": "Data: misfit of the counts",
    "sparsity": "Sparsity: cost of many metagenes a cell",
    "spatial": "Others: cost of shares unlike what other cells make one expect",
}


def _course(fit: Factorisation) -> Page:
    history = dict(fit.history)
    phase = np.asarray(history.pop("phase", np.zeros(len(history["objective"]), dtype=int)))
    known = [*(name for name in _TERMS if name in history), *(name for name in history if name not in _TERMS)]
    starts = [0, *(np.flatnonzero(np.diff(phase)) + 1)]
    terms = {}
    for name in known:
        if history[name].dtype.kind not in "iuf":
            continue
        values = np.asarray(history[name], dtype=float)
        # a term that is 0 all through a phase has no part in it
        idle = [
            step for step in np.unique(phase) if history[name].dtype.kind == "f" and not values[phase == step].any()
        ]
        values = np.where(np.isin(phase, idle), np.nan, values)
        if np.isfinite(values).any():
            # a line for each phase, whose heights can't be compared
            parts = np.split(np.arange(len(phase)), starts[1:])
            terms[plain(_TERMS.get(name, name.replace("_", " ")))] = {
                _PHASES.get(int(phase[start]), f"phase {int(phase[start])}"): (part + 1, values[part])
                for start, part in zip(starts, parts, strict=True)
            }
    return Page(
        "Course of the fit", render("fits/batchblend/course"), "course", lines("Course of the fit", terms, "Iteration")
    )


SECTION = FitSection(
    "metagenes",
    "Metagenes",
    "Groups of genes of which every cell is a mixture, and where they occur in the tissue.",
    _pages,
)

"""Pages about the metagenes of a fit: their genes, where they are, who neighbours whom, how the fit went."""

from typing import Any

import numpy as np

from unbatch.report import embedding, figures, metagene_figures
from unbatch.report.factorisation import Factorisation
from unbatch.report.inputs import Cells
from unbatch.report.page import MAX_SECTIONS, numbered_pages, render

TOP_GENES = 8
"""Genes of a metagene that are listed."""
OPEN_ROWS, OPEN_MAPS, OPEN_AFFINITIES = 15, 6, 2
"""Metagenes in a table, metagenes on the tissue and affinities that are seen before anything is unfolded."""
MAX_MAPS = 96
"""Maps in all: with more metagenes, fewer sections are drawn."""
MAX_SPOTS = 10_000
"""Cells in a map, which is too small to show more."""

SPACE = "\u00a0"
"""A space at which no line ends, between a number and its sign."""

_PHASES = {0: "genes only", 1: "beside other cells"}


def pages(fit: Factorisation, cells: Cells, seed: int, name: str, suffix: str) -> list[dict[str, Any]]:
    """Make the pages about the metagenes of a fit.

    Parameters
    ----------
    fit
        The fit.
    cells
        Of its dataset.
    seed
        Of the choice of cells where there are too many to draw.
    name
        How the fit is called, harmless in HTML.
    suffix
        Of the names of the files.
    """
    contents = {
        "Genes": _genes(fit),
        "On the tissue": _maps(fit, cells, seed) if cells.positions is not None and len(fit.order) else "",
        "Neighbours": _affinities(fit) if fit.affinity is not None and len(fit.order) else "",
        "Course of the fit": _course(fit) if fit.history else "",
    }
    return numbered_pages("metagenes", name, contents, suffix)


def amount(value: float, digits: int = 3) -> str:
    """Write a number of counts for people: ``0.123``, ``12.3``, ``1,230``."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.{digits}g}"


def share(value: float) -> str:
    """Write a share for people: ``12 %``, ``0.4 %``, ``< 0.1 %``."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return f"<{SPACE}0.1{SPACE}%"
    return f"{percent:.{1 if 0 < percent < 9.95 else 0}f}{SPACE}%"


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


def times(ratio: float) -> str:
    """Write a factor for people: ``× 1.4``, ``÷ 1.4``, ``× 1``."""
    if not np.isfinite(ratio) or ratio <= 0:
        return "–"
    size = max(ratio, 1 / ratio)
    written = "more than 99" if size > 99 else f"{size:.0f}" if size >= 9.95 else f"{size:.2g}"
    return f"{'÷' if ratio < 1 and written != '1' else '×'}{SPACE}{written}"


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
    return render("metagenes", rows=rows, open=OPEN_ROWS, genes=len(fit.genes), dead=dead, corrects=corrects)


def _maps(fit: Factorisation, cells: Cells, seed: int) -> str:
    order = fit.order
    most = max(min(MAX_SECTIONS, MAX_MAPS // max(len(order), 1)), 1)
    sections = embedding.sections(cells.positions, cells.batches_of_sections(), cells.section, most)
    colours = figures.section_colours(cells.batches, cells.batches_of_sections())
    rng = np.random.default_rng(seed)
    members = {code: sections.members[code] for code in sections.shown}
    full = max(map(len, members.values()))
    for code, found in members.items():
        if len(found) > MAX_SPOTS:
            members[code] = np.sort(rng.choice(found, MAX_SPOTS, replace=False))
    caption = sections.directions
    if len(sections.shown) < len(cells.sections):
        caption += f" Shown are {len(sections.shown)} of {len(cells.sections)} sections."
    if full > MAX_SPOTS:
        caption += f" Up to {MAX_SPOTS:,} cells of a section, chosen at random."
    genes = gloss(fit)
    rows = []
    for k in order:
        values = fit.shares[:, k]
        # a metagene that less than 1 % of the cells have still has a scale
        top = float(np.percentile(values, 99)) or float(values.max())
        rows.append(
            {
                "number": k + 1,
                "genes": genes[k],
                "top": share(top),
                "panels": [
                    {
                        "image": metagene_figures.share_map(
                            sections.positions[found], values[found], top or 1, sections.extent
                        ),
                        "alt": f"Share of metagene {k + 1} in the cells of section {cells.sections[code]}",
                    }
                    for code, found in members.items()
                ],
            }
        )
    heads = [{"name": cells.sections[code], "colour": colours[code]} for code in members]
    return render("maps", caption=caption, heads=heads, rows=rows, open=OPEN_MAPS)


def _affinities(fit: Factorisation) -> str:
    order = fit.order
    names = [str(k + 1) for k in order]
    shared = len(fit.affinity.estimate) == 1
    panels = []
    for place, (estimate, permuted, sd) in enumerate(
        zip(*(each[:MAX_SECTIONS] for each in vars(fit.affinity).values()), strict=True)
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
                "image": metagene_figures.affinity(estimate, permuted, marked, names),
                "alt": f"Affinities of metagenes {title}, estimated and after permutation of the cells",
            }
        )
    omitted = len(fit.affinity.estimate) - len(panels)
    return render("affinity", panels=panels, open=OPEN_AFFINITIES, omitted=omitted)


_TERMS = {
    "objective": "Objective (what is minimised)",
    "data": "Data: misfit of the counts",
    "sparsity": "Sparsity: cost of many metagenes a cell",
    "spatial": "Others: cost of shares unlike what other cells make one expect",
}


def _course(fit: Factorisation) -> str:
    history = dict(fit.history)
    phase = history.pop("phase", np.zeros(len(history["objective"]), dtype=int))
    for name, values in history.items():
        # a term that is 0 all through a phase has no part in it
        idle = [step for step in np.unique(phase) if values.dtype.kind == "f" and not values[phase == step].any()]
        history[name] = np.where(np.isin(phase, idle), np.nan, values) if idle else values
    known = [name for name in _TERMS if name in history]
    terms = {
        _TERMS.get(name, name.replace("_", " ")[:40]): np.asarray(history[name], dtype=float)
        for name in [*known, *(name for name in history if name not in _TERMS)]
        if history[name].dtype.kind in "iuf" and np.isfinite(history[name]).any()
    }
    return render(
        "figure",
        caption="Good: every phase falls and ends flat. Bad: still falling at the end (more iterations are needed), or "
        "jumping up and down. At a dashed line the next phase begins, whose objective may have other terms, so that "
        "heights before and after it can't be compared.",
        image=metagene_figures.course(terms, np.asarray(phase), _PHASES),
        alt="Objective of the fit and its terms over the iterations.",
    )

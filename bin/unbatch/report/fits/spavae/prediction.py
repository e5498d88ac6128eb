"""What a spaVAE predicts: held-out spots, their place in the embedding, and maps of genes, measured and predicted."""

from collections.abc import Iterator

import numpy as np

from unbatch.report import draw, embedding
from unbatch.report.fits.spavae.drawing import SPOT, Tissue, ends, shaded
from unbatch.report.fits.spavae.read import Spatial
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import decimals

MOST_SECTIONS = 2
"""Sections of a map of genes."""
MOST_GENES, OPEN = 16, 4
"""Genes that are mapped, and those that are seen before anything is unfolded."""
MOST_CELLS = 4_000
"""Cells of a layout."""
_RIVALS = {
    "spavae": "spaVAE",
    "kriging": "Gaussian process on the encoder's inputs",
    "nearest": "Mean of the 30 nearest spots",
    "means": "Mean of each gene",
}
_WHY = {"named": "named in maps", "varying": "varies most by the model", "spatial": "smallest p-value"}
HELD = "held out"


def _pages(fit: Spatial, shown: Shown) -> Iterator[Page]:
    if fit.held_out:
        yield Page("Held-out spots", _held_out(fit), "held_out")
    if (fit.part == HELD).any():
        yield Page("Held-out spots in the embedding (UMAP)", _layout(fit, shown), "umap")
    if fit.maps is not None and shown.cells.positions is not None:
        chosen = [number for number, why in enumerate(fit.maps.why) if why != "spatial"]
        if chosen:
            yield Page("Genes, measured and predicted", gene_maps(fit, shown, chosen[:MOST_GENES]), "genes")


def _held_out(fit: Spatial) -> str:
    losses = {name: loss for name, (loss, _) in fit.held_out.items()}
    rivals = {name: loss for name, loss in losses.items() if name != "spavae"}
    nearest = min(rivals, key=rivals.get)
    rows = [
        {
            "name": _RIVALS.get(name, name),
            "loss": decimals(loss, 1),
            "less": "" if name == "spavae" else decimals(loss - losses["spavae"], 1),
            # what is the same everywhere has no correlation
            "correlation": decimals(None if name == "means" else correlation, 3),
        }
        for name, (loss, correlation) in sorted(fit.held_out.items(), key=lambda each: each[1][0])
    ]
    ahead = rivals[nearest] - losses["spavae"]
    return render(
        "fits/spavae/held_out",
        rows=rows,
        spots=int((fit.part == HELD).sum()),
        wins=ahead > 0,
        ahead=decimals(abs(ahead), 1),
        rival=_RIVALS.get(nearest, nearest),
    )


def _layout(fit: Spatial, shown: Shown) -> str:
    cells, held = shown.cells, fit.part == HELD
    rng = np.random.default_rng(shown.seed)
    rows = np.sort(rng.permutation(len(held))[:MOST_CELLS])
    positions = embedding.umap(fit.embedding[rows], shown.seed)
    by_label = cells.label is not None
    names = cells.labels if by_label else [f"Domain {code}" for code in range(fit.number)]
    codes = (cells.label if by_label else fit.domains["mixture"])[rows]
    legend = draw.legend(names, numbered=len(names) > len(draw.OKABE_ITO))
    marks = draw.Legend(["the others", HELD], [draw.FAINT, "#D55E00"])
    panels = [
        {
            "title": "By label" if by_label else "By domain",
            "note": "",
            "image": draw.cells(positions, codes, legend, shown.seed),
            "alt": "UMAP of the embedding by label or domain",
        },
        {
            "title": "Held-out spots",
            "note": f"{int(held[rows].sum()):,} of {len(rows):,}",
            "image": draw.cells(positions, held[rows].astype(int), marks, shown.seed),
            "alt": "UMAP of the embedding, held-out spots marked",
        },
    ]
    near = _own_neighbours(positions, held[rows])
    return render(
        "fits/spavae/layout",
        panels=panels,
        legend=legend,
        marks=marks,
        missing="unlabelled" if (codes < 0).any() else None,
        shown=len(rows),
        all=len(held),
        near=None if near is None else f"{100 * near:.0f} %",
        share=f"{100 * held[rows].mean():.0f} %",
    )


def _own_neighbours(positions: np.ndarray, held: np.ndarray) -> float | None:
    """Share of held-out spots among the ten nearest ones of a held-out spot in a layout."""
    from scipy.spatial import cKDTree

    if len(held) < 12 or not held.any():
        return None
    near = cKDTree(positions).query(positions[held], 11)[1][:, 1:]
    return float(held[near].mean())


def gene_maps(fit: Spatial, shown: Shown, chosen: list[int], notes: dict[int, str] | None = None) -> str:
    """Make a table of maps of some genes of `Spatial.maps`: a row each, columns for what was measured and predicted.

    Parameters
    ----------
    fit, shown
        The fit, and what else may be known.
    chosen
        Numbers of the genes.
    notes
        What is written below the name of a gene, by its number; by default why it is there.
    """
    tissue, maps = Tissue.of(shown.cells, MOST_SECTIONS, shown.seed), fit.maps
    held = fit.part == HELD
    heads = ["counts", "denoised", *([HELD] if held.any() else [])]
    heads += [*(["finer"] if fit.finer is not None else []), *(["new positions"] if fit.new is not None else [])]
    several = len(tissue.members) > 1
    rows, omitted = [], 0
    if fit.new is not None:
        omitted = int(sum(not _drawn(tissue, code, fit).all() for code in tissue.members))
    for number in chosen:
        raw, denoised = maps.raw[:, number], maps.denoised[:, number]
        low, high = ends(denoised)
        panels = []
        for code, members in tissue.members.items():
            of_raw, shades = shaded(raw, 0, ends(raw)[1])
            of_model, _ = shaded(denoised, low, high)
            images = [tissue.coloured(code, of_raw, shades), tissue.coloured(code, of_model, shades)]
            if held.any():
                rows_held = members[held[members]]
                images.append(tissue.around(code, tissue.positions[rows_held], of_model[rows_held], shades))
            if fit.finer is not None:
                own = np.flatnonzero(np.isin(np.repeat(np.arange(len(raw)), 5), members))
                colours, _ = shaded(fit.finer.expression[own, number], low, high)
                places = tissue.placed(fit.finer.position[own])
                images.append(draw.tissue(places, colours, tissue.extent, shades, pixels=400))
            if fit.new is not None:
                own = np.flatnonzero(fit.new.section == code)
                own = own[_drawn(tissue, code, fit)]
                colours, _ = shaded(fit.new.expression[own, number], low, high)
                images.append(tissue.around(code, tissue.placed(fit.new.position[own]), colours, shades))
            panels += [
                {"image": image, "alt": f"{maps.genes[number]}, {head}, section {tissue.names[code]}"}
                for image, head in zip(images, heads, strict=True)
            ]
        rows.append(
            {
                "gene": maps.genes[number],
                "note": _WHY.get(maps.why[number], "") if notes is None else notes[number],
                "low": decimals(low),
                "high": decimals(high),
                "raw": decimals(ends(raw)[1]),
                "panels": panels,
            }
        )
    names = [f"{tissue.names[code]}: {head}" if several else head for code in tissue.members for head in heads]
    return render(
        "fits/spavae/maps",
        heads=names,
        kinds=heads,
        rows=rows,
        open=OPEN,
        caption=tissue.caption,
        spatial=notes is not None,
        omitted=omitted,
        spot=SPOT,
    )


def _drawn(tissue: Tissue, code: int, fit: Spatial) -> np.ndarray:
    """Say which new positions of a section are within its picture."""
    own = fit.new.section == code
    return tissue.inside(code, tissue.placed(fit.new.position[own]))


SECTION = FitSection(
    "prediction",
    "Prediction over the tissue",
    "What the model says of spots that it did not see, and of genes.",
    _pages,
)

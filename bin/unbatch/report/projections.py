"""Cells as if from each batch: genomaps, genes that batches change most, tests between groups of batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unbatch.errors import InputError
from unbatch.report import genomap, genomap_figures
from unbatch.report.factorisation import Source
from unbatch.report.page import make_page, render

SHOWN_CELLS, SHOWN_BATCHES, MARKED = 6, 6, 10
"""Rows and batches of the panel, and genes that are circled in it."""
TOP_GENES = 6
"""Genes of a label that are listed."""
FDR = 0.1
"""Level that tests are counted at."""

WAYS = {
    "batch-free": "the embedding that is free of the batch is decoded with the random effects of the other batch",
    "published": "encoder and decoder take the random effects of the other batch, as published",
    "decoder": "the decoder alone takes the random effects of the other batch",
}


@dataclass(frozen=True, eq=False)
class Panel:
    """Some cells as they are, reconstructed, and as if from each batch: m cells, T batches, g genes.

    Attributes
    ----------
    way
        How cells are put into another batch.
    labels, own
        Label (empty: none) and batch of each cell.
    medoids
        So many cells, the first ones, are typical of a label or a batch.
    genes, batches
        Names.
    input
        Log-normalised expression, m x g.
    fixed
        Its reconstruction without the batch, m x g, or None.
    random
        The cells as if from each batch, T x m x g.
    """

    way: str
    labels: list[str]
    own: list[str]
    medoids: int
    genes: list[str]
    batches: list[str]
    input: np.ndarray
    fixed: np.ndarray | None
    random: np.ndarray


@dataclass(frozen=True, eq=False)
class Tests:
    """Tests by label and gene between two groups of batches: L labels, G genes.

    Attributes
    ----------
    way, column
        How cells were put into batches, and the column of obs that divides these.
    names, batches
        Names of the groups and numbers of their batches.
    smallest_p
        Which the test of ranks can't go below.
    labels, cells
        Names, and how many cells were put into every batch.
    observed_batches
        Batches of each group that have cells of the label, L x 2.
    tested
        L x G by name, NaN for what could not be tested: difference, se, p, fdr, rank_p, rank_fdr of projections, and
        observed_difference, observed_p, observed_fdr of the cells themselves.
    """

    way: str
    column: str
    names: list[str]
    batches: list[int]
    smallest_p: float
    labels: list[str]
    cells: np.ndarray
    observed_batches: np.ndarray
    tested: dict[str, np.ndarray]


_TESTED = (
    *("difference", "se", "p", "fdr", "rank_p", "rank_fdr"),
    *("observed_difference", "observed_p", "observed_fdr"),
)


def read_panel(source: Source, given: dict[str, Any] | None) -> Panel | None:
    """Take the panel out of a fit; None if there is none, or no batch that cells were put into.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    if not given or "random" not in given:
        return None
    labels, own, genes, batches = (_names(given, key) for key in ("labels", "own", "genes", "batches"))
    shape = (len(labels), len(genes))
    fixed = source.numbers(given, "fixed", shape) if "fixed" in given else None
    found = source.numbers(given, "input", shape), source.numbers(given, "random", (len(batches), *shape))
    medoids = int(given.get("medoids", 0))
    if len(own) != len(labels) or not 1 <= medoids <= len(labels):
        raise InputError(f"{source.path}: panel: {len(own)} batches and {medoids} medoids of {len(labels)} cells")
    if not all(np.isfinite(values).all() for values in (*found, *([] if fixed is None else [fixed]))):
        raise InputError(f"{source.path}: panel: expected finite numbers")
    return Panel(str(given.get("way", "")), labels, own, medoids, genes, batches, found[0], fixed, found[1])


def read_tests(source: Source, given: dict[str, Any] | None, genes: int) -> Tests | None:
    """Take the tests between groups out of a fit, None if there are none.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    if not given:
        return None
    labels, names = _names(given, "labels"), _names(given, "names")
    values = {name: source.numbers(given, name, (len(labels), genes)) for name in _TESTED}
    batches = source.numbers(given, "batches", (2,))
    if len(names) != 2:
        raise InputError(f"{source.path}: groups: {len(names)} names of groups, expected two")
    return Tests(
        str(given.get("way", "")),
        str(given.get("column", "")),
        names,
        [int(n) for n in batches],
        float(given.get("smallest_p", 0)),
        labels,
        source.numbers(given, "cells", (len(labels),)),
        source.numbers(given, "observed_batches", (len(labels), 2)),
        values,
    )


def _names(given: dict[str, Any], key: str) -> list[str]:
    return [str(name) for name in np.atleast_1d(given.get(key, []))]


def panel_page(found: Panel, name: str, suffix: str) -> dict[str, Any]:
    """Make the page of genomaps, with a table of the genes that the batches change most.

    Parameters
    ----------
    found
        What is drawn.
    name
        How the fit is called, harmless in HTML.
    suffix
        Of the name of the file.
    """
    shown = range(min(found.medoids, SHOWN_CELLS))
    chosen = _batches(found, [found.own[i] for i in shown])
    fixed = [] if found.fixed is None else [found.fixed]
    stack = genomap.standardise(np.stack([found.input, *fixed, *found.random]))
    places = genomap.fit_genomap(stack)
    first = 1 + len(fixed)
    several = len(found.batches) > 1
    marked = genomap.top_genes(stack[first:], MARKED).tolist() if several else []
    columns = ["input", *(["fixed effects"] if fixed else []), *(f"as {found.batches[code]}" for code in chosen)]
    blocks = [*range(first), *(first + code for code in chosen)]
    own = [first + chosen.index(code) if (code := _code(found, i)) in chosen else -1 for i in shown]
    image = genomap_figures.panel(
        places,
        stack[np.ix_(blocks, list(shown))],
        columns,
        [found.labels[i] or found.own[i] for i in shown],
        marked,
        found.genes,
        own,
    )
    content = render(
        "genomaps",
        image=image,
        way=WAYS.get(found.way, found.way),
        published=found.way == "published",
        fixed=bool(fixed),
        genes=f"{len(found.genes):,}",
        stack=f"{len(found.labels):,}",
        shown=[{"label": found.labels[i] or "no label", "batch": found.own[i]} for i in shown],
        omitted=len(found.batches) - len(chosen),
        rows=_changed(found) if several else [],
    )
    return make_page("genomap", f"{name}, genomaps of cells as if from each batch", content, suffix)


def _code(found: Panel, cell: int) -> int:
    """Batch of a cell among those that cells were put into, -1 for another one."""
    return found.batches.index(found.own[cell]) if found.own[cell] in found.batches else -1


def _batches(found: Panel, first: list[str]) -> list[int]:
    """Choose the batches to show: those of the cells that are shown first, in the order of all."""
    own = [found.batches.index(name) for name in dict.fromkeys(first) if name in found.batches]
    others = [code for code in range(len(found.batches)) if code not in own]
    return sorted([*own, *others][:SHOWN_BATCHES])


def _changed(found: Panel) -> list[dict[str, Any]]:
    """List by label the genes with the largest standard deviation over the batches, mean over the cells kept of it."""
    rows = []
    for label in dict.fromkeys(found.labels):
        cells = np.array([each == label for each in found.labels])
        moved = found.random[:, cells]
        spread = moved.std(axis=0, ddof=1).mean(axis=0)
        mean = moved.mean(axis=1)
        top = [g for g in genomap.top_genes(moved, TOP_GENES) if spread[g] > 0]
        rows.append(
            {
                "label": label,
                "cells": f"{int(cells.sum()):,}",
                "genes": [
                    {
                        "name": found.genes[g],
                        "sd": f"{spread[g]:.2f}" if spread[g] >= 0.0095 else f"{spread[g]:.1g}",
                        "high": found.batches[int(mean[:, g].argmax())],
                        "low": found.batches[int(mean[:, g].argmin())],
                    }
                    for g in top
                ],
            }
        )
    return rows


def tests_page(found: Tests, genes: list[str], name: str, suffix: str) -> dict[str, Any]:
    """Make the page of tests between groups of batches.

    Parameters
    ----------
    found
        The tests.
    genes
        Names of the genes.
    name, suffix
        See `panel_page`.
    """
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
                        "difference": f"{of['difference'][g]:+.2f}".replace("-", "−"),
                        "fdr": f"{of['fdr'][g]:.2g}",
                        "passes": bool(of["fdr"][g] < FDR),
                    }
                    for g in order
                    if not np.isnan(of["p"][g])
                ],
            }
        )
    content = render(
        "groups",
        way=WAYS.get(found.way, found.way),
        column=found.column,
        names=found.names,
        batches=found.batches,
        smallest=f"{found.smallest_p:.2g}",
        level=f"{FDR:g}",
        rows=rows,
        genes=f"{len(genes):,}",
    )
    return make_page("effect", f"{name}, groups of batches", content, f"{suffix}_groups")

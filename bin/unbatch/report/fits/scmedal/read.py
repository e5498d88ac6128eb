"""Reading what fits of autoencoders hold: training, shifts of genes, tests between groups, cells for genomaps."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unbatch.errors import InputError
from unbatch.report.read import Dataset, FitFile, names_in

WAYS = {
    "batch-free": "the embedding that is free of the batch is decoded with the random effects of the other batch",
    "published": "encoder and decoder take the random effects of the other batch, as published",
    "decoder": "the decoder alone takes the random effects of the other batch",
}


@dataclass(frozen=True, eq=False)
class Training:
    """How one model was trained.

    Attributes
    ----------
    terms
        Loss terms and scores by name, a value an epoch.
    best
        The epoch whose weights were kept, from 1.
    weights
        Weights of the terms in the total.
    """

    terms: dict[str, np.ndarray]
    best: int
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Cells as if from other batches: B of them, L labels, G genes.

    Attributes
    ----------
    way
        How cells are put into another batch.
    batches, labels
        Names; an empty label is that of cells without one.
    cells
        How many there are of each label, L.
    shift, shift_se
        Mean change of the log-normalised expression of these cells and its standard error, B x L x G.
    """

    way: str
    batches: list[str]
    labels: list[str]
    cells: np.ndarray
    shift: np.ndarray
    shift_se: np.ndarray


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


@dataclass(frozen=True, eq=False)
class Autoencoders:
    """A fit of one or more autoencoders; `models` are by kind, such as ``"fe"``, none of models that were applied."""

    genes: list[str]
    models: dict[str, Training]
    counterfactual: Counterfactual | None = None
    tests: Tests | None = None
    panel: Panel | None = None


def read_autoencoders(fit: FitFile, dataset: Dataset | None = None) -> Autoencoders | None:
    """Read a fit of autoencoders; None of a fit of another program that only has the method's name.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    about = fit.about
    if "best_epoch" not in about:
        return None
    models = {}
    for kind, best in about["best_epoch"].items():
        names = [name for name in about.get("history", {}) if name.startswith(f"{kind}.")]
        first = fit.numbers(about["history"], names[0], (None,)) if names else np.zeros(0)
        terms = {name.split(".", 1)[1]: fit.numbers(about["history"], name, first.shape) for name in names}
        if not 1 <= int(best) <= len(first):
            raise InputError(f"{fit.path}: best_epoch of {kind} is {best}, expected one of the {len(first)} in history")
        given = about.get("loss_weights", {})
        weights = {term: float(given[f"{kind}.{term}"]) for term in terms if f"{kind}.{term}" in given}
        models[str(kind)] = Training(terms, int(best), weights)
    genes = fit.genes if dataset is None else dataset.shown(fit.genes)
    panel = _panel(fit, about.get("panel"))
    if panel and dataset:
        panel = replace(panel, genes=dataset.shown(panel.genes))
    return Autoencoders(
        genes,
        models,
        _counterfactual(fit, about.get("counterfactual"), len(genes)),
        _tests(fit, about.get("groups"), len(genes)),
        panel,
    )


def _counterfactual(fit: FitFile, given: dict[str, Any] | None, genes: int) -> Counterfactual | None:
    if not given:
        return None
    batches, labels = names_in(given, "batches"), names_in(given, "labels")
    shape = (len(batches), len(labels), genes)
    shift, shift_se = (fit.numbers(given, name, shape) for name in ("shift", "shift_se"))
    if not (np.isfinite(shift).all() and np.isfinite(shift_se).all() and (shift_se >= 0).all()):
        raise InputError(f"{fit.path}: counterfactual: shift and shift_se must be finite, errors not below 0")
    cells = fit.numbers(given, "cells", (len(labels),))
    return Counterfactual(str(given.get("way", "")), batches, labels, cells, shift, shift_se)


def _panel(fit: FitFile, given: dict[str, Any] | None) -> Panel | None:
    """Take the panel out of a fit; None if there is none, or no batch that cells were put into."""
    if not given or "random" not in given:
        return None
    labels, own, genes, batches = (names_in(given, key) for key in ("labels", "own", "genes", "batches"))
    shape = (len(labels), len(genes))
    fixed = fit.numbers(given, "fixed", shape) if "fixed" in given else None
    found = fit.numbers(given, "input", shape), fit.numbers(given, "random", (len(batches), *shape))
    medoids = int(given.get("medoids", 0))
    if len(own) != len(labels) or not 1 <= medoids <= len(labels):
        raise InputError(f"{fit.path}: panel: {len(own)} batches and {medoids} medoids of {len(labels)} cells")
    if not all(np.isfinite(values).all() for values in (*found, *([] if fixed is None else [fixed]))):
        raise InputError(f"{fit.path}: panel: expected finite numbers")
    return Panel(str(given.get("way", "")), labels, own, medoids, genes, batches, found[0], fixed, found[1])


def _tests(fit: FitFile, given: dict[str, Any] | None, genes: int) -> Tests | None:
    """Take the tests between groups out of a fit, None if there are none."""
    if not given:
        return None
    labels, names = names_in(given, "labels"), names_in(given, "names")
    values = {name: fit.numbers(given, name, (len(labels), genes)) for name in _TESTED}
    batches = fit.numbers(given, "batches", (2,))
    if len(names) != 2:
        raise InputError(f"{fit.path}: groups: {len(names)} names of groups, expected two")
    return Tests(
        str(given.get("way", "")),
        str(given.get("column", "")),
        names,
        [int(n) for n in batches],
        float(given.get("smallest_p", 0)),
        labels,
        fit.numbers(given, "cells", (len(labels),)),
        fit.numbers(given, "observed_batches", (len(labels), 2)),
        values,
    )

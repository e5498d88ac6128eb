"""Reading what fits of spaVAE hold: domains, training, inducing points, predictions, genes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unbatch.errors import InputError
from unbatch.report.read import Dataset, FitFile, names_in

CLUSTERERS = {"mixture": "Mixture", "kmeans": "k-means"}
"""Clusterers by their name in a fit."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Some genes of all cells.

    Attributes
    ----------
    genes, place, why
        Names, numbers among all genes of the fit, and the reason of each.
    raw, denoised
        Counts over size factors, and what the model expects of them, n x g each.
    """

    genes: list[str]
    place: list[int]
    why: list[str]
    raw: np.ndarray
    denoised: np.ndarray


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """The same genes at other positions than those of the cells.

    Attributes
    ----------
    position
        m x d, as in ``obsm/spatial``.
    section
        Code of the section of each, m; -1 for one that the dataset has not.
    expression
        m x g.
    distance
        To the nearest spot in spot pitches, m; None where the positions are made from the spots.
    """

    position: np.ndarray
    section: np.ndarray
    expression: np.ndarray
    distance: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Inducing:
    """Inducing points by section: names, how many, what they leave of the variance, how many are needed, and where."""

    sections: list[str]
    points: np.ndarray
    residual: np.ndarray
    largest: np.ndarray
    scale: np.ndarray
    needed: np.ndarray
    tolerance: float
    position: np.ndarray


@dataclass(frozen=True, eq=False)
class Differential:
    """Tests between groups of cells: column, names, and P groups x G arrays by name."""

    column: str
    groups: list[str]
    values: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Restarts:
    """Fits of several seeds: seeds, loss of each, the seed that was kept, spots that chose, agreement by clusterer."""

    seeds: np.ndarray
    loss: np.ndarray
    kept: int
    spots: int
    agreement: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Spatial:
    """A fit of spaVAE.

    Attributes
    ----------
    genes
        Names as the report writes them.
    embedding, part
        Embedding, n x d, and the part of each cell in the fit, n.
    domains, number, chosen
        Codes by clusterer (``NAME`` and ``NAME_refined``), how many, and whether the data chose that.
    history, best
        Terms by epoch, and the epoch that was kept; nothing of a model that was applied.
    held_out
        By model: minus log likelihood per spot and correlation.
    spatial
        Columns of the tests of all genes, G each.
    """

    genes: list[str]
    embedding: np.ndarray
    part: np.ndarray
    domains: dict[str, np.ndarray]
    number: int
    chosen: bool
    history: dict[str, np.ndarray]
    best: int
    inducing: Inducing | None
    held_out: dict[str, tuple[float, float]]
    maps: Maps | None
    finer: Elsewhere | None
    new: Elsewhere | None
    spatial: dict[str, np.ndarray]
    differential: Differential | None
    restarts: Restarts | None


def read_spatial(fit: FitFile, dataset: Dataset) -> Spatial | None:
    """Read a fit of spaVAE; None of a fit of another program that only has the method's name.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    about, cells = fit.about, dataset.cells
    if "domains" not in about:
        return None
    given, own = about["domains"], [fit.genes, dataset.shown(fit.genes)]
    shown = dict(zip(*own, strict=True))
    names = [f"{name}{end}" for name in CLUSTERERS for end in ("", "_refined")]
    labels = {name: fit.numbers(given, name, (len(cells.names),)).astype(int) for name in names}
    number = int(given.get("number", 0))
    if any(each.min() < 0 or each.max() >= number for each in labels.values()):
        raise InputError(f"{fit.path}: domains has codes that are not 0 to {number - 1}, which its number says")
    history = {str(name): np.atleast_1d(values) for name, values in about.get("history", {}).items()}
    maps = _maps(fit, about.get("maps"), len(cells.names), shown)
    return Spatial(
        genes=own[1],
        embedding=fit.embedding,
        part=np.asarray(about.get("part", [""] * len(cells.names))).astype(str),
        domains=labels,
        number=number,
        chosen=bool(given.get("chosen", False)),
        history=history,
        best=int(about.get("best_epoch", 0)),
        inducing=_inducing(fit, about.get("inducing")),
        held_out=_held_out(fit, about.get("held_out")),
        maps=maps,
        finer=_finer(fit, about.get("enhanced"), cells.section),
        new=_new(fit, about.get("predicted"), cells.sections, [] if maps is None else names_in(about["maps"], "genes")),
        spatial=_spatial(fit, about.get("spatial_genes"), len(own[0])),
        differential=_differential(fit, about.get("differential"), len(own[0])),
        restarts=_restarts(fit, about.get("restarts")),
    )


def _maps(fit: FitFile, given: dict[str, Any] | None, cells: int, shown: dict[str, str]) -> Maps | None:
    if not given:
        return None
    genes, why = names_in(given, "genes"), names_in(given, "why")
    values = (fit.numbers(given, name, (cells, len(genes))) for name in ("raw", "denoised"))
    if len(why) != len(genes):
        raise InputError(f"{fit.path}: maps has {len(genes)} genes and {len(why)} reasons, expected one for each")
    absent = [gene for gene in genes if gene not in shown]
    if absent:
        raise InputError(f"{fit.path}: maps has the gene {absent[0]!r}, expected genes of the fit")
    place = list(shown)
    return Maps([shown[gene] for gene in genes], [place.index(gene) for gene in genes], why, *values)


def _inducing(fit: FitFile, given: dict[str, Any] | None) -> Inducing | None:
    # fits of older versions have no positions of them
    if not given or "position" not in given:
        return None
    sections = names_in(given, "sections")
    numbers = [
        fit.numbers(given, name, (len(sections),)) for name in ("points", "residual", "largest", "scale", "needed")
    ]
    position = fit.numbers(given, "position", (int(numbers[0].sum()), None))
    return Inducing(sections, *numbers, float(given["tolerance"]), position)


def _held_out(fit: FitFile, given: dict[str, Any] | None) -> dict[str, tuple[float, float]]:
    if not given:
        return {}
    models = names_in(given, "models")
    columns = (fit.numbers(given, name, (len(models),)).tolist() for name in ("nb_per_spot", "correlation"))
    return dict(zip(models, zip(*columns, strict=True), strict=True))


def _finer(fit: FitFile, given: dict[str, Any] | None, section: np.ndarray) -> Elsewhere | None:
    if not given:
        return None
    spot = fit.numbers(given, "spot", (None,)).astype(int)
    position = fit.numbers(given, "position", (len(spot), None))
    expression = fit.numbers(given, "expression", (len(spot), len(names_in(given, "genes"))))
    return Elsewhere(position, section[spot], expression)


def _new(fit: FitFile, given: dict[str, Any] | None, sections: list[str], genes: list[str]) -> Elsewhere | None:
    if not given or not genes:
        return None
    position = fit.numbers(given, "position", (None, None))
    expression = fit.numbers(given, "expression", (len(position), len(fit.genes)))
    section = [sections.index(name) if name in sections else -1 for name in names_in(given, "section")]
    columns = [fit.genes.index(gene) for gene in genes]
    distance = fit.numbers(given, "distance", (len(position),))
    return Elsewhere(position, np.array(section, dtype=int), expression[:, columns], distance)


def _spatial(fit: FitFile, given: dict[str, Any] | None, genes: int) -> dict[str, np.ndarray]:
    needed = ("p_value", "q_value", "scale", "moran", "moran_p_value")
    found = {name: fit.numbers(given, name, (genes,)) for name in needed} if given else {}
    more = ("share", "permuted")
    return found | {name: fit.numbers(given, name, (genes,)) for name in more if found and name in given}


def _differential(fit: FitFile, given: dict[str, Any] | None, genes: int) -> Differential | None:
    if not given:
        return None
    groups = names_in(given, "groups")
    names = ("change", "bayes_factor", "probability", "first", "second")
    values = {name: fit.numbers(given, name, (len(groups), genes)) for name in names}
    return Differential(str(given.get("column", "")), groups, values | {"delta": fit.numbers(given, "delta", (None,))})


def _restarts(fit: FitFile, given: dict[str, Any] | None) -> Restarts | None:
    if not given:
        return None
    seeds = fit.numbers(given, "seeds", (None,))
    agreement = {name: fit.numbers(given, name, (len(seeds), len(seeds))) for name in CLUSTERERS}
    loss = fit.numbers(given, "loss", (len(seeds),))
    return Restarts(seeds, loss, int(given["kept"]), int(given["spots"]), agreement)

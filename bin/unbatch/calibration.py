"""The table of the null calibration: what each method does to one batch that is called two.

What is computed is in `unbatch.metrics.calibration`, on arrays; here fits are put together by method, split and seed,
and rows are made of what was found. The program `calibrate` calls it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch.data.halves import KIND, SPLITS
from unbatch.errors import InputError
from unbatch.metrics import calibration, jackknife, uncertainty
from unbatch.metrics.integration import LISI_NEIGHBOURS, nearest_neighbours
from unbatch.metrics.uncertainty import Interval, Sample
from unbatch.scoring import rounded

if TYPE_CHECKING:
    from anndata import AnnData
    from scib_metrics.nearest_neighbors import NeighborsResults

SCHEMA = 1
"""Version of calibration.json."""

REFERENCE, COMPARED = SPLITS[0], SPLITS[1:]

EXPRESSION = {"layers/corrected": "counts", "layers/denoised": "rates", "layers/corrected_log": "log"}
"""Slots of a fit with corrected expression, and what they hold: counts, counts at median depth, logarithms."""


class Code(StrEnum):
    """What a method does that it has no cause for."""

    DISPLACED_RANDOM = "displaced_random"
    DISPLACED_UNLIKE = "displaced_unlike"
    MIXED = "mixed"
    GENES_RANDOM = "genes_random"
    GENES_UNLIKE = "genes_unlike"


@dataclass(frozen=True, eq=False)
class Fitted:
    """What is compared of a fit.

    Attributes
    ----------
    near
        Neighbours of all cells, themselves first.
    expression
        Corrected expression on a logarithmic scale, n x g; None where the fit has none or it is not wanted.
    genes, slot
        Names of the g genes, and where the expression was.
    factors
        Share of the genes' factors whose interval excludes 1; None of methods without factors.
    """

    near: "NeighborsResults"
    expression: "np.ndarray | None" = None
    genes: tuple[str, ...] = ()
    slot: str | None = None
    factors: float | None = None

    @property
    def neighbours(self) -> np.ndarray:
        """Positions of the neighbours, n x k."""
        return np.asarray(self.near.indices)[:, 1 : calibration.NEIGHBOURS + 1]


def neighbours(embedding: np.ndarray) -> "NeighborsResults":
    """Find as many neighbours of every cell as the table needs, itself first."""
    embedding = np.ascontiguousarray(embedding, dtype=np.float32)
    return nearest_neighbours(embedding[:, np.ptp(embedding, axis=0) > 0], LISI_NEIGHBOURS)


def logarithms(values: np.ndarray, scale: str, size_factor: np.ndarray) -> np.ndarray:
    """Bring expression to the scale of ``X`` of a dataset.

    Parameters
    ----------
    values
        n x g.
    scale
        What they are: a value of `EXPRESSION`.
    size_factor
        Size factors of the cells, n.
    """
    if scale == "log":
        return values
    return np.log1p(np.maximum(values, 0) / (size_factor[:, None] if scale == "counts" else 1))


@dataclass(frozen=True, eq=False)
class Halved:
    """The cells in their splits: halves by split (n codes each), kinds of cells (n codes), and groups of cells (n)."""

    half: dict[str, np.ndarray]
    kind: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, datasets: "Mapping[str, AnnData]", seed: int) -> "Halved":
        """Take the halves out of the datasets of the splits."""
        half = {split: each.obs["batch"].cat.codes.to_numpy().astype(np.int64) for split, each in datasets.items()}
        kind = datasets[REFERENCE].obs[KIND].cat.codes.to_numpy().astype(np.int64)
        return cls(half, kind, uncertainty.deal(kind, seed))

    def mixing(self, fits: Iterable[Fitted]) -> Sample:
        """How the halves of the split `unlike` mix in some fits: iLISI, 0 to 1, by fit and without groups of cells."""
        values = []
        for fit in fits:
            near, distances = np.asarray(fit.near.indices), np.asarray(fit.near.distances)
            other = near != np.arange(len(near))[:, None]
            weights = jackknife.neighbour_weights(distances, other, np.floor(near.shape[1] / 3))
            values.append(jackknife.lisi(near, weights, self.half["unlike"], self.group, int(self.group.max()) + 1) - 1)
        return Sample(np.array([each[-1] for each in values]), np.array([each[:-1] for each in values]))

    def own_kind(self, fits: Iterable[Fitted]) -> Sample:
        """Share of neighbours of the cell's own kind, by fit and without groups of cells."""
        found = [calibration.own_kind(fit.neighbours, self.kind) for fit in fits]
        return calibration.over_cells(found, self.group)

    def genes_called(self, values: np.ndarray, split: str) -> float:
        """Share of genes called changed between the halves of a split, among cells of the same kind."""
        return calibration.called(calibration.between_halves(values, self.half[split], self.kind))


def _silent(items: Iterable[Any], _label: str, _name: Callable[[Any], str]) -> Iterator[Any]:
    yield from items


def table(
    datasets: "Mapping[str, AnnData]",
    planned: list[dict[str, Any]],
    read: Callable[[str, "AnnData", bool], Fitted],
    *,
    name: str = "dataset",
    seed: int = 0,
    watch: Callable[..., Iterator[Any]] = _silent,
) -> dict[str, Any]:
    """Compare fits to the splits of a batch.

    Parameters
    ----------
    datasets
        The dataset of every split (`unbatch.data.halves.split_batch`), with ``X`` and ``layers/counts``.
    planned
        A mapping per planned fit: ``split``, ``method``, ``params_id``, ``seed``, ``fit`` (None where it failed or does
        not apply), ``status`` and ``message``.
    read
        Gives the fit of a name of ``fit`` and the dataset that it is of, with its expression or without.
    name
        Name of the dataset that the batch is of.
    seed
        Seed of the groups of cells.
    watch
        Shows progress: takes items, a label, and what gives an item's name.

    Returns
    -------
    dict
        What calibration.json holds (docs/output.md), without versions.
    """
    cells = Halved.of(datasets, seed)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in planned:
        rows[str(row["method"]), str(row.get("params_id") or "default")].append(row)
    fitted = sum(any(row["fit"] for row in each) for each in rows.values())
    tested = _Tested(datasets, cells)
    found = [
        _row(key, each, datasets, cells, tested, read, 2 * fitted)
        for key, each in watch(rows.items(), "calibrate", lambda item: item[0][0])
    ]
    about = datasets[REFERENCE].uns["unbatch"]["halves"]
    sizes = {split: np.bincount(half, minlength=2).tolist() for split, half in cells.half.items()}
    kinds = [str(kind) for kind in datasets[REFERENCE].obs[KIND].cat.categories]
    return {
        "schema": SCHEMA,
        "dataset": {
            "name": name,
            "batch": str(about["batch"]),
            "cells": len(cells.kind),
            "cells_of_batch": int(about["cells"]),
            "genes": int(datasets[REFERENCE].var["highly_variable"].sum()),
            "kinds": str(about["kinds"]),
            "halves": sizes,
            "composition": {
                kind: np.bincount(cells.half["unlike"][cells.kind == code], minlength=2).tolist()
                for code, kind in enumerate(kinds)
            },
        },
        "settings": {
            "neighbours": calibration.NEIGHBOURS,
            "share": float(about["share"]),
            "fdr": calibration.FDR,
            "least_excess": calibration.LEAST_EXCESS,
            "most_called": calibration.MOST_CALLED,
            "seed": seed,
            "level": uncertainty.LEVEL,
        },
        "rows": found,
    }


class _Tested:
    """Which genes are tested, and how many of them are called without a correction; kept by the genes of a fit."""

    def __init__(self, datasets: "Mapping[str, AnnData]", cells: Halved) -> None:
        self.data, self.cells = datasets[REFERENCE], cells
        with_counts = np.asarray((self.data.layers["counts"] > 0).sum(axis=0)).ravel()
        self.enough = with_counts >= calibration.FEWEST_WITH_COUNTS
        self.known: dict[tuple[str, ...], tuple[np.ndarray, dict[str, float]]] = {}

    def of(self, genes: tuple[str, ...]) -> tuple[np.ndarray, dict[str, float]]:
        """Whether each gene of a fit is tested, and the share that is called by split in the uncorrected expression."""
        if genes not in self.known:
            place = self.data.var_names.get_indexer(list(genes))
            if (place < 0).any():
                raise InputError("a fit has genes that are not those of its dataset")
            tested = self.enough[place]
            values = self.data.X[:, place[tested]].toarray()
            self.known[genes] = tested, {split: self.cells.genes_called(values, split) for split in COMPARED}
        return self.known[genes]


def _row(
    key: tuple[str, str],
    planned: list[dict[str, Any]],
    datasets: "Mapping[str, AnnData]",
    cells: Halved,
    tested: _Tested,
    read: Callable[[str, "AnnData", bool], Fitted],
    comparisons: int,
) -> dict[str, Any]:
    """Compare the fits of one method with one set of parameters."""
    files = {(row["split"], row["seed"]): row["fit"] for row in planned if row["fit"] is not None}
    by_split = [{seed for split, seed in files if split == each} for each in SPLITS]
    seeds = sorted(set.intersection(*by_split))
    row: dict[str, Any] = {"method": key[0], "params_id": key[1], "seeds": seeds, "status": "ok", "message": None}
    if not seeds:
        without = {"status": "failed", "message": "there is no seed with a fit to every split"}
        lost = next((each for each in planned if each["fit"] is None), without)
        return row | {"codes": []} | {key: lost.get(key) or without[key] for key in without}
    # expression of the first seed alone, and of no split that nothing is compared in
    fits: dict[str, list[Fitted]] = {split: [] for split in SPLITS}
    genes: dict[str, dict[str, float | None]] = {}
    slot, number = None, 0
    for split in SPLITS:
        for seed in seeds:
            wanted = split in COMPARED and seed == seeds[0]
            fit = read(files[split, seed], datasets[split], wanted)
            if wanted and fit.expression is not None:
                known, before = tested.of(fit.genes)
                share = cells.genes_called(fit.expression[:, known], split)
                genes[split] = {"called": rounded(share), "uncorrected": rounded(before[split])}
                slot, number = fit.slot, int(known.sum())
            fits[split].append(Fitted(fit.near, factors=fit.factors))
    near = {split: [fit.neighbours for fit in each] for split, each in fits.items()}
    changes = {
        split: calibration.displacement(near[split], near[REFERENCE], cells.group, comparisons) for split in COMPARED
    }
    mixing = [cells.mixing(fits[split]) for split in (REFERENCE, "unlike")]
    kind = [cells.own_kind(fits[split]) for split in (REFERENCE, "unlike")]
    row |= {
        "splits": {
            split: {
                "lost": _interval(change.lost),
                "noise": _interval(change.noise),
                "excess": _interval(change.excess),
                "beyond": change.beyond,
            }
            for split, change in changes.items()
        },
        "mixing": _before_and_after(*mixing, comparisons),
        "own_kind": _before_and_after(*kind, comparisons),
        "genes": {"slot": slot, "tested": number, **genes} if genes else None,
        "factors": {split: rounded(fits[split][0].factors) for split in COMPARED}
        if fits["random"][0].factors is not None
        else None,
    }
    return row | {"codes": [str(code) for code in codes(row)]}


def codes(row: Mapping[str, Any]) -> list[Code]:
    """Say what a method does without cause, by the rules of docs/metrics.md.

    Parameters
    ----------
    row
        A row of calibration.json.
    """
    found = [
        code
        for split, code in zip(COMPARED, (Code.DISPLACED_RANDOM, Code.DISPLACED_UNLIKE), strict=True)
        if row["splits"][split]["beyond"]
    ]
    changed = row["own_kind"]["change"]
    if changed and changed["high"] is not None and changed["high"] < -calibration.LEAST_EXCESS:
        found.append(Code.MIXED)
    for split, code in zip(COMPARED, (Code.GENES_RANDOM, Code.GENES_UNLIKE), strict=True):
        share = (row["genes"] or {}).get(split) or {}
        if share.get("called") is not None and share["called"] - (share["uncorrected"] or 0) > calibration.MOST_CALLED:
            found.append(code)
    return found


def _before_and_after(before: Sample, after: Sample, comparisons: int) -> dict[str, Any]:
    change = uncertainty.difference(after, before, comparisons, of_methods=False)
    return {"before": rounded(before.mean), "after": rounded(after.mean), "change": _interval(change)}


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    return {"mean": rounded(found.mean), "low": rounded(found.low), "high": rounded(found.high)}

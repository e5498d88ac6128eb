"""Fits that predict positions, as they are read from a file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unbatch.errors import InputError
from unbatch.metrics.spatial import pitch
from unbatch.report.embedding import array_distances, tissue
from unbatch.report.read import Dataset, FitFile, names_in
from unbatch.report.text import first, share

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Shares of spots that the columns of the radii hold."""
LOW_COVERAGE = 0.05
"""How far coverage may be below its level before a warning says so."""
MANY_FAR = 0.1
"""Share of a section's spots that are far from the training expression, above which a warning says so."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of a table of the fit, all of one length."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        """Count the rows."""
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> list[dict[str, Any]]:
        """Give the rows as mappings."""
        return [{name: values[row] for name, values in self.columns.items()} for row in range(len(self))]


@dataclass(frozen=True, eq=False)
class Genes:
    """Genes on true and predicted positions, section by section: S sections, g genes that are shown, G in all."""

    sections: list[str]
    names: list[list[str]]
    moran: np.ndarray
    correlation: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    spots: np.ndarray


@dataclass(frozen=True, eq=False)
class Located:
    """A fit that predicts positions.

    Attributes
    ----------
    true, predicted
        Positions in pitches, x to the right and y downwards, n x 2.
    section, sections
        Code of each spot, and names.
    part
        What each spot was to the fit: known, held out, unknown, anchor, applied.
    radii
        In pitches, n x 4; None where the fit has none.
    distance, far
        Distance to the training expression and what is far, or None.
    baselines, coverage, spatial
        Tables, empty where the fit has none.
    genes
        Genes on the positions, or None.
    history, search
        Values by epoch; what the inner validation looked at.
    ellipses
        Pull-back metric of the decoder, or empty.
    snapshots, snapshot_epochs
        Latent values of some spots by epoch, E x m x 2, the spots' indices and the epochs; or None.
    transfer
        Rows and columns of the train x test matrix, or empty.
    radii_from
        By section: whose errors its radii are made of; empty where the fit does not say it.
    out_of_fold
        Whether predicted positions of known spots are by models that had not seen them.
    """

    true: np.ndarray
    predicted: np.ndarray
    section: np.ndarray
    sections: list[str]
    part: np.ndarray
    radii: np.ndarray | None = None
    distance: np.ndarray | None = None
    far: float = np.inf
    baselines: Table = field(default_factory=lambda: Table({}))
    coverage: Table = field(default_factory=lambda: Table({}))
    spatial: Table = field(default_factory=lambda: Table({}))
    genes: Genes | None = None
    history: dict[str, np.ndarray] = field(default_factory=dict)
    search: dict[str, np.ndarray] = field(default_factory=dict)
    ellipses: dict[str, Any] = field(default_factory=dict)
    snapshots: np.ndarray | None = None
    snapshot_spots: np.ndarray | None = None
    snapshot_epochs: np.ndarray | None = None
    transfer: Table = field(default_factory=lambda: Table({}))
    radii_from: dict[str, str] = field(default_factory=dict)
    out_of_fold: bool = True

    @property
    def error(self) -> np.ndarray:
        """Distance from the true position in pitches, n."""
        return np.linalg.norm(self.predicted - self.true, axis=1)

    @property
    def scored(self) -> np.ndarray:
        """Spots whose error says something: their position was not what the prediction was learnt from, n booleans."""
        return (self.part != "anchor") & ((self.part != "known") | self.out_of_fold)


_BASELINES = ("section", "kind", "method", "spots", "disparity", "rmse", "median", "r2")
_COVERAGE = ("section", "kind", "spots", "level", "share", "radius")
_SPATIAL = ("section", "space", "spots", "moran", "geary", "r", "low", "high", "p", "distortion")
_TRANSFER = ("train", "test", "method", "disparity", "rmse")
_TEXT = {"section", "kind", "method", "space", "train", "test"}


def read_positions(fit: FitFile, dataset: Dataset) -> Located | None:
    """Read a fit; None of one without positions, or of a dataset without.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    about, cells = fit.about, dataset.cells
    slot = f"X_{about['method']}_positions"
    if cells.positions is None or slot not in fit.data.obsm:
        return None
    found = fit.matrix(slot).astype(np.float64)
    if found.shape != cells.positions.shape:
        raise InputError(
            f"{fit.path}: obsm/{slot} has shape {found.shape}, expected that of the positions, {cells.positions.shape}"
        )
    true, array = tissue(cells.positions)
    # array positions are drawn as distances
    predicted = array_distances(found) if array else found[:, :2]
    try:
        unit = np.full(len(cells.sections), pitch(true, cells.section))
        for code in range(len(unit)):
            if len(np.unique(true[cells.section == code], axis=0)) > 1:
                unit[code] = pitch(true[cells.section == code])
    except ValueError as error:
        raise InputError(f"{dataset.path}: obsm/spatial: {error}") from error
    n = len(true)
    part = np.array(names_in(about, "part"), dtype=object)
    if len(part) != n:
        raise InputError(f"{fit.path}: part has {len(part)} entries, expected one for each of the {n} spots")
    at = _frames(about, cells.sections, cells.section, part)
    radii_slot = f"X_{about['method']}_radii"
    radii = fit.matrix(radii_slot).astype(np.float64) if radii_slot in fit.data.obsm else None
    if radii is not None and radii.shape != (n, len(LEVELS)):
        raise InputError(f"{fit.path}: obsm/{radii_slot} has shape {radii.shape}, expected {(n, len(LEVELS))}")
    distance = fit.numbers(about, "distance", (n,)).astype(np.float64) if "distance" in about else None
    snapshots = about.get("snapshots")
    return Located(
        true / unit[cells.section, None],
        predicted / unit[at, None],
        cells.section,
        cells.sections,
        part,
        radii,
        distance,
        float(about.get("far", np.inf)),
        _table(fit, about.get("baselines"), _BASELINES),
        _table(fit, about.get("coverage"), _COVERAGE),
        _table(fit, about.get("spatial"), _SPATIAL),
        _genes(fit, about.get("markers"), dataset, turned=array),
        _by_epoch(fit, about.get("history")),
        _by_epoch(fit, about.get("search")),
        _ellipses(fit, about.get("ellipses")),
        *(_snapshots(fit, snapshots, n) if snapshots else (None, None, None)),
        _table(fit, about.get("transfer"), _TRANSFER),
        _sources(fit, about, cells.sections),
        "calibration" in about or radii is not None,
    )


def _sources(fit: FitFile, about: Any, sections: list[str]) -> dict[str, str]:
    if "radii_from" not in about:
        return {}
    found = names_in(about, "radii_from")
    if len(found) != len(sections):
        raise InputError(f"{fit.path}: radii_from has {len(found)} entries, expected one for each section")
    return dict(zip(sections, found, strict=True))


def _frames(about: Any, sections: list[str], section: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Say in whose coordinates each spot was placed, n codes: its section's, or the reference's without known spots."""
    reference = str((about.get("settings") or {}).get("reference", ""))
    if reference not in sections:
        return section
    own = np.array([np.isin(part[section == code], ("known", "anchor")).any() for code in range(len(sections))])
    return np.where(own[section], section, sections.index(reference))


def doubts(fit: Located, _confined: list[tuple[str, str, int]]) -> list[str]:
    """Say where radii hold less than they say, or positions are guesses, a sentence each; plain text."""
    said = []
    for row in fit.coverage.rows():
        if row["level"] == 0.9 and row["share"] < 0.9 - LOW_COVERAGE:
            said.append(
                f"{row['section']}: 90 % radii hold the true position of {share(row['share'])} of its {row['spots']:,} "
                f"spots ({row['kind']}): they are too small where spots are unlike those that were known."
            )
    if fit.distance is not None:
        far = fit.distance > fit.far
        many = [
            f"{name} ({share(far[fit.section == code].mean())})"
            for code, name in enumerate(fit.sections)
            if (fit.section == code).any() and far[fit.section == code].mean() > MANY_FAR
        ]
        if many:
            said.append(
                f"Positions of many spots are guesses, as no known spot has expression like theirs: {first(many, 5)}."
            )
    return said


def _table(fit: FitFile, given: Any, columns: tuple[str, ...]) -> Table:
    if not given:
        return Table({})
    found: dict[str, np.ndarray] = {}
    for name in columns:
        if name in _TEXT:
            if name not in given:
                raise InputError(f"{fit.path}: {name} is missing in a table of {fit.about['method']}")
            found[name] = np.array(names_in(given, name), dtype=object)
        else:
            values = np.asarray(given[name]) if name in given else None
            size = (len(found[columns[0]]),) if values is None or values.ndim < 2 else (len(found[columns[0]]), None)
            found[name] = fit.numbers(given, name, size)
    return Table(found)


def _genes(fit: FitFile, given: Any, dataset: Dataset, *, turned: bool) -> Genes | None:
    """Take the genes out of a fit; `turned` where the first axis of positions is a row, which runs downwards."""
    if not given:
        return None
    names, every = names_in(given, "section"), dataset.shown(fit.genes)
    sections, genes = len(names), fit.numbers(given, "genes", (len(names), None)).astype(int)
    moran = fit.numbers(given, "moran", (sections, None))
    if genes.min(initial=0) < 0 or genes.max(initial=0) >= len(every):
        raise InputError(f"{fit.path}: markers: genes are not those of the fit, which has {len(every)}")
    shape = (sections, genes.shape[1], None, None)
    tiles = [fit.numbers(given, name, shape) for name in ("true", "predicted")]
    tiles.append(fit.numbers(given, "spots", (sections, 2, None, None)))
    return Genes(
        names,
        [[every[gene] for gene in row] for row in genes],
        moran,
        fit.numbers(given, "correlation", moran.shape),
        *(each.swapaxes(-1, -2) if turned else each for each in tiles),
    )


def _by_epoch(fit: FitFile, given: Any) -> dict[str, np.ndarray]:
    if not given:
        return {}
    return {str(name): fit.numbers(given, name, (None,)).astype(np.float64) for name in given}


def _ellipses(fit: FitFile, given: Any) -> dict[str, Any]:
    if not given:
        return {}
    points = fit.numbers(given, "points", (None, 2))
    return {
        "points": points,
        "axes": fit.numbers(given, "axes", (len(points), 2, 2)),
        "condition": fit.numbers(given, "condition", (len(points),)),
        "spread": float(given.get("spread", np.nan)),
    }


def _snapshots(fit: FitFile, given: Any, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    spots = fit.numbers(given, "spots", (None,)).astype(int)
    epochs = fit.numbers(given, "epoch", (None,)).astype(int)
    latent = fit.numbers(given, "latent", (len(epochs), len(spots), 2))
    if len(spots) and not 0 <= spots.min() <= spots.max() < n:
        raise InputError(f"{fit.path}: snapshots: spots are not those of the {n} of the fit")
    return latent.astype(np.float64), spots, epochs

"""What a fit's positions are worth, as tables: against rivals, their radii, spatial scores, genes.

Three kinds of spots have true positions to compare with: *held out* ones, in a section of which others were known;
those of a *new section*, of which none were; and, where no spot was held out, *known* ones that a model predicted
which had not seen them (out of fold). Tables are mappings of columns, as they are written below ``uns`` of a fit.
"""

from typing import Any

import numpy as np

from unbatch.metrics import spatial
from unbatch.models.dpvae.readout import Frames
from unbatch.models.dpvae.reconstruction import from_anchors
from unbatch.positions import baselines, conformal, novelty, splits
from unbatch.positions.markers import markers

HELD_OUT, NEW, OUT_OF_FOLD = "held out", "new section", "out of fold"
"""Kinds of spots that are scored."""
NEIGHBOURS = 5
"""Neighbours of a spot for Moran's I and Geary's C, as published."""
COMPARED = 500
"""Spots of a section whose pairwise distances are compared."""
DRAWS = 200
MAPPED = 4
"""Sections whose genes are mapped."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Table = dict[str, np.ndarray]


def evaluate(
    x: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    section: np.ndarray,
    known: np.ndarray,
    *,
    sections: list[str],
    latent: np.ndarray | None = None,
    out_of_fold: bool = True,
    method: str = "dpvae",
    rivals: tuple[str, ...] = tuple(baselines.BASELINES),
    genes: np.ndarray | None = None,
    frames: Frames | None = None,
    anchors: np.ndarray | None = None,
    elsewhere: tuple[conformal.Calibration, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Make all tables.

    Parameters
    ----------
    x
        Expression that is standardised by section (see `baselines.standardised`), n x G, the genes of the model.
    true
        True positions in pitches, n x p; NaN where there are none.
    predicted
        Predicted positions in pitches and the coordinates of `true`, n x p.
    section
        Section of each spot, n, codes of `sections`.
    known
        Spots whose position was given to the model, n booleans.
    sections
        Names of the sections.
    latent
        Latent values, n x d, for scores of the embedding; None: without these.
    out_of_fold
        Whether `predicted` of a known spot is that of a model which had not seen its position. Otherwise there are no
        radii, and known spots are not scored.
    method
        Name of the model in the tables.
    rivals
        Names of `baselines.BASELINES`, of `STRONGER` ones and of peers.
    genes
        Positions of the G genes among all genes of the fit, for the genes that ``markers`` names; None: 0 to G - 1.
    frames
        How coordinates of the sections go over into each other, by which rivals learn from several sections, too; None
        where they are the same.
    anchors
        Spots whose true position placed a section without known ones, n booleans: they are not scored, and place the
        section for rivals, too.
    elsewhere
        What gives radii to sections with too few known spots; where it is empty, errors in the section with most do.
    seed
        Seed of all that is drawn.

    Returns
    -------
    dict
        ``radii`` (n x 4; only with `out_of_fold` and enough known spots) and ``calibration`` (`conformal.Radii`, which
        gave them), ``distance`` (n), ``far`` (a number) and ``familiar`` (`novelty.Familiar`, which gave them), and the
        tables ``baselines``, ``coverage``, ``spatial``, ``markers``; one without a row is left out.

    Raises
    ------
    ValueError
        If the arrays do not belong together, or a rival is unknown.
    """
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    section, known = np.asarray(section), np.asarray(known, dtype=bool)
    if not len(x) == len(true) == len(predicted) == len(section) == len(known) or true.shape != predicted.shape:
        raise ValueError(
            f"expression, true and predicted positions, section and known have shapes {np.shape(x)}, {true.shape}, "
            f"{predicted.shape}, {section.shape} and {known.shape}, expected as many rows"
        )
    anchors = np.zeros(len(true), bool) if anchors is None else np.asarray(anchors, dtype=bool)
    placed, true = true, np.where(anchors[:, None], np.nan, true)
    there = np.isfinite(true).all(axis=1)
    if not (known & there).any() or (known & ~there).any():
        raise ValueError("known spots have no true position, expected one of each and one known spot or more")
    kind = kinds(true, section, known, out_of_fold=out_of_fold)
    found: dict[str, Any] = {}
    found["familiar"] = novelty.Familiar.of(x[known], seed)
    found["distance"], found["far"] = found["familiar"].distance(x), found["familiar"].far
    found["baselines"] = compare(
        x, true, predicted, section, known, sections, kind, method, rivals, seed, frames=frames,
        anchors=(np.flatnonzero(anchors), placed[anchors]),
    )  # fmt: skip
    if out_of_fold and known.sum() >= conformal.FEWEST:
        found["calibration"] = conformal.Radii.of(predicted, true, section, known, seed, elsewhere)
        found["radii"] = found["calibration"].radii(predicted, section)
        found["coverage"] = covered(found["radii"], true, predicted, section, known, sections, kind, seed)
    found["spatial"] = spatial_scores(x, true, predicted, section, sections, latent, seed, kind=kind)
    found["markers"] = gene_maps(x, true, predicted, section, sections, kind)
    if genes is not None and len(found["markers"]["section"]):
        found["markers"]["genes"] = np.asarray(genes)[found["markers"]["genes"]]
    return {name: value for name, value in found.items() if not isinstance(value, dict) or len(value["section"])}


def kinds(true: np.ndarray, section: np.ndarray, known: np.ndarray, *, out_of_fold: bool = True) -> np.ndarray:
    """Say of what kind each spot is, n texts; empty where it is not scored."""
    there = np.isfinite(true).all(axis=1)
    kind = np.full(len(true), "", dtype=object)
    for code in np.unique(section):
        rows = section == code
        kind[rows & there & ~known] = HELD_OUT if (rows & known).any() else NEW
    if out_of_fold and not (kind == HELD_OUT).any():
        kind[known] = OUT_OF_FOLD
    return kind


def compare(
    x: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    section: np.ndarray,
    known: np.ndarray,
    sections: list[str],
    kind: np.ndarray,
    method: str = "dpvae",
    rivals: tuple[str, ...] = tuple(baselines.BASELINES),
    seed: int = 0,
    *,
    frames: Frames | None = None,
    anchors: tuple[np.ndarray, np.ndarray] | None = None,
) -> Table:
    """Compare with rivals on the same spots and genes, see `evaluate`.

    Where spots out of fold are scored, a random fifth of these is, and rivals learn from the others.

    Returns
    -------
    dict
        Columns section, kind, method, spots, disparity, rmse, median, and r2 of each axis.
    """
    scored = kind != ""
    train = known.copy()
    if (kind == OUT_OF_FOLD).any():
        held = splits.random_split(section[known], seed=seed)
        out = np.zeros(len(known), dtype=bool)
        out[np.flatnonzero(known)[held]] = True
        scored &= out | (kind != OUT_OF_FOLD)
        train &= ~out
    columns: dict[str, list[Any]] = {
        name: [] for name in ("section", "kind", "method", "spots", "disparity", "rmse", "median", "r2")
    }
    if not scored.any():
        return {name: np.array(values) for name, values in columns.items()}
    positions = {method: predicted}
    fixed, where = anchors if anchors is not None else (np.empty(0, int), np.empty((0, true.shape[1])))
    wanted = scored.copy()
    wanted[fixed] = True
    aim = true[train] if frames is None else frames.to(true[train], section[train])
    for name in rivals:
        make = (baselines.BASELINES | baselines.STRONGER).get(name) or baselines.PEERS.get(name, (None, ""))[0]
        if make is None:
            known_names = ", ".join([*baselines.BASELINES, *baselines.STRONGER, *baselines.PEERS])
            raise ValueError(f"rival {name!r} is not known, expected one of {known_names}")
        positions[name] = np.full(true.shape, np.nan)
        positions[name][wanted] = make(x[train], aim, seed)(x[wanted])
        if frames is not None:
            positions[name][wanted] = frames.back(positions[name][wanted], section[wanted])
        for code in np.unique(section[fixed]):
            mine, own = np.flatnonzero(wanted & (section == code)), section[fixed] == code
            placing = np.searchsorted(mine, fixed[own]), where[own]
            positions[name][mine] = from_anchors(positions[name][mine], placing)
    for code in np.unique(section[scored]):
        rows = np.flatnonzero(scored & (section == code))
        if len(rows) < 3:
            continue
        for name, each in positions.items():
            errors = spatial.position_errors(each[rows], true[rows])
            constant = np.ptp(each[rows], axis=0).max() == 0
            columns["section"].append(sections[code])
            columns["kind"].append(kind[rows[0]])
            columns["method"].append(name)
            columns["spots"].append(len(rows))
            columns["disparity"].append(1.0 if constant else spatial.disparity(each[rows], true[rows]))
            columns["rmse"].append(errors.rmse)
            columns["median"].append(errors.median)
            columns["r2"].append(errors.r2)
    return {name: np.array(values) for name, values in columns.items()}


def covered(
    radii: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    section: np.ndarray,
    known: np.ndarray,
    sections: list[str],
    kind: np.ndarray,
    seed: int = 0,
) -> Table:
    """Say how often radii (n x 4, see `conformal.LEVELS`) hold, see `evaluate`.

    Spots out of fold are covered by radii that the other half of them gave.

    Returns
    -------
    dict
        Columns section, kind, spots, level, share of the spots that are within their radius, median radius.
    """
    tested = radii.copy()
    rows = np.flatnonzero(known)
    if (kind == OUT_OF_FOLD).any():
        halves = np.array_split(np.random.default_rng(seed).permutation(rows), 2)
        for one, other in (halves, halves[::-1]):
            given = np.zeros(len(known), dtype=bool)
            given[one] = True
            enough = len(one) >= conformal.FEWEST
            made = conformal.Radii.of(predicted, true, section, given, seed) if enough else None
            tested[other] = made.radii(predicted[other], section[other]) if made else 0
        if min(map(len, halves)) < conformal.FEWEST:
            kind = np.where(kind == OUT_OF_FOLD, "", kind)
    columns: dict[str, list[Any]] = {name: [] for name in ("section", "kind", "spots", "level", "share", "radius")}
    for code in np.unique(section):
        rows = np.flatnonzero((section == code) & (kind != ""))
        if not len(rows):
            continue
        shares = conformal.coverage(tested[rows], predicted[rows], true[rows])
        for level, share, radius in zip(conformal.LEVELS, shares, np.median(tested[rows], axis=0), strict=True):
            row = sections[code], kind[rows[0]], len(rows), level, share, radius
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    return {name: np.array(values) for name, values in columns.items()}


def spatial_scores(
    x: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    section: np.ndarray,
    sections: list[str],
    latent: np.ndarray | None = None,
    seed: int = 0,
    *,
    kind: np.ndarray | None = None,
) -> Table:
    """Score spaces against true positions: expression, latent values, predicted positions; by section.

    Returns
    -------
    dict
        Columns section, space, spots; moran and geary (mean over dimensions, 5 nearest spots; NaN of expression); r,
        low, high and p of the correlation of distances (`metrics.spatial.distance_correlation`, of 500 spots at most);
        and distortion, quantiles of the ratio of distances over its median.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("section", "space", "spots", "moran", "geary", "r", "low", "high", "p", "distortion")
    }
    there = np.isfinite(true).all(axis=1)
    spaces = {"expression": x} | ({} if latent is None else {"latent": latent}) | {"positions": predicted}
    for code in np.unique(section):
        rows = np.flatnonzero(there & (section == code))
        # positions of known spots were learnt from: where others are scored, they alone
        fresh = rows if kind is None else rows[np.isin(kind[rows], [HELD_OUT, NEW])]
        rows = fresh if len(fresh) > NEIGHBOURS + 4 else rows
        if len(rows) <= NEIGHBOURS + 4:
            continue
        near = spatial.nearest(true[rows], NEIGHBOURS)
        few = np.random.default_rng(seed).permutation(rows)[:COMPARED]
        for name, values in spaces.items():
            if not np.isfinite(values[rows]).all() or np.ptp(values[rows], axis=0).max() == 0:
                continue
            moran = geary = np.nan
            if name != "expression":
                moran = float(np.nanmean(spatial.morans_i(values[rows], near)))
                geary = float(np.nanmean(spatial.gearys_c(values[rows], near)))
            agreed = spatial.distance_correlation(values[few], true[few], draws=DRAWS, seed=seed)
            stretched = spatial.distortion(values[few], true[few], QUANTILES, seed=seed)
            row = (sections[code], name, len(rows), moran, geary, agreed.r, *agreed.interval, agreed.p, stretched)
            for each, value in zip(columns.values(), row, strict=True):
                each.append(value)
    return {name: np.array(values) for name, values in columns.items()}


def gene_maps(
    x: np.ndarray, true: np.ndarray, predicted: np.ndarray, section: np.ndarray, sections: list[str], kind: np.ndarray
) -> dict[str, Any]:
    """Map genes by true and by predicted position in the first sections with scored spots, see `markers`.

    Returns
    -------
    dict
        ``section`` (names, S), ``genes`` (indices, S x 6), ``moran`` and ``correlation`` (S x G), ``true`` and
        ``predicted`` (S x 6 x tiles x tiles), ``spots`` (S x 2 x tiles x tiles).
    """
    names, found = [], []
    for code in np.unique(section):
        rows = np.flatnonzero((section == code) & (kind != ""))
        if len(rows) > 50 and len(found) < MAPPED:
            names.append(sections[code])
            found.append(markers(x[rows], true[rows], predicted[rows]))
    columns = ("genes", "moran", "correlation", "true", "predicted", "spots")
    return {"section": np.array(names)} | {name: np.array([getattr(each, name) for each in found]) for name in columns}

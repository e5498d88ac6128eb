"""What spaVAE is given: settings, the part that each cell has in a fit, positions and groups that are asked for."""

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch.data import genes
from unbatch.data.cells import Cells
from unbatch.data.io import require_file
from unbatch.errors import InputError
from unbatch.models.spavae import PRESETS, Settings, Spots, Stored, domains, positions, schedule

if TYPE_CHECKING:
    from unbatch.methods.spavae import Params

log = logging.getLogger("unbatch")


def settings(params: "Params", axes: int) -> Settings:
    """Make settings of the preset and of what was stated, for positions of so many axes."""
    if params.encoder == "convolutional" and params.inputs == "pcs":
        raise InputError("spavae: encoder convolutional needs inputs genes, found pcs")
    preset = PRESETS[params.preset]
    inputs = "genes" if params.encoder == "convolutional" else params.inputs
    inducing = params.inducing or preset.inducing
    number = params.inducing_points
    steps = None if number is None else max(1, round(number ** (1 / axes)) - 1)
    names = ("latent", "gaussian", "kernel", "scale", "encoder", "dispersion", "beta", "noise", "epochs", "minibatch")
    if params.scale is not None and preset.box is not None:
        raise InputError("spavae: preset paper trains the scale of the kernel from 20 on, expected scale null")
    return preset.but(
        **{name: getattr(params, name) for name in names},
        inputs=inputs,
        inducing=inducing,
        **{"auto": {"most_points": number}, "kmeans": {"points": number}, "grid": {"grid_steps": steps}}[inducing],
        rate=params.learning_rate,
        validation=params.validation,
        patience=params.patience,
    )


def limited(settings: Settings, spots: int, most: int | None) -> int | None:
    """Give the epochs of settings, at most so many."""
    return settings.epochs if most is None else min(most, schedule(settings, spots).epochs)


def spots(cells: Cells, params: "Params", device: str, section: np.ndarray, batch: np.ndarray) -> Spots:
    """Take the cells with these codes of sections and batches; counts are held, or stay in their file."""
    streamed = cells.streams(params.in_memory, device)
    counts = Stored(cells.whole_count_rows(), (len(cells), len(cells.genes))) if streamed else cells.whole_counts()
    return Spots.of(counts, cells.coordinates, section, batch, device)


def parts(cells: Cells, spots: Spots, params: "Params") -> np.ndarray:
    """Say which cells train and which are only predicted."""
    part = np.full(len(cells), "train", dtype=object)
    if params.fold is not None:
        folds = sorted(set(cells.fold.tolist()))
        if params.fold not in folds:
            raise InputError(f"{cells.name}: obs/split has no fold {params.fold}, expected one of {listed(folds)}")
        part[cells.fold == params.fold] = "held out"
    empty = spots.totals == 0
    if empty.any():
        log.warning(
            "%s: %d cells have no count of the %d genes; they are predicted by their positions",
            cells.name,
            int(empty.sum()),
            len(cells.genes),
        )
        part[empty] = "empty"
    if params.fold is not None and not (part == "held out").any():
        raise InputError(
            f"{cells.name}: no cell of fold {params.fold} of obs/split has a count of the {len(cells.genes)} genes, "
            "expected some to compare predictions with"
        )
    return part


def require_questions(cells: Cells, params: "Params", sections: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Refuse what can't be answered before anything is fitted; give positions to predict at, and their sections."""
    if params.between is not None and params.differential is None:
        raise InputError("spavae: parameter between names groups of differential, which is not given")
    if params.differential == "domains":
        between(params, [str(code) for code in range(params.domains or domains.MOST)])
    elif params.differential is not None:
        groups(cells, params, {})
    if params.spatial_genes and np.bincount(cells.section).max() < positions.LEAST:
        raise InputError(
            f"{cells.name}: no section has {positions.LEAST} cells, expected one at least to test genes for a pattern "
            "over space (spatial_genes)"
        )
    if params.linear_share and not params.spatial_genes:
        raise InputError("spavae: parameter linear_share adds to spatial_genes, which is not asked for")
    mapped(cells, params)
    return None if params.predict_at is None else read_positions(Path(params.predict_at), cells, sections)


def mapped(cells: Cells, params: "Params") -> np.ndarray:
    """Give the positions of the genes that `maps` names, among the genes of the fit; symbols and ids count alike."""
    wanted = [name.strip() for name in (params.maps or "").split(",") if name.strip()]
    found, lacking = genes.find(wanted, cells.genes, cells.var)
    if lacking:
        raise InputError(
            f"{cells.name}: maps names {listed(lacking)}, expected some of the {len(cells.genes)} genes of the fit, "
            f"such as {', '.join(cells.genes[:3])}, by name, symbol or id"
        )
    return np.array([cells.genes.index(name) for name in found], dtype=np.int64)


def read_positions(path: Path, cells: Cells, sections: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read positions (m x d) and codes of their sections from a file with a head."""
    axes = ["x", "y", "z"][: cells.coordinates.shape[1]]
    try:
        text = require_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected a CSV or TSV file in UTF-8") from error
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in text.partition("\n")[0] else ","))
    needed = axes if len(sections) == 1 else ["section", *axes]
    absent = [name for name in needed if not rows or name not in rows[0]]
    if absent:
        raise InputError(
            f"{path}: column {absent[0]} is missing, expected a head with {', '.join(needed)} and a row a position"
        )
    found, codes = np.empty((len(rows), len(axes))), np.zeros(len(rows), dtype=np.int64)
    for number, row in enumerate(rows):
        name = row.get("section", sections[0]) if len(sections) > 1 else sections[0]
        if name not in sections:
            raise InputError(f"{path}: row {number + 2}: section is {name!r}, expected one of {listed(sections)}")
        codes[number] = sections.index(name)
        for column, axis in enumerate(axes):
            try:
                found[number, column] = float(row[axis] or "")
            except ValueError:
                found[number, column] = np.nan
            if not np.isfinite(found[number, column]):
                raise InputError(f"{path}: row {number + 2}: {axis} is {row[axis]!r}, expected a number")
    return found, codes


def groups(cells: Cells, params: "Params", labels: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give the groups to compare by name: positions of their cells and of those that they are compared with."""
    if params.differential == "domains":
        own = labels["mixture"].astype(str).astype(object)
    else:
        if params.differential not in cells.obs:
            columns = listed([*cells.obs])
            raise InputError(f"{cells.name}: obs has no column {params.differential!r}, it has {columns}")
        column = cells.obs[params.differential]
        own = column.astype(str).astype(object).where(column.notna(), None).to_numpy()
    names = sorted({each for each in own if each is not None})
    wanted = between(params, names)
    if wanted is not None:
        return {" vs ".join(wanted): tuple(np.flatnonzero(own == name) for name in wanted)}
    if len(names) < 2:
        raise InputError(f"{cells.name}: obs/{params.differential} has {len(names)} groups, expected two or more")
    known = np.array([each is not None for each in own])
    return {name: (np.flatnonzero(own == name), np.flatnonzero((own != name) & known)) for name in names}


def between(params: "Params", names: list[str]) -> list[str] | None:
    """Give the two groups that are compared, None for each against all others."""
    if params.between is None:
        return None
    wanted = [each.strip() for each in params.between.split(",")]
    if len(wanted) != 2 or not set(wanted) <= set(names) or wanted[0] == wanted[1]:
        raise InputError(f"spavae: parameter between is {params.between!r}, expected two of {listed(names)}")
    return wanted


def text(names: list[str]) -> np.ndarray:
    """Make an array of names, as files take them."""
    return np.array(names, dtype=object)


def listed(names: list[Any], most: int = 10) -> str:
    """Write names one after another, the first of them."""
    found = ", ".join(map(str, names[:most]))
    return found if len(names) <= most else f"{found} and {len(names) - most} more"

"""`fit-scmedal`: autoencoders with the batch taken out (fixed effects), the batch alone (random effects), or both."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Run, log, program
from unbatch.cli.fits import fit_arguments, merge_parameters, read_cells, read_parameters, torch_device, write_fit
from unbatch.errors import InputError, NotApplicable, UnbatchError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.models.scmedal import Fitted, Settings
    from unbatch.nn.minibatches import Source
    from unbatch.nn.parts import Parts

MODES = {
    "scmedal": ("fe", "re"),
    "ae": ("ae",),
    "aec": ("aec",),
    "fe": ("fe",),
    "fec": ("fec",),
    "re": ("re",),
}
"""Models of each mode; the embedding of the first one is that of the method."""

DEFAULTS: dict[str, Any] = {
    "preset": "recommended",
    "latent": 50,
    "epochs": None,
    "minibatch": None,
    "learning_rate": None,
    "patience": None,
    "weights_fixed": {},
    "weights_random": {},
    "fold": 0,
    "held_out_batch": None,
    "in_memory": "auto",
}
"""Parameters of all modes; null is what the preset has. Weights are of loss terms by name, those of AE, AEC, FE and
FEC, and those of RE."""
CHOICES = {"preset": ("recommended", "paper"), "in_memory": ("auto", "yes", "no")}
"""Values of the parameters that are names."""
WAYS = ("batch-free", "published", "decoder")
"""How cells are put into another batch."""
AVERAGE = "average"
"""Name of the batch that is the average of all, in `--counterfactual`."""

_SHARE_OF_MEMORY = 0.25
"""Expression that takes a larger share of the machine's memory is streamed."""
_SAMPLES = 30
_Z90 = 1.645


@dataclass(frozen=True)
class _Cells:
    """What the models see of a dataset; `label` is None without, `names` are those of batches, `labels` of labels."""

    adata: "AnnData"
    source: "Source"
    genes: list[str]
    batch: "np.ndarray"
    names: list[str]
    label: "np.ndarray | None"
    labels: list[str]
    fold: "np.ndarray"


@program("torch")
@fit_arguments
@click.option("--mode", type=click.Choice(list(MODES)), default="scmedal", help="The model, or both effects (scmedal).")
@click.option("--preset", type=click.Choice(CHOICES["preset"]), help="As published (paper), or what we found better.")
@click.option(
    "--fold", type=click.IntRange(0), help="Fold of obs/split that no model sees; the next one stops training."
)
@click.option("--held-out-batch", help="Name of a batch that no model sees, in place of a fold.")
@click.option("--in-memory", type=click.Choice(CHOICES["in_memory"]), help="Whether expression is read as a whole.")
@click.option("--counterfactual", help=f"Batches that cells are put into, A,B,...; '{AVERAGE}' is all in one.")
@click.option("--cells", "query", help="Cells to put into them, a condition on obs: \"label == 'B' and batch == 'A'\".")
@click.option("--way", type=click.Choice(WAYS), default=WAYS[0], help="How cells are put into another batch.")
def main(
    run: Run,
    dataset: Path,
    output: Path,
    model: Path | None,
    params: Path | None,
    max_epochs: int | None,
    mode: str,
    counterfactual: str | None,
    query: str | None,
    way: str,
    **given: Any,
) -> None:
    """Fit scMEDAL to the log-normalised expression of the highly variable genes of DATASET.

    Options win over --params, which wins over the defaults.
    """
    from unbatch.data import io

    io.require_place(output, [dataset])
    if model is not None:
        io.require_model_place(model)
    if query is not None and counterfactual is None:
        raise InputError("--cells names cells for --counterfactual, which is not given")
    device = torch_device(run)
    stated = read_parameters(params) | {name: value for name, value in given.items() if value is not None}
    values = _checked(merge_parameters("scmedal", DEFAULTS, stated))
    cells = _read(dataset, values["in_memory"], device)
    if "aec" in MODES[mode] or "fec" in MODES[mode]:
        _require_labels(dataset, cells, mode)
    method = mode if mode == "scmedal" else f"scmedal_{mode}"
    parts, batch = _parts(dataset, cells, values)
    largest = min(len(cells.genes), len(parts.train))
    if values["latent"] > largest:
        log.info("latent space of %d, as there are no more genes or training cells", largest)
        values["latent"] = largest
    targets = _targets(dataset, cells, batch, counterfactual)
    if targets and way != WAYS[0] and "re" not in MODES[mode]:
        raise InputError(f"--way {way} needs random effects, expected --mode scmedal or re, found {mode}")
    chosen = _chosen(dataset, cells, query)
    start = time.perf_counter()
    fits = {}
    for kind in MODES[mode]:
        fits[kind] = _fit(dataset, cells, kind, batch, parts, values, max_epochs, run.seed, model, method)
    shifts = {}
    if targets:
        shifts = _shifts(cells, fits, targets, chosen, way, batch, parts, values, max_epochs, run.seed)
    wall_s = time.perf_counter() - start
    embeddings = {kind: fitted.model.embed(cells.source, batch) for kind, fitted in fits.items()}
    write_fit(
        output,
        cells.adata,
        embeddings[MODES[mode][0]],
        method=method,
        run=run,
        device=device,
        params=values,
        wall_s=wall_s,
        packages=("torch",),
        extras=_found(cells, fits, embeddings, parts, shifts),
    )
    if model is not None:
        _write_model(model, method, values, cells, fits)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Check the values that have a range.

    Raises
    ------
    InputError
        If a value cannot be used.
    """
    for name, allowed in CHOICES.items():
        if values[name] not in allowed:
            raise InputError(f"scmedal: parameter {name} is {values[name]!r}, expected one of {', '.join(allowed)}")
    for name in ("latent", "epochs", "minibatch", "patience", "fold"):
        value, least = values[name], 0 if name == "fold" else 1
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InputError(f"scmedal: parameter {name} is {value!r}, expected a whole number of {least} or more")
    rate = values["learning_rate"]
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1):
        raise InputError(f"scmedal: parameter learning_rate is {rate!r}, expected a number between 0 and 1")
    held = values["held_out_batch"]
    if held is not None and not isinstance(held, str):
        raise InputError(f"scmedal: parameter held_out_batch is {held!r}, expected the name of a batch")
    for name in ("weights_fixed", "weights_random"):
        for term, weight in values[name].items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise InputError(f"scmedal: parameter {name}: {term} is {weight!r}, expected a number of 0 or more")
    return values


def _read(path: Path, in_memory: str, device: str) -> _Cells:
    """Read the dataset; its expression is left in the file where it is to be streamed.

    Raises
    ------
    NotApplicable
        If there is one batch only.
    InputError
        If the dataset breaks the contract.
    """
    import numpy as np

    from unbatch.data import io, schema
    from unbatch.nn.minibatches import Resident, Streamed

    if in_memory == "no" or (in_memory == "auto" and _is_large(path)):
        adata = io.read_h5ad(path, ["uns/unbatch"])
        schema.validate(adata, "dataset", path, unread=("X", "layers/counts"))
        variable = np.flatnonzero(adata.var["highly_variable"].to_numpy())
        source: Source = Streamed(_reader(path, variable), (adata.n_obs, len(variable)), device)
        log.info("%s: expression is read from the file, some cells at a time", path)
    else:
        adata, cells = read_cells(path)
        variable = np.flatnonzero(adata.var["highly_variable"].to_numpy())
        source = Resident(cells.X, device)
    batch = adata.obs["batch"].cat.remove_unused_categories()
    if len(batch.cat.categories) < 2:
        raise NotApplicable(f"{path}: obs/batch holds one batch, there is no batch effect to learn")
    if not len(variable):
        raise InputError(f"{path}: var/highly_variable marks no gene; run preprocess with a larger --n-top-genes")
    label = adata.obs.get("label")
    label = None if label is None else label.cat.remove_unused_categories()
    return _Cells(
        adata,
        source,
        adata.var_names[variable].tolist(),
        batch.cat.codes.to_numpy().astype(np.int64),
        [str(name) for name in batch.cat.categories],
        None if label is None else label.cat.codes.to_numpy().astype(np.int64),
        [] if label is None else [str(name) for name in label.cat.categories],
        np.asarray(adata.obs["split"]).astype(np.int64),
    )


def _is_large(path: Path) -> bool:
    import os

    from unbatch.data import io

    with io.open_hdf5(path) as file:
        stored = file["X/data"].size if "X/data" in file else file["X"].size
    return 8 * stored > _SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reader(path: Path, genes: "np.ndarray") -> Any:
    """Give a function that reads the cells from one position up to another, these genes only."""
    import h5py
    from anndata.io import sparse_dataset

    file = h5py.File(path, "r")
    rows = sparse_dataset(file["X"]) if isinstance(file["X"], h5py.Group) else file["X"]
    return lambda start, stop: rows[start:stop][:, genes]


def _require_labels(path: Path, cells: _Cells, mode: str) -> None:
    if cells.label is None or len(cells.labels) < 2:
        raise NotApplicable(f"{path}: obs/label holds {len(cells.labels)} labels, {mode} needs two or more")


def _parts(path: Path, cells: _Cells, values: dict[str, Any]) -> tuple["Parts", "np.ndarray"]:
    """Divide the cells; also return the code of each cell's batch, -1 for one that is held out.

    Raises
    ------
    InputError
        If there is no such fold or batch, or a batch has no cell to train on.
    """
    from unbatch.models.scmedal import missing_batches
    from unbatch.nn.parts import of_fold, without_batch

    held = values["held_out_batch"]
    try:
        if held is None:
            parts, batch = of_fold(cells.fold, values["fold"]), cells.batch
        elif held in cells.names:
            parts, batch = without_batch(cells.batch, cells.fold, cells.names.index(held))
        else:
            raise InputError(f"{path}: obs/batch has no {held!r} to hold out, expected one of {_listed(cells.names)}")
    except ValueError as error:
        raise InputError(f"{path}: obs/split: {error}") from error
    missing = missing_batches(batch, parts)
    if missing:
        left = [name for name in cells.names if name != held]
        raise InputError(
            f"{path}: obs/split: batch {left[missing[0]]} has no cells in the training folds, expected some in every "
            "batch; run preprocess again, or hold the batch out"
        )
    return parts, batch


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _targets(path: Path, cells: _Cells, batch: "np.ndarray", text: str | None) -> dict[str, int]:
    """Codes of the batches that cells are put into, by name."""
    found = {}
    for name in dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()):
        if name not in cells.names and name != AVERAGE:
            raise InputError(
                f"{path}: obs/batch has no {name!r} for --counterfactual, expected some of {_listed(cells.names)} or "
                f"{AVERAGE}"
            )
        code = -1 if name not in cells.names else int(batch[cells.batch == cells.names.index(name)][0])
        if code < 0 and name != AVERAGE:
            raise InputError(f"{path}: batch {name} is held out, no model knows it; expected another --counterfactual")
        found[name] = code
    return found


def _chosen(path: Path, cells: _Cells, query: str | None) -> "np.ndarray":
    """Positions of the cells that a condition on obs names; all without one."""
    import numpy as np

    if query is None:
        return np.arange(cells.adata.n_obs)
    obs = cells.adata.obs.reset_index(drop=True)
    try:
        chosen = obs.query(query, engine="python").index.to_numpy()
    except Exception as error:  # a condition may fail in any way
        raise InputError(f"--cells {query!r}: {error}; expected a condition on the columns of obs in {path}") from error
    if not len(chosen):
        raise InputError(f"--cells {query!r}: no cell of {path} is such, expected one or more")
    return chosen.astype(np.int64)


def _settings(kind: str, values: dict[str, Any], cells: int, max_epochs: int | None) -> "Settings":
    from unbatch.models.scmedal import Settings, schedule

    names = ("preset", "latent", "epochs", "minibatch", "learning_rate", "patience")
    weights = values["weights_random" if kind == "re" else "weights_fixed"]
    settings = Settings(model=kind, weights=dict(weights), **{name: values[name] for name in names})
    if max_epochs is not None:
        settings = replace(settings, epochs=min(schedule(settings, cells).epochs, max_epochs))
    return settings


def _fit(
    path: Path,
    cells: _Cells,
    kind: str,
    batch: "np.ndarray",
    parts: "Parts",
    values: dict[str, Any],
    max_epochs: int | None,
    seed: int,
    folder: Path | None,
    method: str,
) -> "Fitted":
    """Fit one model; where a loss is not finite, what was good before is still written to `folder`."""
    from unbatch.data import io
    from unbatch.models import scmedal
    from unbatch.nn.training import Diverged

    settings = _settings(kind, values, len(parts.train), max_epochs)
    log.info("%s", kind.upper())
    try:
        return scmedal.fit(cells.source, batch, parts, settings, label=cells.label, seed=seed, tell=log.info)
    except Diverged as error:
        if folder is not None:
            labels = len(cells.labels) if kind in scmedal.WITH_LABELS else 0
            config = {"settings": asdict(settings), "genes": len(cells.genes)}
            about = {"method": method, "params": values, "genes": cells.genes, "batches": cells.names}
            config |= {"batches": int(batch.max()) + 1, "labels": labels}
            weights = {f"{kind}.{name}": value.cpu().numpy() for name, value in error.weights.items()}
            io.write_model(folder, about | {"models": {kind: config}, "diverged": str(error)}, weights)
        raise UnbatchError(f"{path}: {kind} failed: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _shifts(
    cells: _Cells,
    fits: dict[str, "Fitted"],
    targets: dict[str, int],
    chosen: "np.ndarray",
    way: str,
    batch: "np.ndarray",
    parts: "Parts",
    values: dict[str, Any],
    max_epochs: int | None,
    seed: int,
) -> dict[str, Any]:
    """Put cells into other batches, and sum up by label how expression shifts and how sure that is."""
    import numpy as np

    from unbatch.models import scmedal

    if way == WAYS[0]:
        settings = _settings("fe", {**values, "preset": "recommended"}, len(parts.train), max_epochs)
        label = cells.label if len(cells.labels) > 1 else None
        log.info("embedding to decode%s", "" if label is None else ", batches matched within labels")
        projection, _ = scmedal.fit_projection(
            cells.source, batch, parts, settings, label=label, seed=seed, tell=log.info
        )

        def blocks(part: Any, own: "np.ndarray", target: int) -> Iterator[scmedal.Counterfactual]:
            return projection.counterfactual(part, own, target, samples=_SAMPLES, seed=seed)
    else:
        random = fits["re"].model

        def blocks(part: Any, own: "np.ndarray", target: int) -> Iterator[scmedal.Counterfactual]:
            return scmedal.shift_of_random_effects(random, part, own, target, way=way, samples=_SAMPLES, seed=seed)

    label = np.zeros(len(chosen), dtype=np.int64) if cells.label is None else cells.label[chosen]
    groups = [*cells.labels, ""] if cells.label is not None else ["all cells"]
    label = np.where(label < 0, len(groups) - 1, label)
    count = np.bincount(label, minlength=len(groups))
    kept = count > 0
    shift = np.zeros((len(targets), len(groups), len(cells.genes)))
    sd = np.zeros_like(shift)
    for number, target in enumerate(targets.values()):
        start = 0
        for low in range(0, len(chosen), 4096):
            rows = chosen[low : low + 4096]
            for block in blocks(_rows(cells.source, rows), batch[rows], target):
                mine = label[start : start + len(block.shift)]
                np.add.at(shift[number], mine, block.shift)
                # cells of one batch and label err together
                np.add.at(sd[number], mine, block.sd)
                start += len(block.shift)
    per_cell = np.maximum(count, 1)[:, None]
    return {
        "way": way,
        "batches": np.array(list(targets), dtype=object),
        "labels": np.array(groups, dtype=object)[kept],
        "cells": count[kept],
        "shift": (shift / per_cell)[:, kept].astype(np.float32),
        "shift_se": (sd / per_cell)[:, kept].astype(np.float32),
    }


def _rows(source: "Source", rows: "np.ndarray") -> "np.ndarray":
    """Dense expression of some cells."""
    import numpy as np

    order = np.argsort(rows)
    found = np.concatenate([x.cpu().numpy() for _, x in source.minibatches(rows[order], 4096)])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found[back]


def _found(
    cells: _Cells,
    fits: dict[str, "Fitted"],
    embeddings: dict[str, "np.ndarray"],
    parts: "Parts",
    shifts: dict[str, Any],
) -> "AnnData":
    """Everything that the fit holds beside its embedding."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    part = np.full(cells.adata.n_obs, "train", dtype=object)
    part[parts.validation], part[parts.test] = "validation", "test"
    about: dict[str, Any] = {
        "batches": np.array(cells.names, dtype=object),
        "part": part.astype(str),
        "history": {
            f"{kind}.{term}": np.array(values)
            for kind, fitted in fits.items()
            for term, values in fitted.history.items()
        },
        "best_epoch": {kind: fitted.best_epoch for kind, fitted in fits.items()},
        "loss_weights": {f"{kind}.{term}": w for kind, fitted in fits.items() for term, w in fitted.weights.items()},
    }
    if shifts:
        about["counterfactual"] = shifts
    return AnnData(
        obs=cells.adata.obs[[]],
        var=pd.DataFrame(index=cells.genes),
        obsm={f"X_scmedal_{kind}": values for kind, values in embeddings.items()},
        uns=about,
    )


def _write_model(folder: Path, method: str, values: dict[str, Any], cells: _Cells, fits: dict[str, "Fitted"]) -> None:
    from unbatch.data import io

    about = {"method": method, "params": values, "genes": cells.genes, "batches": cells.names, "labels": cells.labels}
    about["models"] = {kind: fitted.model.config() for kind, fitted in fits.items()}
    weights = {
        f"{kind}.{name}": value for kind, fitted in fits.items() for name, value in fitted.model.weights().items()
    }
    io.write_model(folder, about, weights)

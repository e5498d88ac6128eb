"""`fit-scmedal`: autoencoders with the batch taken out (fixed effects), the batch alone (random effects), or both."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli import counterfactuals
from unbatch.cli.common import Folder, Run, log, program
from unbatch.cli.counterfactuals import AVERAGE, WAYS, Data, Models, listed
from unbatch.cli.fits import (
    columns_of,
    fit_arguments,
    merge_parameters,
    names_in,
    read_parameters,
    refuse_options,
    saved_parameters,
    short,
    torch_device,
    use_threads,
    write_fit,
)
from unbatch.errors import InputError, NotApplicable, UnbatchError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData

    from unbatch.models.scmedal import Fitted, Projection, Settings
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
_OF_A_FIT = ("mode", "preset", "fold", "held_out_batch", "params", "max_epochs", "model")
"""Options that change nothing where a model is applied."""

_SHARE_OF_MEMORY = 0.25
"""Expression that takes a larger share of the memory at hand is streamed."""
_LIMITS_OF_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_DEPTH_CELLS = 1000
_PER_THREAD = 64_000
"""Entries of a minibatch, of cells x genes, that one more thread is worth its waiting for (benchmarks/busy.py)."""
_CELLS_AT_ONCE = 4096
"""About as many are embedded at once."""


@dataclass(frozen=True)
class _Saved:
    """A model that was read, with its own parameters; `depth` is that of `Data` in its fit."""

    folder: Path
    method: str
    params: dict[str, Any]
    genes: list[str]
    batches: list[str]
    depth: float
    models: Models


@dataclass(frozen=True)
class _Trained:
    """Fits by kind, and the cells of each part."""

    fits: dict[str, "Fitted"]
    parts: "Parts"


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
@click.option("--groups", help="Column of obs with two groups of batches: test between cells put into each batch.")
@click.option("--cells", "query", help="Cells to put into batches, a condition on obs: \"label == 'B'\".")
@click.option("--way", type=click.Choice(WAYS), default=WAYS[0], help="How cells are put into another batch.")
@click.option("--apply", type=Folder, help="Embed the cells with the model in this folder, instead of fitting one.")
def main(
    run: Run,
    dataset: Path,
    output: Path,
    model: Path | None,
    params: Path | None,
    max_epochs: int | None,
    mode: str,
    counterfactual: str | None,
    groups: str | None,
    query: str | None,
    way: str,
    apply: Path | None,
    **given: Any,
) -> None:
    """Fit scMEDAL to the log-normalised expression of the highly variable genes of DATASET.

    Options win over --params, which wins over the defaults.
    """
    from unbatch.data import io

    io.require_place(output, [dataset])
    if model is not None:
        io.require_model_place(model)
    if query is not None and counterfactual is None and groups is None:
        raise InputError("--cells names cells for --counterfactual or --groups, neither is given")
    device = torch_device(run)
    saved = None
    if apply is None:
        stated = read_parameters(params) | {name: value for name, value in given.items() if value is not None}
        values = _checked(merge_parameters("scmedal", DEFAULTS, stated))
        method = mode if mode == "scmedal" else f"scmedal_{mode}"
    else:
        refuse_options(apply, _OF_A_FIT)
        saved = _read_saved(apply, device)
        values = saved.params | {name: value for name, value in given.items() if value is not None}
        method = saved.method
    kinds = MODES[method.removeprefix("scmedal_")]
    data = _read(dataset, values["in_memory"], device, saved)
    parts = None
    if saved is None:
        if "aec" in kinds or "fec" in kinds:
            _require_labels(dataset, data, mode)
        parts, data = _parts(dataset, data, values)
        largest = min(len(data.genes), len(parts.train))
        if values["latent"] > largest:
            log.info("latent space of %d, as there are no more genes or training cells", largest)
            values["latent"] = largest
    into = counterfactuals.targets(dataset, data, counterfactual)
    between = counterfactuals.groups(dataset, data, groups)
    asked = bool(into or between)
    if asked and way != WAYS[0] and "re" not in kinds:
        raise InputError(f"--way {way} needs random effects, expected --mode scmedal or re, found {method}")
    if asked and way == WAYS[0] and saved is not None and saved.models.projection is None:
        raise InputError(
            f"{apply}: the model was saved without what --way {way} decodes with; fit it with --counterfactual or "
            "--groups, or ask for --way published"
        )
    chosen = counterfactuals.chosen(dataset, data, query)
    use_threads(run, _cells_at_once(kinds, data, parts, values) * len(data.genes), _PER_THREAD)
    start = time.perf_counter()
    trained = None
    if saved is None:
        fits: dict[str, Fitted] = {}
        projection = None
        with _kept(dataset, model, method, values, data, fits):
            arguments = (data, parts, values, max_epochs, run.seed)
            for kind in kinds:
                fits[kind] = _fit(kind, *arguments)
            if asked and way == WAYS[0]:
                projection = _projection(*arguments)
        trained = _Trained(fits, parts)
        models = Models({kind: fitted.model for kind, fitted in fits.items()}, projection)
    else:
        models = saved.models
    embeddings = {kind: each.embed(data.source, data.batch) for kind, each in models.by_kind.items()}
    # genomaps are of random effects as published, unless something else was asked for
    way = way if asked else WAYS[1]
    move = counterfactuals.mover(models, way, run.seed) if asked or "re" in kinds else None
    found: dict[str, Any] = {}
    if into:
        found["counterfactual"] = counterfactuals.shifts(data, move, way, into, chosen)
    if between:
        found["groups"] = counterfactuals.tests(data, move, way, between, chosen, run.seed)
    if move is not None:
        found["panel"] = counterfactuals.panel(data, models, move, way, embeddings[kinds[0]], run.seed)
    wall_s = time.perf_counter() - start
    write_fit(
        output,
        data.adata,
        embeddings[kinds[0]],
        method=method,
        run=run,
        device=device,
        params=values,
        wall_s=wall_s,
        packages=("torch",),
        extras=_found(data, trained, embeddings, found),
    )
    if model is not None:
        _write_model(model, method, values, data, models)


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
    for name, least in (("latent", 1), ("epochs", 1), ("minibatch", 2), ("patience", 1), ("fold", 0)):
        value = values[name]
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


def _read(path: Path, in_memory: str, device: str, saved: _Saved | None) -> Data:
    """Read the dataset, for a model that is applied its genes; expression that is to be streamed is left in the file.

    Raises
    ------
    NotApplicable
        If a model is to be fitted and there is one batch only.
    InputError
        If the dataset breaks the contract, or lacks genes of the model.
    """
    import numpy as np

    from unbatch.data import io, schema
    from unbatch.nn.minibatches import Resident, Streamed

    streamed = in_memory == "no" or (in_memory == "auto" and _is_large(path, device))
    if streamed:
        adata = io.read_h5ad(path, ["uns/unbatch"])
        schema.validate(adata, "dataset", path, unread=("X", "layers/counts"))
    else:
        # counts are not used, and would take as much again
        adata = io.read_h5ad(path, ["X", "uns/unbatch"])
        schema.validate(adata, "dataset", path, unread=("layers/counts",))
    batch = adata.obs["batch"].cat.remove_unused_categories()
    names = [str(name) for name in batch.cat.categories]
    own = batch.cat.codes.to_numpy().astype(np.int64)
    if saved is None:
        if len(names) < 2:
            raise NotApplicable(f"{path}: obs/batch holds one batch, there is no batch effect to learn")
        columns, known, code = np.flatnonzero(adata.var["highly_variable"].to_numpy()), names, own
        if not len(columns):
            raise InputError(f"{path}: var/highly_variable marks no gene; run preprocess with a larger --n-top-genes")
    else:
        columns, known = columns_of(path, adata, saved.folder, saved.genes), saved.batches
        code = np.array([known.index(name) if name in known else -1 for name in names])[own]
        new = [name for name in names if name not in known]
        if new:
            log.info("%s: the model does not know the batches %s, it takes the average one for them", path, listed(new))
    whole = _reader(path) if streamed else None
    depth = _depth(whole(0, min(_DEPTH_CELLS, adata.n_obs)) if streamed else adata.X[:_DEPTH_CELLS])
    if not 0 < depth < float("inf"):
        raise InputError(
            f"{path}: X is too large for logarithms of normalised counts, expected what `preprocess` writes"
        )
    scale = 1.0 if saved is None else saved.depth / depth
    if streamed:
        log.info("%s: expression is read from the file, some cells at a time", path)

        def read(start: int, stop: int) -> Any:
            return _rescaled(whole(start, stop)[:, columns], scale)

        source: Source = Streamed(read, (adata.n_obs, len(columns)), device)
    else:
        source = Resident(_rescaled(adata.X[:, columns], scale), device)
        del adata.X
    label = adata.obs.get("label")
    label = None if label is None else label.cat.remove_unused_categories()
    return Data(
        adata,
        source,
        adata.var_names[columns].tolist(),
        own,
        names,
        code,
        known,
        None if label is None else label.cat.codes.to_numpy().astype(np.int64),
        [] if label is None else [str(name) for name in label.cat.categories],
        np.asarray(adata.obs["split"]).astype(np.int64),
        depth,
    )


def _depth(cells: Any) -> float:
    """Sum of the normalised counts of a cell, which `preprocess` makes the same for all cells of a dataset."""
    import numpy as np

    counts = cells.astype(np.float64).expm1() if hasattr(cells, "indptr") else np.expm1(cells.astype(np.float64))
    sums = np.asarray(counts.sum(axis=1)).ravel()
    return float(np.median(sums[sums > 0])) if (sums > 0).any() else 1.0


def _rescaled(cells: Any, scale: float) -> Any:
    """Bring log-normalised expression to another depth."""
    import numpy as np

    if abs(scale - 1) < 1e-6:
        return cells
    if hasattr(cells, "indptr"):
        cells = cells.copy()
        cells.data = np.log1p(np.expm1(cells.data) * cells.dtype.type(scale))
        return cells
    return np.log1p(np.expm1(cells) * cells.dtype.type(scale))


def _is_large(path: Path, device: str) -> bool:
    from unbatch.data import io

    with io.open_hdf5(path) as file:
        stored = file["X/data"].size if "X/data" in file else file["X"].size
    return 8 * stored > _SHARE_OF_MEMORY * _memory(device)


def _memory(device: str) -> float:
    """Bytes that this process may use: of the machine, of its container, and of the device."""
    import os

    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # of version 2 and 1 of control groups; "max", or more than there is, where nothing limits it
    for file in _LIMITS_OF_MEMORY:
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    if device.startswith("cuda"):
        import torch

        found.append(torch.cuda.mem_get_info(device)[1])
    return min(found)


def _reader(path: Path) -> Any:
    """Give a function that reads the cells from one position up to another."""
    import h5py
    from anndata.io import sparse_dataset

    file = h5py.File(path, "r")
    rows = sparse_dataset(file["X"]) if isinstance(file["X"], h5py.Group) else file["X"]
    return lambda start, stop: rows[start:stop]


def _require_labels(path: Path, data: Data, mode: str) -> None:
    if data.label is None or len(data.labels) < 2:
        raise NotApplicable(f"{path}: obs/label holds {len(data.labels)} labels, {mode} needs two or more")


def _parts(path: Path, data: Data, values: dict[str, Any]) -> tuple["Parts", Data]:
    """Divide the cells; also return the data with the batches as the models will know them, without one held out.

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
            parts = of_fold(data.fold, values["fold"])
        elif held in data.names:
            parts, batch = without_batch(data.own, data.fold, data.names.index(held))
            data = replace(data, batch=batch, known=[name for name in data.names if name != held])
        else:
            raise InputError(f"{path}: obs/batch has no {held!r} to hold out, expected one of {listed(data.names)}")
    except ValueError as error:
        raise InputError(f"{path}: obs/split: {error}") from error
    missing = missing_batches(data.batch, parts)
    if missing:
        raise InputError(
            f"{path}: obs/split: batch {data.known[missing[0]]} has no cells in the training folds, expected some in "
            "every batch; run preprocess again, or hold the batch out"
        )
    for fold, cells in (("validation", parts.validation), ("test", parts.test)):
        absent = [name for code, name in enumerate(data.known) if not (data.batch[cells] == code).any()]
        if absent and held is None:
            log.warning(
                "%s: obs/split: no cell of %s is in the %s fold, which tells nothing of it", path, listed(absent), fold
            )
    return parts, data


def _cells_at_once(kinds: tuple[str, ...], data: Data, parts: "Parts | None", values: dict[str, Any]) -> int:
    """Cells of a minibatch, the smallest of all models; without a fit, those that are embedded at once."""
    from unbatch.models.scmedal import schedule

    if parts is None:
        return min(data.source.shape[0], _CELLS_AT_ONCE)
    cells = len(parts.train)
    return min(cells, *(schedule(_settings(kind, values, cells, None), cells).size for kind in kinds))


def _settings(kind: str, values: dict[str, Any], cells: int, max_epochs: int | None) -> "Settings":
    from unbatch.models.scmedal import Settings, schedule

    names = ("preset", "latent", "epochs", "minibatch", "learning_rate", "patience")
    weights = values["weights_random" if kind == "re" else "weights_fixed"]
    settings = Settings(model=kind, weights=dict(weights), **{name: values[name] for name in names})
    if max_epochs is not None:
        settings = replace(settings, epochs=min(schedule(settings, cells).epochs, max_epochs))
    return settings


def _fit(kind: str, data: Data, parts: "Parts", values: dict[str, Any], max_epochs: int | None, seed: int) -> "Fitted":
    """Fit one model.

    Raises
    ------
    _Broken
        If a loss is not finite.
    """
    from unbatch.models import scmedal
    from unbatch.nn.training import Diverged

    settings = _settings(kind, values, len(parts.train), max_epochs)
    log.info("%s", kind.upper())
    try:
        return scmedal.fit(data.source, data.batch, parts, settings, label=data.label, seed=seed, tell=log.info)
    except Diverged as error:
        labels = len(data.labels) if kind in scmedal.WITH_LABELS else 0
        config = {"settings": asdict(settings), "genes": len(data.genes)}
        raise _Broken(
            kind, str(error), config | {"batches": len(data.known), "labels": labels}, error.weights
        ) from error


def _projection(data: Data, parts: "Parts", values: dict[str, Any], max_epochs: int | None, seed: int) -> "Projection":
    """Fit what the default counterfactual is decoded with.

    It is of the recommended preset whatever the models are; weights that were set for another preset or for terms that
    it lacks say nothing of it.
    """
    from unbatch.models import scmedal
    from unbatch.nn.training import Diverged

    known = scmedal.RECOMMENDED_WEIGHTS["fe"] if values["preset"] == "recommended" else {}
    weights = {term: weight for term, weight in values["weights_fixed"].items() if term in known}
    values = {**values, "preset": "recommended", "weights_fixed": weights}
    settings = _settings("fe", values, len(parts.train), max_epochs)
    label = data.label if len(data.labels) > 1 else None
    log.info("embedding to decode%s", "" if label is None else ", batches matched within labels")
    named = {"label": label, "seed": seed, "tell": log.info}
    try:
        return scmedal.fit_projection(data.source, data.batch, parts, settings, **named)[0]
    except Diverged as error:
        raise _Broken("the embedding to decode", str(error)) from error


class _Broken(Exception):
    """A fit whose loss was not finite: of what, why, its configuration and its last good weights."""

    def __init__(
        self,
        what: str,
        why: str,
        config: dict[str, Any] | None = None,
        weights: "dict[str, torch.Tensor] | None" = None,
    ) -> None:
        super().__init__(why)
        self.what, self.why, self.config, self.weights = what, why, config, weights or {}


@contextmanager
def _kept(
    path: Path,
    folder: Path | None,
    method: str,
    values: dict[str, Any],
    data: Data,
    fits: "dict[str, Fitted]",
) -> Iterator[None]:
    """Where a fit breaks, write to `folder` what is good: the models so far, and the last good weights of that one.

    Raises
    ------
    UnbatchError
        If a loss was not finite.
    InputError
        If the data or the settings can't be fitted.
    """
    try:
        yield
    except _Broken as broken:
        if folder is not None:
            models = Models({kind: fitted.model for kind, fitted in fits.items()}, None)
            _write_model(folder, method, values, data, models, broken)
        raise UnbatchError(f"{path}: {broken.what} failed: {broken.why}") from broken
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _found(
    data: Data, trained: _Trained | None, embeddings: dict[str, "np.ndarray"], found: dict[str, Any]
) -> "AnnData":
    """Everything that the fit holds beside its embedding; of a model that was applied, nothing on its training."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    part = np.full(data.adata.n_obs, "applied" if trained is None else "train", dtype=object)
    if trained is not None:
        part[trained.parts.validation], part[trained.parts.test] = "validation", "test"
    fits = {} if trained is None else trained.fits
    about: dict[str, Any] = {
        "batches": np.array(data.names, dtype=object),
        "part": part.astype(str),
        "history": {
            f"{kind}.{term}": np.array(values)
            for kind, fitted in fits.items()
            for term, values in fitted.history.items()
        },
        "best_epoch": {kind: fitted.best_epoch for kind, fitted in fits.items()},
        "loss_weights": {f"{kind}.{term}": w for kind, fitted in fits.items() for term, w in fitted.weights.items()},
    }
    return AnnData(
        obs=data.adata.obs[[]],
        var=pd.DataFrame(index=data.genes),
        obsm={f"X_scmedal_{kind}": values for kind, values in embeddings.items()},
        uns=about | found,
    )


def _write_model(
    folder: Path, method: str, values: dict[str, Any], data: Data, models: Models, broken: _Broken | None = None
) -> None:
    from unbatch.data import io

    about = {"method": method, "params": values, "genes": data.genes, "batches": data.known, "labels": data.labels}
    about |= {"depth": data.depth, "models": {kind: each.config() for kind, each in models.by_kind.items()}}
    weights = {
        f"{kind}.{name}": value for kind, each in models.by_kind.items() for name, value in each.weights().items()
    }
    if models.projection is not None:
        about["projection"] = models.projection.config()
        weights |= {f"projection.{name}": value for name, value in models.projection.weights().items()}
    if broken is not None:
        about["diverged"] = f"{broken.what}: {broken.why}"
        if broken.config is not None:
            about["models"][broken.what] = broken.config
            weights |= {f"{broken.what}.{name}": value.cpu().numpy() for name, value in broken.weights.items()}
    io.write_model(folder, about, weights)


def _read_saved(folder: Path, device: str) -> _Saved:
    """Read a model that --model wrote.

    Raises
    ------
    InputError
        If a file is missing, not that of such a model, or does not fit the other one.
    """
    from unbatch.data import io
    from unbatch.models.scmedal import Model, Projection, part_of

    config, weights = io.read_model(folder)
    path, method = folder / "config.json", config["method"]
    methods = {mode if mode == "scmedal" else f"scmedal_{mode}": kinds for mode, kinds in MODES.items()}
    if method not in list(methods):
        raise InputError(f"{path}: method is {short(method)}, expected one of {', '.join(methods)}")
    if "diverged" in config:
        raise InputError(f"{path}: the fit of the model ended with an error ({short(config['diverged'])})")
    genes, batches = names_in(path, config, "genes"), names_in(path, config, "batches", least=2)
    depth = config.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, int | float) or not 0 < depth < float("inf"):
        raise InputError(f"{path}: depth is {short(depth)}, expected a number above 0")
    params = saved_parameters(path, config, lambda given: _checked(merge_parameters("scmedal", DEFAULTS, given)))

    try:
        by_kind = {
            kind: Model.from_weights(config["models"][kind], part_of(kind, weights), device) for kind in methods[method]
        }
        given = config.get("projection")
        projection = None if given is None else Projection.from_weights(given, part_of("projection", weights), device)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder}: config.json and weights.safetensors do not make a model: {error}") from error
    sizes = {(each.genes, each.batches) for each in [*by_kind.values(), *([projection.fixed] if projection else [])]}
    if sizes != {(len(genes), len(batches))}:
        raise InputError(
            f"{path}: models of {' and '.join(f'{g} genes and {b} batches' for g, b in sorted(sizes))}, expected the "
            f"{len(genes)} genes and {len(batches)} batches that are named"
        )
    return _Saved(folder, method, params, genes, batches, float(depth), Models(by_kind, projection))

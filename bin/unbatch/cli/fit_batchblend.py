"""`fit-batchblend`: metagenes and the batch effect in them, or POPARI's model without one."""

import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, Run, log, program
from unbatch.cli.fits import fit_arguments, merge_parameters, read_cells, read_parameters, write_fit
from unbatch.errors import InputError, NotApplicable

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.baselines.cells import Cells
    from unbatch.data.graph import Graph
    from unbatch.models.batchblend import BatchBlend, Fitted, Settings

CHOICES = {
    "offset": ("rays", "annealed", "cross", "none"),
    "ambiguous": ("auto", "remove", "leave"),
    "spatial": ("auto", "none", "linear", "hmrf"),
    "graph": ("auto", "visium", "delaunay", "knn", "radius"),
}
"""Values of the parameters that are names."""

_COMMON: dict[str, Any] = {
    "metagenes": None,
    "iterations": 40,
    "spatial": "auto",
    "spatial_weight": 2.0,
    "shared_affinity": False,
    "graph": "auto",
    "neighbours": 6,
    "radius": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "batchblend": _COMMON | {"offset": "rays", "factors": True, "ambiguous": "auto", "rounds": 4, "sparsity": None},
    "popari": _COMMON | {"spatial": "hmrf", "spatial_weight": 1.0},
}
"""Parameters by mode; ``metagenes: null`` chooses their number by held-out entries, ``sparsity: null`` is .75, or 0 for
Visium arrays, whose spots hold several cells, so that few metagenes in each are not to be expected."""

_ROWS = 4096


@program("scipy")
@fit_arguments
@click.option("--mode", type=click.Choice(list(DEFAULTS)), default="batchblend", help="The model.")
@click.option("--metagenes", type=click.IntRange(2), help="Number of metagenes; by held-out entries if not given.")
@click.option("--offset", type=click.Choice(CHOICES["offset"]), help="How the additive batch effect is found.")
@click.option("--factors/--no-factors", default=None, help="A factor for each gene in each batch.")
@click.option(
    "--ambiguous",
    type=click.Choice(CHOICES["ambiguous"]),
    help="What becomes of differences that the batches' composition could make, too.",
)
@click.option("--spatial", type=click.Choice(CHOICES["spatial"]), help="Phase after the factorisation.")
@click.option("--graph", type=click.Choice(CHOICES["graph"]), help="Which cells are neighbours.")
@click.option("--apply", type=Folder, help="Embed the cells with the model in this folder, instead of fitting one.")
@click.option("--corrected", is_flag=True, help="Also write layers/corrected: expression without the batch effect.")
def main(
    run: Run,
    dataset: Path,
    output: Path,
    model: Path | None,
    params: Path | None,
    max_epochs: int | None,
    mode: str,
    apply: Path | None,
    corrected: bool,
    **given: Any,
) -> None:
    """Fit BatchBlend, or POPARI, to the counts of the highly variable genes of DATASET.

    Options win over --params, which wins over the defaults of the mode.
    """
    from unbatch.data import io

    io.require_place(output, [dataset])
    if model is not None:
        io.require_model_place(model)
    stated = read_parameters(params) | {name: value for name, value in given.items() if value is not None}
    settings = _checked(mode, merge_parameters(mode, DEFAULTS[mode], stated))
    if max_epochs is not None:
        settings["iterations"] = min(settings["iterations"], max_epochs)
    device = _device(run)
    adata, cells = read_cells(dataset, least_batches=1, normalised=False)
    names = [str(name) for name in adata.obs["batch"].cat.remove_unused_categories().cat.categories]
    start = time.perf_counter()
    if apply is None:
        _check_counts(dataset, cells, names, settings)
        fitted, graphs = _fit(dataset, cells, names, mode, settings, run.seed, device)
    else:
        config, weights = io.read_model(apply)
        mode, settings = config["method"], {**config["params"], "spatial": "none"}
        cells = replace(cells, counts=_counts_of(dataset, adata, apply, config["genes"]), genes=config["genes"])
        fitted, names, cells = _applied(dataset, cells, names, apply, config, weights, run.seed, device)
        graphs = {}
    wall_s = time.perf_counter() - start
    _report(fitted, names)
    embedding, embedded = _embedding(fitted.amounts)
    write_fit(
        output,
        adata,
        embedding,
        method=mode,
        run=run,
        device=device,
        params=settings,
        wall_s=wall_s,
        packages=("scipy",),
        extras=_found(adata, cells, fitted, embedded, names, mode, settings, graphs),
        corrected=_corrected(cells, fitted.model) if corrected else None,
    )
    if model is not None:
        about = {"method": mode, "params": settings, "genes": cells.genes, "batches": names}
        io.write_model(model, about, fitted.model.weights())


def _counts_of(path: Path, adata: "AnnData", folder: Path, genes: list[str]) -> Any:
    """Take the counts of the genes of a model, in its order.

    Raises
    ------
    InputError
        If the dataset lacks some of them.
    """
    place = adata.var_names.get_indexer(genes)
    if (place < 0).any():
        absent = [gene for gene, found in zip(genes, place, strict=True) if found < 0]
        raise InputError(
            f"{path}: var_names lack {len(absent)} of the {len(genes)} genes of the model in {folder}, the first is "
            f"{absent[0]}; expected all of them"
        )
    return adata.layers["counts"][:, place]


def _applied(
    path: Path,
    cells: "Cells",
    names: list[str],
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, "np.ndarray"],
    seed: int,
    device: str,
) -> tuple["Fitted", list[str], "Cells"]:
    """Embed cells with a model: batches that it knows as they are, others after their effect is found.

    Raises
    ------
    InputError
        If the files are not those of such a model, or a new batch has too few cells.
    """
    import numpy as np

    from unbatch.models.batchblend import BatchBlend, Fitted

    try:
        model = BatchBlend.from_weights(weights, device=device)
        known = list(config["batches"])
        settings = _settings(config["method"], config["params"])
        for code, name in enumerate(names):
            if name not in known:
                log.info("%s is a new batch: its effect is found against the cells of the model", name)
                model = model.with_batch(cells.counts[cells.batch == code], seed, settings, log.info)
                known.append(name)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the model in {folder} cannot be applied ({error})") from error
    batch = np.array([known.index(name) for name in names])[cells.batch]
    return Fitted(model, model.amounts(cells.counts, batch), {}), known, replace(cells, batch=batch)


def _checked(mode: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Check the values that have a range.

    Raises
    ------
    InputError
        If a value cannot be used.
    """
    least = {"metagenes": 2, "iterations": 1, "rounds": 1, "neighbours": 1, "sparsity": 0, "spatial_weight": 0}
    for name, value in settings.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise InputError(f"{mode}: parameter {name} is {value!r}, expected one of {', '.join(CHOICES[name])}")
        if name in least and value is not None:
            whole = name not in ("sparsity", "spatial_weight")
            if not _is_number(value, int if whole else int | float) or value < least[name]:
                kind = "a whole number" if whole else "a number"
                raise InputError(f"{mode}: parameter {name} is {value!r}, expected {kind} of {least[name]} or more")
    radius = settings["radius"]
    if radius is not None and not (_is_number(radius, int | float) and radius > 0):
        raise InputError(f"{mode}: parameter radius is {radius!r}, expected a number above 0")
    if settings["graph"] == "radius" and radius is None:
        raise InputError(f"{mode}: graph radius needs parameter radius, a length above 0; found {radius!r}")
    return settings


def _is_number(value: Any, kind: Any) -> bool:
    """Tell whether this is a finite number of some kind; YAML has NaN, infinity, and truth values that are ints."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _device(run: Run) -> str:
    import torch

    torch.set_num_threads(run.threads)
    if run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available, expected cpu or auto on this machine")
    return "cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu"


def _check_counts(path: Path, cells: "Cells", names: list[str], settings: dict[str, Any]) -> None:
    """Check that the model can be fitted to these counts.

    Raises
    ------
    InputError
        If there are no more genes than metagenes, or a batch has fewer cells that can be used.
    """
    from unbatch.models.batchblend import SMALLEST

    wanted = settings["metagenes"] or 2
    if len(cells.genes) <= wanted:
        raise InputError(f"{path}: var/highly_variable marks {len(cells.genes)} genes, {wanted} metagenes need more")
    sizes = _usable(cells, len(names))
    if sizes.min() < wanted:
        raise InputError(
            f"{path}: obs/batch: {names[int(sizes.argmin())]} has {sizes.min()} cells whose layers/counts sum to more "
            f"than {SMALLEST:.0%} of the mean cell's, {wanted} metagenes need as many or more in every batch"
        )
    if looks_logarithmic(cells.counts):
        log.warning(
            "%s: layers/counts look like logarithms of counts; an offset is defined on counts, and rays bend on a "
            "logarithmic scale",
            path,
        )


def looks_logarithmic(counts: Any, rows: int = 50) -> bool:
    """Tell whether values are log(1 + c x count): exp(x) - 1 of a cell are then whole multiples of some number.

    Parameters
    ----------
    counts
        n x g CSR matrix.
    rows
        Cells that are looked at.
    """
    import numpy as np

    answers = []
    smallest_counts = np.arange(1, 31)[:, None]
    for row in range(min(rows, counts.shape[0])):
        values = counts.data[counts.indptr[row] : counts.indptr[row + 1]]
        values = np.unique(values[values > 0].astype(np.float64))
        if len(values) < 6 or values.max() > 30 or np.all(values == np.round(values)):
            continue
        found = smallest_counts * (np.expm1(values) / np.expm1(values[0]))
        whole = np.abs(found - np.round(found)) < 0.02 + 1e-5 * found
        answers.append(whole.mean(axis=1).max() > 0.95)
    return len(answers) >= 5 and float(np.mean(answers)) > 0.5


def _fit(
    path: Path, cells: "Cells", names: list[str], mode: str, settings: dict[str, Any], seed: int, device: str
) -> tuple["Fitted", dict[str, str]]:
    """Fit the model; also return which graph each batch has."""
    from unbatch.data.graph import widened
    from unbatch.models import batchblend

    if len(names) == 1:
        log.warning("%s: obs/batch holds one batch: there is no batch effect to correct, metagenes are fitted", path)
    graph = _graph(path, cells, names, settings)
    if settings["metagenes"] is None:
        settings["metagenes"] = _choose_metagenes(cells, len(names), seed, device)
        log.info("%d metagenes, by held-out entries", settings["metagenes"])
    if settings.get("sparsity", 0.0) is None:
        spots = graph is not None and set(graph.kinds.values()) == {"visium"}
        settings["sparsity"] = 0.0 if spots else 0.75
    edges = wide = None
    if graph is not None:
        edges = (graph.source, graph.target)
        if settings["spatial"] == "linear":
            wider = widened(graph, len(cells.batch))
            wide = (wider.source, wider.target)
    fitted = batchblend.fit(
        cells.counts,
        cells.batch,
        _settings(mode, settings),
        graph=edges,
        wide_graph=wide,
        seed=seed,
        device=device,
        tell=log.info,
    )
    return fitted, {names[code]: kind for code, kind in graph.kinds.items()} if graph else {}


def _settings(mode: str, settings: dict[str, Any]) -> "Settings":
    from unbatch.models.batchblend import Settings

    known = {field.name for field in fields(Settings)}
    chosen = {name: value for name, value in settings.items() if name in known}
    return Settings.popari(**chosen) if mode == "popari" else Settings(**chosen)


def _choose_metagenes(cells: "Cells", batches: int, seed: int, device: str) -> int:
    from unbatch.models.batchblend import choose_metagenes

    found = choose_metagenes(cells.counts, cells.batch, seed, device=device)
    # of very few genes or cells, it may choose as many as there are
    return min(found, len(cells.genes) - 1, int(_usable(cells, batches).min()))


def _usable(cells: "Cells", batches: int) -> "np.ndarray":
    """Count the cells of each batch that a fit uses; those almost without counts are left out of it."""
    import numpy as np

    from unbatch.models.batchblend import SMALLEST

    totals = np.asarray(cells.counts.sum(1, dtype=np.float64)).ravel()
    return np.bincount(cells.batch[totals > SMALLEST * totals.mean()], minlength=batches)


def _graph(path: Path, cells: "Cells", names: list[str], settings: dict[str, Any]) -> "Graph | None":
    """Make the graph and settle whether there is a spatial phase.

    Raises
    ------
    NotApplicable
        If a spatial phase was asked for and there are no coordinates.
    InputError
        If a spatial phase or a graph was asked for and the coordinates allow none.
    """
    from unbatch.data.graph import neighbours

    if cells.coordinates is None:
        if settings["spatial"] not in ("auto", "none"):
            raise NotApplicable(f"{path}: obsm/spatial is missing, spatial: {settings['spatial']} needs coordinates")
        log.info("no coordinates: no spatial phase and no affinities")
        settings["spatial"] = "none"
        return None
    needed = settings["spatial"] not in ("auto", "none") or settings["graph"] != "auto"
    try:
        graph = neighbours(
            cells.coordinates,
            cells.batch,
            settings["graph"],
            k=settings["neighbours"],
            radius=settings["radius"],
            names=names,
        )
    except InputError as error:
        if needed:
            raise InputError(f"{path}: obsm/spatial: {error}") from error
        log.warning("%s: obsm/spatial: %s; this fit is without spatial phase and affinities", path, error)
        settings["spatial"] = "none"
        return None
    if settings["spatial"] == "auto":
        settings["spatial"] = "linear"
    return graph


def _report(fitted: "Fitted", names: list[str]) -> None:
    """Say what was found of the batch effect."""
    for item in fitted.model.evidence:
        where = " | ".join(names[code] for code in item.batches)
        log.info("%s, %s %s: %s", where, item.step, "taken" if item.accepted else "not taken", item.reason)
    dead = int(_dead(fitted.amounts).sum())
    if dead:
        log.warning("%d metagenes are dead (below 0.1 %% of all amounts): fewer metagenes would do", dead)


def _dead(amounts: "np.ndarray") -> "np.ndarray":
    total = amounts.sum(axis=0, dtype="float64")
    return total < 1e-3 * total.sum()


def _embedding(amounts: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """Shares of the metagenes that differ between cells, as others embed nothing, and which metagenes these are."""
    import numpy as np

    from unbatch.models.batchblend import shares

    found = shares(amounts)
    embedded = np.flatnonzero(np.ptp(found, axis=0) > 0)
    return found[:, embedded], embedded


def _found(
    adata: "AnnData",
    cells: "Cells",
    fitted: "Fitted",
    embedded: "np.ndarray",
    names: list[str],
    mode: str,
    settings: dict[str, Any],
    graphs: dict[str, str],
) -> "AnnData":
    """Everything that the fit holds beside its embedding."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    model = fitted.model
    about: dict[str, Any] = {
        "batches": np.array(names, dtype=object),
        "embedded": embedded,
        "dead_metagenes": _dead(fitted.amounts),
        "sigma": model.sigma,
        "batch_effect": {
            "beta": model.beta,
            "offset": model.offset,
            "offset_se": model.offset_error,
            "total_offset": model.total_offset,
            "total_offset_se": model.total_offset_error,
            "factor": model.factors,
            "log_factor_se": model.log_error,
        },
        "evidence": _evidence(model, names),
        "history": {name: np.array(values) for name, values in fitted.history.items()},
    }
    if fitted.affinity is not None:
        about["spatial"] = {
            "affinity": fitted.affinity.affinity,
            "affinity_permuted": fitted.affinity.permuted,
            "affinity_permuted_sd": fitted.affinity.permuted_sd,
            "graph": np.array([graphs.get(name, "none") for name in names], dtype=object),
            "mode": settings["spatial"],
        }
    return AnnData(
        obs=adata.obs[[]],
        var=pd.DataFrame(index=cells.genes),
        obsm={f"X_{mode}_amount": fitted.amounts},
        varm={"metagenes": model.metagenes.T.astype(np.float32)},
        uns=about,
    )


def _evidence(model: "BatchBlend", names: list[str]) -> dict[str, "np.ndarray"]:
    import numpy as np

    items = model.evidence
    names_of_columns = ("accepted", "refused", "size", "error", "composition", "meeting")
    columns = {name: np.array([getattr(item, name) for item in items]) for name in names_of_columns}
    return columns | {
        "batch": np.array([" | ".join(names[code] for code in item.batches) for item in items], dtype=object),
        "step": np.array([item.step for item in items], dtype=object),
        "reason": np.array([item.reason for item in items], dtype=object),
    }


def _corrected(cells: "Cells", model: "BatchBlend") -> Iterator["np.ndarray"]:
    """Yield expression without offset and factors, 0 or more, some cells at a time."""
    import numpy as np

    for start in range(0, len(cells.batch), _ROWS):
        part = slice(start, start + _ROWS)
        batch = cells.batch[part]
        left = cells.counts[part].toarray() - model.offset[batch]
        yield (np.maximum(left, 0) / model.factors[batch]).astype(np.float32)

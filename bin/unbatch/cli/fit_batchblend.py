"""`fit-batchblend`: metagenes and the batch effect in them, or POPARI's model without one."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, Run, log, program
from unbatch.cli.fits import (
    columns_of,
    fit_arguments,
    merge_parameters,
    names_in,
    read_cells,
    read_parameters,
    refuse_options,
    saved_parameters,
    short,
    torch_device,
    use_threads,
    write_fit,
)
from unbatch.errors import InputError, NotApplicable

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.baselines.cells import Cells
    from unbatch.data.graph import Graph
    from unbatch.models.batchblend import BatchBlend, Fitted, Settings
    from unbatch.models.verdicts import Evidence

CHOICES = {
    "offset": ("rays", "annealed", "cross", "none"),
    "ambiguous": ("auto", "remove", "leave"),
    "spatial": ("auto", "none", "linear", "hmrf"),
    "graph": ("auto", "visium", "delaunay", "knn", "radius"),
}
"""Values of the parameters that are names."""

_COMMON: dict[str, Any] = {
    "metagenes": None,
    "iterations": 20,
    "spatial": "auto",
    "spatial_weight": None,
    "shared_affinity": False,
    "graph": "auto",
    "neighbours": 6,
    "radius": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "batchblend": _COMMON
    | {"offset": "rays", "factors": True, "ambiguous": "auto", "rounds": 4, "sparsity": None, "pooling": None},
    "popari": _COMMON | {"iterations": 60, "spatial": "hmrf", "spatial_weight": 1.0},
}
"""Parameters by mode; ``metagenes: null`` chooses their number by held-out entries; `null` of the `_WEIGHTS` is
what suits cells, or spots on a Visium array, which hold several."""

_WEIGHTS = ("sparsity", "pooling", "spatial_weight")
"""Parameters that weigh a prior."""

_OF_A_FIT = (
    "mode", "metagenes", "offset", "factors", "ambiguous", "spatial", "graph", "neighbours", "radius", "spatial_weight",
    "params", "max_epochs",
)  # fmt: skip
"""Options that change nothing where a model is applied."""

_SHAPES = {
    "metagenes": "KG",
    "offset": "TG",
    "offset_error": "TG",
    "total_offset": "T",
    "total_offset_error": "T",
    "factors": "TG",
    "log_error": "TG",
    "beta": "TK",
    "sigma": "T",
    "decoder.metagenes": "KG",
    "decoder.factors": "TG",
    "decoder.offset": "TG",
    "decoder.weights": "TG",
    "decoder.variance": "T",
    "decoder.shares": "CK",
    "decoder.directions": "Gr",
    "decoder.on_directions": "Tr",
    "decoder.total": "T",
    "decoder.centres": "Cr",
    "decoder.expected": "TCK",
    "decoder.spread": "CK",
    "decoder.cell_constant": "1",
    "decoder.cell_slope": "1",
    "decoder.cell_mean": "1",
    "decoder.mean_total": "1",
    "decoder.mean_divided": "1",
    "decoder.sparsity": "1",
    "decoder.pooling": "1",
    "decoder.scale": "1",
    "reference.amounts": "nK",
    "reference.batch": "n",
}
"""Shapes of a model's arrays: T batches, K metagenes, G genes, 1; any number of states C, directions r, cells n."""

_ROWS = 4096
_PER_THREAD = 2_000_000
"""Entries of the expression, of cells x genes, that one more thread is worth its waiting for (benchmarks/busy.py)."""


@dataclass(frozen=True)
class _Saved:
    """A model that was read, with its own parameters."""

    mode: str
    settings: dict[str, Any]
    genes: list[str]
    batches: list[str]
    model: "BatchBlend"


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
@click.option("--spatial", type=click.Choice(CHOICES["spatial"]), help="How neighbours change the shares of a cell.")
@click.option("--graph", type=click.Choice(CHOICES["graph"]), help="Which cells are neighbours.")
@click.option("--neighbours", type=click.IntRange(1), help="Nearest cells, of --graph knn.")
@click.option("--radius", type=float, help="Of --graph radius, in the unit of the coordinates.")
@click.option(
    "--spatial-weight",
    type=click.FloatRange(0),
    help="Of the neighbours against the counts, without pooling; more smooths.",
)
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

    Options win over --params, which wins over the defaults of the mode. Only --params has rounds, iterations,
    sparsity, pooling and shared_affinity.
    """
    from unbatch.data import io

    io.require_place(output, [dataset])
    if model is not None:
        io.require_model_place(model)
    device = torch_device(run)
    if apply is None:
        saved = None
        stated = read_parameters(params) | {name: value for name, value in given.items() if value is not None}
        settings = _checked(mode, merge_parameters(mode, DEFAULTS[mode], stated))
        if max_epochs is not None:
            settings["iterations"] = min(settings["iterations"], max_epochs)
    else:
        refuse_options(apply, _OF_A_FIT)
        saved = _read_saved(apply, device)
        mode, settings = saved.mode, {**saved.settings, "spatial": "none"}
    adata, cells = read_cells(dataset, least_batches=1, normalised=False)
    names = [str(name) for name in adata.obs["batch"].cat.remove_unused_categories().cat.categories]
    use_threads(run, cells.counts.shape[0] * cells.counts.shape[1], _PER_THREAD)
    start = time.perf_counter()
    if saved is None:
        _check_counts(dataset, cells, names, settings, adata.layers["counts"])
        fitted, graphs = _fit(dataset, cells, names, mode, settings, run.seed, device)
    else:
        place = columns_of(dataset, adata, apply, saved.genes)
        cells = replace(cells, counts=adata.layers["counts"][:, place], genes=saved.genes)
        fitted, names, cells = _applied(dataset, cells, names, apply, saved, run.seed)
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
        about["evidence"] = [_row(item) for item in fitted.model.evidence]
        io.write_model(model, about, fitted.model.weights())


def _applied(
    path: Path, cells: "Cells", names: list[str], folder: Path, saved: _Saved, seed: int
) -> tuple["Fitted", list[str], "Cells"]:
    """Embed cells with a model: batches that it knows as they are, others after their effect is found.

    Raises
    ------
    InputError
        If a new batch has too few cells, or the model is one that takes no new batch: one that finds offsets by a
        prior, or of one batch, whose offset is in its metagenes, so that the new one's would be taken off against it.
    """
    import numpy as np

    from unbatch.models.batchblend import SMALLEST, Fitted

    model, known = saved.model, list(saved.batches)
    settings, least = _settings(saved.mode, saved.settings), saved.settings["metagenes"]
    for code, name in enumerate(names):
        if name in known:
            continue
        if settings.offset in ("annealed", "cross"):
            raise InputError(
                f"{path}: obs/batch: {name} is a new batch, and the model in {folder} finds offsets by a prior "
                f"({settings.offset}), which takes all batches in one fit; expected {' and '.join(known)} only"
            )
        if len(saved.batches) == 1 and settings.offset != "none":
            raise InputError(
                f"{path}: obs/batch: {name} is a new batch, and the model in {folder} is of one batch "
                f"({saved.batches[0]}), whose own offset cannot be told from its cells; expected cells of that batch, "
                "a model of two batches or more, or one that was fitted with --offset none"
            )
        counts = cells.counts[cells.batch == code]
        usable = int(_usable(counts, np.zeros(counts.shape[0], dtype=int), 1)[0])
        if usable < least:
            raise InputError(
                f"{path}: obs/batch: {name} is a new batch with {usable} cells whose layers/counts sum to more than "
                f"{SMALLEST:.0%} of its mean cell's, the {least} metagenes of the model need as many or more"
            )
        log.info("%s is a new batch: its effect is found against the cells of the model", name)
        model = model.with_batch(counts, seed, settings, log.info)
        known.append(name)
    batch = np.array([known.index(name) for name in names])[cells.batch]
    return Fitted(model, model.amounts(cells.counts, batch), {}), known, replace(cells, batch=batch)


def _read_saved(folder: Path, device: str) -> _Saved:
    """Read a model that --model wrote.

    Raises
    ------
    InputError
        If a file is missing, not that of such a model, or does not fit the other one.
    """
    from unbatch.data import io
    from unbatch.models.batchblend import BatchBlend

    config, weights = io.read_model(folder)
    path = folder / "config.json"
    mode = config["method"]
    if mode not in list(DEFAULTS):
        raise InputError(f"{path}: method is {short(mode)}, expected one of {', '.join(DEFAULTS)}")
    genes, batches = names_in(path, config, "genes"), names_in(path, config, "batches")
    settings = saved_parameters(
        path, config, lambda given: _checked(mode, merge_parameters(mode, DEFAULTS[mode], given))
    )
    if settings["metagenes"] is None:
        raise InputError(f"{path}: params: metagenes is missing, expected the number of them")
    evidence = _read_evidence(path, config.get("evidence"), len(batches))
    path = folder / "weights.safetensors"
    _check_weights(path, weights, {"T": len(batches), "K": settings["metagenes"], "G": len(genes)})
    try:
        model = BatchBlend.from_weights(weights, evidence, device)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return _Saved(mode, settings, genes, batches, model)


def _check_weights(path: Path, weights: dict[str, "np.ndarray"], sizes: dict[str, int]) -> None:
    """Check that the arrays fit the configuration, and each other.

    Raises
    ------
    InputError
        At the first that does not.
    """
    known = f"{sizes['T']} batches, {sizes['K']} metagenes and {sizes['G']} genes"
    sizes = {**sizes, "1": 1}
    for name, letters in _SHAPES.items():
        if name not in weights:
            continue
        shape = weights[name].shape
        fits = len(shape) == len(letters) and 0 not in shape
        if not fits or any(sizes.setdefault(key, size) != size for key, size in zip(letters, shape, strict=True)):
            expected = " x ".join(str(sizes.get(key, "any")) for key in letters)
            raise InputError(
                f"{path}: {name} has shape {' x '.join(map(str, shape))}, expected {expected} for the {known} of "
                "config.json"
            )
    code = weights.get("reference.batch")
    if code is not None and not (code.dtype.kind == "i" and code.min() >= 0 and code.max() < sizes["T"]):
        raise InputError(f"{path}: reference.batch holds other values than the codes 0 to {sizes['T'] - 1} of batches")


def _row(item: "Evidence") -> dict[str, Any]:
    """Evidence as JSON takes it, which has no NaN."""
    row = asdict(item) | {"batches": [int(code) for code in item.batches], "verdict": str(item.verdict)}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _read_evidence(path: Path, rows: Any, batches: int) -> list["Evidence"]:
    """Read what `_row` made of evidence.

    Raises
    ------
    InputError
        If it is something else.
    """
    from unbatch.models.verdicts import Evidence, Verdict

    if not isinstance(rows, list):
        raise InputError(f"{path}: evidence is {short(rows)}, expected a list")
    kinds = {each.name: each.type for each in fields(Evidence)}

    def fits(name: str, value: Any) -> bool:
        if name == "batches":
            whole = isinstance(value, list) and value and all(_is_number(code, int) for code in value)
            return bool(whole) and all(0 <= code < batches for code in value)
        if name == "verdict":
            return value in list(Verdict)
        return (value is None or _is_number(value, int | float)) if kinds[name] is float else type(value) is kinds[name]

    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != kinds.keys():
            raise InputError(f"{path}: evidence {number} is {short(row)}, expected {', '.join(kinds)}")
        wrong = [name for name, value in row.items() if not fits(name, value)]
        if wrong:
            raise InputError(f"{path}: evidence {number}: {wrong[0]} is {short(row[wrong[0]])}, which it cannot be")
        values = {name: math.nan if value is None else value for name, value in row.items()}
        values |= {"batches": tuple(row["batches"]), "verdict": Verdict(row["verdict"])}
        found.append(Evidence(**values))
    return found


def _checked(mode: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Check the values that have a range.

    Raises
    ------
    InputError
        If a value cannot be used.
    """
    least = {"metagenes": 2, "iterations": 1, "rounds": 1, "neighbours": 1} | dict.fromkeys(_WEIGHTS, 0)
    for name, value in settings.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise InputError(f"{mode}: parameter {name} is {value!r}, expected one of {', '.join(CHOICES[name])}")
        if name in least and value is not None:
            whole = name not in _WEIGHTS
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
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _check_counts(path: Path, cells: "Cells", names: list[str], settings: dict[str, Any], counts: Any) -> None:
    """Check that the model can be fitted to these counts; `counts` are those of all genes.

    Raises
    ------
    InputError
        If there are no more genes than metagenes, or a batch has fewer cells that can be used.
    """
    from unbatch.data.sparse import logarithm
    from unbatch.models.batchblend import SMALLEST

    wanted = settings["metagenes"] or 2
    if len(cells.genes) <= wanted:
        raise InputError(f"{path}: var/highly_variable marks {len(cells.genes)} genes, {wanted} metagenes need more")
    sizes = _usable(cells.counts, cells.batch, len(names))
    if sizes.min() < wanted:
        raise InputError(
            f"{path}: obs/batch: {names[int(sizes.argmin())]} has {sizes.min()} cells whose layers/counts sum to more "
            f"than {SMALLEST:.0%} of the mean cell's, {wanted} metagenes need as many or more in every batch"
        )
    made = logarithm(counts)
    if made:
        log.warning(
            "%s: layers/counts look like logarithms of counts (%s); an offset is defined on counts, and rays bend on a "
            "logarithmic scale",
            path,
            made,
        )


def _fit(
    path: Path, cells: "Cells", names: list[str], mode: str, settings: dict[str, Any], seed: int, device: str
) -> tuple["Fitted", dict[str, str]]:
    """Fit the model; also return which graph the sections of each batch have."""
    from unbatch.data.graph import widened
    from unbatch.models import batchblend

    if len(names) == 1:
        log.warning("%s: obs/batch holds one batch: there is no batch effect to correct, metagenes are fitted", path)
    graph = _graph(path, cells, settings)
    if settings["metagenes"] is None:
        settings["metagenes"] = _choose_metagenes(cells, len(names), seed, device)
        log.info("%d metagenes, by held-out entries", settings["metagenes"])
    spots = graph is not None and set(graph.kinds.values()) == {"visium"}
    usual = batchblend.OF_SPOTS if spots else batchblend.OF_CELLS
    if settings["spatial"] == "hmrf":
        usual = usual | {"spatial_weight": 1.0, "pooling": 0.0}
        if settings.get("pooling"):
            log.warning("pooling %s is not used: spatial hmrf has no states", settings["pooling"])
    elif mode == "batchblend" and settings["spatial"] == "linear" and settings["spatial_weight"] is not None:
        weight, pooling = settings["spatial_weight"], settings["pooling"]
        if usual["pooling"] if pooling is None else pooling:
            log.warning("spatial_weight %s is used with pooling: 0 only, and where cells are in no states", weight)
    chosen = {name: usual[name] for name in usual if name in settings and settings[name] is None}
    settings |= chosen
    if chosen:
        what = "spots of an array, several cells each" if spots else "single cells"
        log.info("for %s: %s", what, ", ".join(f"{name} {value:g}" for name, value in chosen.items()))
    edges = wide = None
    # affinities take longer than all the rest: without a spatial phase, of a graph that was asked for only
    if graph is not None and (settings["spatial"] != "none" or settings["graph"] != "auto"):
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
    return fitted, _kinds_by_batch(cells, names, graph) if graph else {}


def _kinds_by_batch(cells: "Cells", names: list[str], graph: "Graph") -> dict[str, str]:
    """How the graphs of each batch's sections were built."""
    import numpy as np

    pairs = np.unique(np.column_stack((cells.batch, cells.sections)), axis=0).tolist()
    found: dict[str, set[str]] = {}
    for batch, section in pairs:
        found.setdefault(names[batch], set()).add(graph.kinds[section])
    return {name: ", ".join(sorted(kinds)) for name, kinds in found.items()}


def _settings(mode: str, settings: dict[str, Any]) -> "Settings":
    from unbatch.models.batchblend import Settings

    known = {field.name for field in fields(Settings)}
    chosen = {name: value for name, value in settings.items() if name in known}
    return Settings.popari(**chosen) if mode == "popari" else Settings(**chosen)


def _choose_metagenes(cells: "Cells", batches: int, seed: int, device: str) -> int:
    from unbatch.models.batchblend import choose_metagenes

    found = choose_metagenes(cells.counts, cells.batch, seed, device=device)
    # of very few genes or cells, it may choose as many as there are
    return min(found, len(cells.genes) - 1, int(_usable(cells.counts, cells.batch, batches).min()))


def _usable(counts: Any, batch: "np.ndarray", batches: int) -> "np.ndarray":
    """Count the cells of each batch that a fit uses; those almost without counts are left out of it."""
    import numpy as np

    from unbatch.models.batchblend import SMALLEST

    totals = np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    return np.bincount(batch[totals > SMALLEST * totals.mean()], minlength=batches)


def _graph(path: Path, cells: "Cells", settings: dict[str, Any]) -> "Graph | None":
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
            cells.sections,
            settings["graph"],
            k=settings["neighbours"],
            radius=settings["radius"],
            names=cells.section_names,
        )
    except InputError as error:
        if needed:
            raise InputError(f"{path}: obsm/spatial: {error}") from error
        log.warning("%s: obsm/spatial: %s; this fit is without spatial phase and affinities", path, error)
        settings["spatial"] = "none"
        return None
    if settings["spatial"] == "auto":
        settings["spatial"] = "linear"
    kinds = Counter(graph.kinds.values())
    log.info(
        "neighbours: %s; %.1f a cell, spatial phase: %s",
        ", ".join(f"{kind} in {count} of {len(graph.kinds)} sections" for kind, count in kinds.items()),
        len(graph.source) / len(cells.batch),
        settings["spatial"],
    )
    return graph


def _report(fitted: "Fitted", names: list[str]) -> None:
    """Say what was found of the batch effect."""
    from unbatch.models.verdicts import NUMBERS, sentence

    for item in fitted.model.evidence:
        where = " | ".join(names[code] for code in item.batches)
        numbers = {name: getattr(item, name) for name in NUMBERS}
        reason = sentence(item.step, item.verdict, **numbers)
        log.info("%s, %s %s: %s", where, item.step, "taken" if item.accepted else "not taken", reason)
    dead = int(_dead(fitted.amounts).sum())
    if dead:
        are = "metagene is" if dead == 1 else "metagenes are"
        log.warning("%d %s dead (below 0.1 %% of all amounts): fewer metagenes would do", dead, are)


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

    from unbatch.models.verdicts import NUMBERS

    items = model.evidence
    names_of_columns = ("accepted", "refused", *NUMBERS)
    columns = {name: np.array([getattr(item, name) for item in items]) for name in names_of_columns}
    return columns | {
        "batch": np.array([" | ".join(names[code] for code in item.batches) for item in items], dtype=object),
        "step": np.array([item.step for item in items], dtype=object),
        "verdict": np.array([str(item.verdict) for item in items], dtype=object),
    }


def _corrected(cells: "Cells", model: "BatchBlend") -> Iterator["np.ndarray"]:
    """Yield expression without offset and factors, 0 or more, some cells at a time."""
    import numpy as np

    for start in range(0, len(cells.batch), _ROWS):
        part = slice(start, start + _ROWS)
        batch = cells.batch[part]
        left = cells.counts[part].toarray() - model.offset[batch]
        yield (np.maximum(left, 0) / model.factors[batch]).astype(np.float32)

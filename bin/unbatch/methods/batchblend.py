"""BatchBlend: metagenes, and the batch effect in them, gene by gene (`unbatch.models.batchblend`)."""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot, short
from unbatch.data.cells import Cells
from unbatch.errors import InputError, NotApplicable

if TYPE_CHECKING:
    from unbatch.data.graph import Graph
    from unbatch.models.batchblend import BatchBlend, Fitted, Settings
    from unbatch.models.verdicts import Evidence
    from unbatch.report.section import Sections

log = logging.getLogger("unbatch")

PROGRAM = "fit-batchblend"
PACKAGES = ("scipy",)
NEEDS = Needs(batches=1, gpu=True)
EPOCHS = "iterations"
SLOTS = {
    "obsm/X_batchblend_amount": Slot("amounts of the metagenes in each cell, in counts"),
    "varm/metagenes": Slot("metagenes in columns, each sums to 1 over the genes"),
    "layers/corrected": Slot("expression without the batch effect, 0 or more (with `corrected`)"),
    "uns/batches": Slot("names of the batches, in the order of what follows", "any"),
    "uns/embedded": Slot("metagenes that are dimensions of the embedding; one whose share never varies is not", "any"),
    "uns/dead_metagenes": Slot("metagenes with less than 0.1% of all amounts", "any"),
    "uns/sigma": Slot("noise of each batch: standard deviation over the square root of the mean", "any"),
    "uns/batch_effect": Slot("offset and factor of each batch and gene, with standard errors", "mapping"),
    "uns/evidence": Slot(
        "every difference that was looked for: size, error, how much of it was removed, and why", "mapping"
    ),
    "uns/history": Slot("the course of the fit by iteration", "mapping"),
    "uns/spatial": Slot("affinities between metagenes by batch, and those of permuted cells", "mapping"),
}

LARGEST_BLOCK = 4096
"""Cells whose corrected expression is in memory at a time."""

PER_THREAD = 2_000_000
"""Entries of the expression, of cells x genes, that one more thread is worth its waiting for (benchmarks/busy.py)."""


class Spatial(Parameters):
    """Parameters that BatchBlend and POPARI share."""

    metagenes: int | None = Field(None, ge=2, description="number of metagenes; null: chosen by held-out entries")
    spatial: Literal["auto", "none", "linear", "hmrf"] = Field(
        "auto",
        description="how neighbours change the shares of a cell: a regression on them (linear), POPARI's random field "
        "(hmrf), or auto: linear where there are coordinates",
    )
    spatial_weight: float | None = Field(
        None,
        ge=0,
        description="weight of the neighbours against the counts, without pooling; more smooths; null: 3, and 4 for "
        "spots of a Visium array",
    )
    shared_affinity: bool = Field(False, description="one affinity matrix for all batches in place of one for each")
    graph: Literal["auto", "visium", "delaunay", "knn", "radius"] = Field(
        "auto", description="which cells are neighbours"
    )
    neighbours: int = Field(6, ge=1, description="nearest cells, of graph knn")
    radius: float | None = Field(None, gt=0, description="of graph radius, in the unit of the coordinates")
    corrected: bool = Field(
        False,
        description="also write layers/corrected: expression without the batch effect",
        json_schema_extra={"applies": True},
    )

    @model_validator(mode="after")
    def _radius_is_given(self) -> "Spatial":
        if self.graph == "radius" and self.radius is None:
            raise ValueError("graph radius needs parameter radius, a length above 0; found null")
        return self


class Params(Spatial):
    """Parameters of `fit`."""

    RENAMED: ClassVar[dict[str, str]] = {"ambiguous": "strength (leave: 0, remove: 1, auto: 0.5)"}

    iterations: int = Field(20, ge=1, description="iterations of the factorisation")
    offset: Literal["rays", "annealed", "none"] = Field(
        "rays", description="how the additive batch effect is found; none: there is none"
    )
    factors: bool = Field(True, description="a factor for each gene in each batch")
    strength: float = Field(
        0.5,
        ge=0,
        le=1,
        description="how much is removed of differences that the batches' composition could make, too: 0 leaves what "
        "lies along within-batch variation, 1 removes it, 0.5 goes by how likely it is to be the batch effect",
    )
    rounds: int = Field(4, ge=1, description="times that states, offset and factors are found anew")
    sparsity: float | None = Field(
        None, ge=0, description="strength of the prior of few metagenes a cell; null: 0.75, and 0 for spots"
    )
    pooling: float | None = Field(
        None,
        ge=0,
        description="weight of the prior that draws a cell to the cells of its state; null: 1, and 0 for spots",
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Fit the metagenes and the batch effect."""
    return fit_model(cells, params, run, "batchblend")


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Embed other cells with a model: batches that it knows as they are, others after their effect is found."""
    return apply_model(model, cells, run)


def sections() -> "Sections":
    """Return the sections of the report over its fits."""
    from unbatch.report.fits.batchblend import SECTIONS

    return SECTIONS


def fit_model(cells: Cells, params: Params | Spatial, run: Run, method: str) -> Fit:
    """Fit BatchBlend or POPARI's model to the counts of the highly variable genes.

    Raises
    ------
    InputError
        If there are no more genes than metagenes, a batch has fewer cells that can be used, or the coordinates do not
        allow the graph that was asked for.
    NotApplicable
        If a spatial phase was asked for and there are no coordinates.
    """
    from unbatch.data.graph import widened
    from unbatch.models import batchblend
    from unbatch.nn.threads import use_threads

    use_threads(run.threads, len(cells) * len(cells.genes), PER_THREAD)
    _check_counts(cells, params.metagenes or 2)
    if cells.n_batches == 1:
        log.warning(
            "%s: obs/batch holds one batch: there is no batch effect to correct, metagenes are fitted", cells.name
        )
    graph, spatial = choose_graph(cells, params)
    metagenes = params.metagenes
    if metagenes is None:
        metagenes = choose_metagenes(cells, run)
        log.info("%d metagenes, by held-out entries", metagenes)
    used = params.model_copy(update={"spatial": spatial, "metagenes": metagenes})
    spots = graph is not None and set(graph.kinds.values()) == {"visium"}
    used = used.model_copy(update=usual_weights(used, spots, method))
    edges = wide = None
    # affinities take longer than all the rest: without a spatial phase, of a graph that was asked for only
    if graph is not None and (spatial != "none" or params.graph != "auto"):
        edges = (graph.source, graph.target)
        if spatial == "linear":
            wider = widened(graph, len(cells))
            wide = (wider.source, wider.target)
    fitted = batchblend.fit(
        cells.counts,
        cells.batch,
        settings_of(method, used),
        graph=edges,
        wide_graph=wide,
        seed=run.seed,
        device=run.device,
        log=log.info,
    )
    return _found(cells, fitted, cells.batches, method, used, _kinds_by_batch(cells, graph) if graph else {})


def _kinds_by_batch(cells: Cells, graph: "Graph") -> dict[str, str]:
    """How the graphs of each batch's sections were built."""
    found: dict[str, set[str]] = {}
    for batch, section in np.unique(np.column_stack((cells.batch, cells.section)), axis=0).tolist():
        found.setdefault(cells.batches[batch], set()).add(graph.kinds[section])
    return {name: ", ".join(sorted(kinds)) for name, kinds in found.items()}


def apply_model(saved: SavedModel, cells: Cells, run: Run) -> Fit:
    """Embed other cells with a saved model of BatchBlend or POPARI.

    Raises
    ------
    InputError
        If the model is damaged, a new batch has too few cells, or the model takes no new batch: it finds offsets by a
        prior, or is of a single batch, whose offset is in its metagenes: a new one's would be relative to it.
    """
    from unbatch.models.batchblend import Fitted
    from unbatch.nn.threads import use_threads

    use_threads(run.threads, len(cells) * len(cells.genes), PER_THREAD)
    params = saved.params.model_copy(update={"spatial": "none"})
    model = read_model(saved, run.device)
    known, settings = list(saved.batches), settings_of(saved.method, params)
    for code, name in enumerate(cells.batches):
        if name in known:
            continue
        counts = cells.counts[cells.batch == code]
        _check_new_batch(saved, cells, name, counts, settings)
        log.info("%s is a new batch: its effect is found against the cells of the model", name)
        model = model.with_batch(counts, seed=run.seed, settings=settings, log=log.info)
        known.append(name)
    batch = np.array([known.index(name) for name in cells.batches])[cells.batch]
    fitted = Fitted(model, model.amounts(cells.counts, batch), {})
    return _found(cells.but(batch=batch, batches=known), fitted, known, saved.method, params, {})


def choose_graph(cells: Cells, params: Spatial) -> "tuple[Graph | None, str]":
    """Make the graph of neighbours and settle which spatial phase there is.

    Returns
    -------
    tuple of Graph or None, and str
        The graph, None without coordinates or where they allow none; ``"none"``, ``"linear"`` or ``"hmrf"``.

    Raises
    ------
    NotApplicable
        If a spatial phase was asked for and there are no coordinates.
    InputError
        If a spatial phase or a graph was asked for and the coordinates allow none.
    """
    from unbatch.data.graph import neighbours

    if cells.coordinates is None:
        if params.spatial not in ("auto", "none"):
            raise NotApplicable(f"{cells.name}: obsm/spatial is missing, spatial: {params.spatial} needs coordinates")
        log.info("no coordinates: no spatial phase and no affinities")
        return None, "none"
    try:
        graph = neighbours(
            cells.coordinates,
            cells.section,
            params.graph,
            k=params.neighbours,
            radius=params.radius,
            names=cells.sections,
        )
    except InputError as error:
        if params.spatial not in ("auto", "none") or params.graph != "auto":
            raise InputError(f"{cells.name}: obsm/spatial: {error}") from error
        log.warning("%s: obsm/spatial: %s; this fit is without spatial phase and affinities", cells.name, error)
        return None, "none"
    spatial = "linear" if params.spatial == "auto" else params.spatial
    kinds = Counter(graph.kinds.values())
    log.info(
        "neighbours: %s; %.1f a cell, spatial phase: %s",
        ", ".join(f"{kind} in {count} of {len(graph.kinds)} sections" for kind, count in kinds.items()),
        len(graph.source) / len(cells),
        spatial,
    )
    return graph, spatial


def usual_weights(params: Params | Spatial, spots: bool, method: str) -> dict[str, float]:
    """Weights of the priors that were not given: what suits single cells, or spots that hold several.

    Parameters
    ----------
    params
        With the spatial phase that there is.
    spots
        Whether these are spots of an array.
    method
        ``"batchblend"`` or ``"popari"``.
    """
    from unbatch.models import batchblend

    usual = batchblend.OF_SPOTS if spots else batchblend.OF_CELLS
    pooling, weight = getattr(params, "pooling", None), params.spatial_weight
    if params.spatial == "hmrf":
        usual = usual | {"spatial_weight": 1.0, "pooling": 0.0}
        if pooling:
            log.warning("pooling %s is not used: spatial hmrf has no states", pooling)
    elif (
        method == "batchblend"
        and params.spatial == "linear"
        and weight is not None
        and (usual["pooling"] if pooling is None else pooling)
    ):
        log.warning("spatial_weight %s is used with pooling: 0 only, and where cells are in no states", weight)
    names = type(params).model_fields
    chosen = {name: usual[name] for name in usual if name in names and getattr(params, name) is None}
    if chosen:
        what = "spots of an array, several cells each" if spots else "single cells"
        log.info("for %s: %s", what, ", ".join(f"{name} {value:g}" for name, value in chosen.items()))
    return chosen


def settings_of(method: str, params: Params | Spatial) -> "Settings":
    """Make the model's settings of these parameters."""
    from unbatch.models.batchblend import Settings

    known = {field.name for field in fields(Settings)}
    chosen = {name: value for name, value in params.model_dump().items() if name in known}
    return Settings.popari(**chosen) if method == "popari" else Settings(**chosen)


def choose_metagenes(cells: Cells, run: Run) -> int:
    """Choose the number of metagenes by held-out entries; at most what the genes and the smallest batch allow."""
    from unbatch.models.batchblend import choose_metagenes as by_held_out_entries

    found = by_held_out_entries(cells.counts, cells.batch, run.seed, device=run.device)
    return min(found, len(cells.genes) - 1, int(_usable(cells.counts, cells.batch, cells.n_batches).min()))


def _check_counts(cells: Cells, metagenes: int) -> None:
    from unbatch.data.sparse import logarithm
    from unbatch.models.batchblend import SMALLEST

    if len(cells.genes) <= metagenes:
        raise InputError(
            f"{cells.name}: var/highly_variable marks {len(cells.genes)} genes, {metagenes} metagenes need more"
        )
    sizes = _usable(cells.counts, cells.batch, cells.n_batches)
    if sizes.min() < metagenes:
        smallest = cells.batches[int(sizes.argmin())]
        raise InputError(
            f"{cells.name}: obs/batch: {smallest} has {sizes.min()} cells whose layers/counts sum to more than "
            f"{SMALLEST:.0%} of the mean cell's, {metagenes} metagenes need as many or more in every batch"
        )
    made = logarithm(cells.all_counts)
    if made:
        log.warning(
            "%s: layers/counts look like logarithms of counts (%s); an offset is defined on counts, and rays bend on a "
            "logarithmic scale",
            cells.name,
            made,
        )


def _check_new_batch(saved: SavedModel, cells: Cells, name: str, counts: Any, settings: "Settings") -> None:
    from unbatch.models.batchblend import SMALLEST

    if settings.offset == "annealed":
        raise InputError(
            f"{cells.name}: obs/batch: {name} is a new batch, and the model in {saved.folder} finds offsets by a prior "
            f"(annealed), which takes all batches in one fit; expected {' and '.join(saved.batches)} only"
        )
    if len(saved.batches) == 1 and settings.offset != "none":
        raise InputError(
            f"{cells.name}: obs/batch: {name} is a new batch, and the model in {saved.folder} is of one batch "
            f"({saved.batches[0]}), whose own offset cannot be told from its cells; expected cells of that batch, "
            "a model of two batches or more, or one that was fitted with --offset none"
        )
    usable = int(_usable(counts, np.zeros(counts.shape[0], dtype=int), 1)[0])
    if usable < settings.metagenes:
        raise InputError(
            f"{cells.name}: obs/batch: {name} is a new batch with {usable} cells whose layers/counts sum to more than "
            f"{SMALLEST:.0%} of its mean cell's, the {settings.metagenes} metagenes of the model need as many or more"
        )


def _usable(counts: Any, batch: np.ndarray, batches: int) -> np.ndarray:
    """Count the cells of each batch that a fit uses; those almost without counts are left out of it."""
    from unbatch.models.batchblend import SMALLEST

    totals = np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    return np.bincount(batch[totals > SMALLEST * totals.mean()], minlength=batches)


def _found(
    cells: Cells, fitted: "Fitted", names: list[str], method: str, params: Params | Spatial, graphs: dict[str, str]
) -> Fit:
    """Everything that was found, in the slots of a fit."""
    from unbatch.models.batchblend import shares
    from unbatch.models.verdicts import NUMBERS, sentence

    model = fitted.model
    for item in model.evidence:
        where = " | ".join(names[code] for code in item.batches)
        reason = sentence(item.step, item.verdict, **{name: getattr(item, name) for name in NUMBERS})
        log.info("%s, %s: %s", where, item.step, reason)
    totals = fitted.amounts.sum(axis=0, dtype="float64")
    dead = totals < 1e-3 * totals.sum()
    if dead.any():
        are = "metagene is" if dead.sum() == 1 else "metagenes are"
        log.warning("%d %s dead (below 0.1%% of all loadings): fewer metagenes would do", int(dead.sum()), are)
    # a metagene whose share is the same in all cells embeds nothing
    share = shares(fitted.amounts)
    embedded = np.flatnonzero(np.ptp(share, axis=0) > 0)
    slots: dict[str, Any] = {
        f"obsm/X_{method}_amount": fitted.amounts,
        "varm/metagenes": model.metagenes.T.astype(np.float32),
        "uns/batches": np.array(names, dtype=object),
        "uns/embedded": embedded,
        "uns/dead_metagenes": dead,
        "uns/sigma": model.sigma,
        "uns/batch_effect": {
            "beta": model.beta,
            "offset": model.offset,
            "offset_se": model.offset_error,
            "total_offset": model.total_offset,
            "total_offset_se": model.total_offset_error,
            "factor": model.factors,
            "log_factor_se": model.log_error,
        },
        "uns/evidence": _evidence(model, names),
        "uns/history": {name: np.array(values) for name, values in fitted.history.items()},
    }
    if fitted.affinity is not None:
        slots["uns/spatial"] = {
            "affinity": fitted.affinity.affinity,
            "affinity_permuted": fitted.affinity.permuted,
            "affinity_permuted_sd": fitted.affinity.permuted_sd,
            "graph": np.array([graphs.get(name, "none") for name in names], dtype=object),
            "mode": params.spatial,
        }
    return Fit(
        share[:, embedded],
        weights=model.weights(),
        config={"batches": names, "evidence": [_row(item) for item in model.evidence]},
        used=params,
        slots=slots,
        layers={"corrected": _corrected(cells, model)} if params.corrected else {},
    )


def _evidence(model: "BatchBlend", names: list[str]) -> dict[str, np.ndarray]:
    from unbatch.models.verdicts import NUMBERS

    items = model.evidence
    columns = {name: np.array([getattr(item, name) for item in items]) for name in ("accepted", "refused", *NUMBERS)}
    return columns | {
        "batch": np.array([" | ".join(names[code] for code in item.batches) for item in items], dtype=object),
        "step": np.array([item.step for item in items], dtype=object),
        "verdict": np.array([str(item.verdict) for item in items], dtype=object),
    }


def _corrected(cells: Cells, model: "BatchBlend") -> Iterator[np.ndarray]:
    """Yield expression without offset and factors, 0 or more, some cells at a time."""
    for start in range(0, len(cells), LARGEST_BLOCK):
        part = slice(start, start + LARGEST_BLOCK)
        batch = cells.batch[part]
        left = cells.counts[part].toarray() - model.offset[batch]
        yield (np.maximum(left, 0) / model.factors[batch]).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ saved models

SHAPES = {
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


def read_model(saved: SavedModel, device: str) -> "BatchBlend":
    """Make the model of its arrays.

    Raises
    ------
    InputError
        If they do not fit the configuration or each other.
    """
    from unbatch.models.batchblend import BatchBlend

    path = saved.folder / "config.json"
    if saved.params.metagenes is None:
        raise InputError(f"{path}: params: metagenes is missing, expected the number of them")
    evidence = _read_evidence(path, saved.config.get("evidence"), len(saved.batches))
    path = saved.folder / "weights.safetensors"
    _check_weights(path, saved.weights, {"T": len(saved.batches), "K": saved.params.metagenes, "G": len(saved.genes)})
    try:
        return BatchBlend.from_weights(saved.weights, evidence, device)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _check_weights(path: Path, weights: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """Check that the arrays fit the configuration, and each other.

    Raises
    ------
    InputError
        At the first that does not.
    """
    known = f"{sizes['T']} batches, {sizes['K']} metagenes and {sizes['G']} genes"
    sizes = {**sizes, "1": 1}
    for name, letters in SHAPES.items():
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
            raise InputError(
                f"{path}: evidence {number} is {short(row)}, expected {', '.join(kinds)} (a model of an earlier "
                "version has to be fitted anew)"
            )
        wrong = [name for name, value in row.items() if not fits(name, value)]
        if wrong:
            raise InputError(f"{path}: evidence {number}: {wrong[0]} is {short(row[wrong[0]])}, which it cannot be")
        values = {name: math.nan if value is None else value for name, value in row.items()}
        values |= {"batches": tuple(row["batches"]), "verdict": Verdict(row["verdict"])}
        found.append(Evidence(**values))
    return found


def _is_number(value: Any, kind: Any) -> bool:
    """Tell whether this is a finite number of some kind; YAML has NaN, infinity, and truth values that are ints."""
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return isinstance(value, int) or math.isfinite(value)

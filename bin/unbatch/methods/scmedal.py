"""scMEDAL (Andrade et al. 2026): an embedding kept free of the batch, and one of what is a batch's own."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, InMemory, Needs, Parameters, Run, SavedModel, Slot, short
from unbatch.data.cells import Cells
from unbatch.errors import InputError, NotApplicable, UnbatchError

if TYPE_CHECKING:
    from unbatch.models.scmedal import Fitted, Models, Settings
    from unbatch.models.scmedal.counterfactual import Groups, Labels, Move
    from unbatch.models.scmedal.parts import Parts
    from unbatch.nn.minibatches import Source
    from unbatch.report.section import Sections

log = logging.getLogger("unbatch")

PROGRAM = "fit-scmedal"
PACKAGES = ("torch",)
NEEDS = Needs(gpu=True)

KINDS = {
    "scmedal": ("fe", "re"),
    "ae": ("ae",),
    "aec": ("aec",),
    "fe": ("fe",),
    "fec": ("fec",),
    "re": ("re",),
}
"""Models of each mode; the embedding of the first one is that of the method."""

SLOTS = {
    **{
        f"obsm/X_scmedal_{kind}": Slot(about)
        for kind, about in {
            "fe": "fixed effects, what the batches share",
            "re": "random effects, what is a batch's own",
            "ae": "of mode ae: the plain autoencoder's embedding",
            "aec": "of mode aec: the same, trained with a classifier of labels",
            "fec": "of mode fec: fixed effects, trained with a classifier of labels",
        }.items()
    },
    "uns/batches": Slot("names of all batches", "any"),
    "uns/part": Slot("train, validation or test; applied where a model was applied", "any"),
    "uns/history": Slot("MODEL.TERM: every term of the loss by epoch, before its weight", "mapping"),
    "uns/best_epoch": Slot("by model the epoch whose weights were kept, from 1", "mapping"),
    "uns/loss_weights": Slot("MODEL.TERM: weight of the term in the total", "mapping"),
    "uns/counterfactual": Slot(
        "mean change of expression by target batch, label and gene (with `counterfactual`)", "mapping"
    ),
    "uns/groups": Slot("tests between two groups of batches by label and gene (with `groups`)", "mapping"),
    "uns/panel": Slot("cells for genomaps: as they are, reconstructed, and as if from each batch", "mapping"),
}

PER_THREAD = 64_000
"""Entries of a minibatch, of cells x genes, that one more thread is worth its waiting for (benchmarks/busy.py)."""
CELLS_AT_ONCE = 4096
"""About as many are embedded at once."""

_ASKED = {"applies": True}
Weights = dict[str, Annotated[float, Field(ge=0)]]


class Params(Parameters):
    """Parameters of `fit`."""

    mode: Literal["scmedal", "ae", "aec", "fe", "fec", "re"] = Field(
        "scmedal", description="the model: fixed and random effects (scmedal), one of them, or the plain autoencoders"
    )
    preset: Literal["recommended", "paper"] = Field(
        "recommended", description="losses, weights and training as published (paper), or what was found to be better"
    )
    latent: int = Field(50, ge=1, description="dimensions of the embeddings")
    epochs: int | None = Field(None, ge=1, description="training epochs; null: the preset's, by the number of cells")
    minibatch: int | None = Field(None, ge=2, description="cells in a step; null: the preset's")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="learning rate of Adam; null: the preset's")
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation loss after which training stops; null: the preset's"
    )
    weights_fixed: Weights = Field({}, description="weights of terms of the loss of ae, aec, fe and fec, by name")
    weights_random: Weights = Field({}, description="weights of terms of the loss of re, by name")
    fold: int = Field(0, ge=0, description="fold of obs/split that no model sees; the next one stops training")
    held_out_batch: str | None = Field(None, description="name of a batch that no model sees, in place of a fold")
    in_memory: InMemory = "auto"
    counterfactual: str | None = Field(
        None,
        description="target batches of counterfactuals, separated by commas; average is the population mean",
        json_schema_extra=_ASKED,
    )
    groups: str | None = Field(
        None,
        description="column of obs with two groups of batches: test between cells put into each batch",
        json_schema_extra=_ASKED,
    )
    cells: str | None = Field(
        None,
        description="cells that are put into batches, a condition on obs such as label == 'B'; null: all",
        json_schema_extra=_ASKED,
    )
    way: Literal["batch-free", "published", "decoder"] = Field(
        "batch-free", description="how cells are put into another batch", json_schema_extra=_ASKED
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Fit the models of the mode, and answer what was asked of them.

    Raises
    ------
    NotApplicable
        If the mode needs labels and there are fewer than two.
    InputError
        If there is no such fold, batch, column or cell, or the data or the settings can't be fitted.
    UnbatchError
        If a loss was not finite; what is good of the models is kept first.
    """
    from unbatch.models.scmedal import schedule
    from unbatch.nn.threads import use_threads

    kinds = KINDS[params.mode]
    if {"aec", "fec"} & {*kinds} and len(cells.labels) < 2:
        raise NotApplicable(
            f"{cells.name}: obs/label holds {len(cells.labels)} labels, {params.mode} needs two or more"
        )
    data = _seen(cells, params, run.device)
    parts, data = _parts(data, params)
    n_train = len(parts.train)
    largest = min(len(cells.genes), n_train)
    if params.latent > largest:
        log.info("latent space of %d, as there are no more genes or training cells", largest)
        params = params.model_copy(update={"latent": largest})
    question = _question(data, params)
    _require_way(data, params, question, "re" in kinds)
    cells_at_once = min(n_train, *(schedule(_settings(kind, params), n_train).size for kind in kinds))
    use_threads(run.threads, cells_at_once * len(cells.genes), PER_THREAD)
    config = {"batches": data.known, "labels": cells.labels, "depth": data.depth}

    def keep(models: "Models", diverged: str) -> None:
        if run.keep is not None:
            run.keep(
                {"params": params.model_dump(), **config, **models.config(), "diverged": diverged}, models.weights()
            )

    projected = bool(question) and params.way == "batch-free"
    fits, models = _fitted(data, parts, params, run, projected=projected, keep=keep)
    found = _answers(data, models, question, params.way, run.seed)
    return _found(data, params, models, found, fits=fits, parts=parts, config=config)


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Embed other cells with saved models, and answer what is asked of them.

    Raises
    ------
    InputError
        If the model is damaged or lacks what is asked of it, or there is no such batch, column or cell.
    """
    from unbatch.models.scmedal.counterfactual import listed
    from unbatch.nn.threads import use_threads

    use_threads(run.threads, min(len(cells), CELLS_AT_ONCE) * len(cells.genes), PER_THREAD)
    params = model.params
    models, depth = _read_models(model, run.device)
    new = [name for name in cells.batches if name not in model.batches]
    if new:
        log.info("%s: the model does not know the batches %s, it takes the average one", cells.name, listed(new))
    data = _seen(cells, params, run.device, model.batches, depth)
    question = _question(data, params)
    _require_way(data, params, question, "re" in models.by_kind)
    if question and params.way == "batch-free" and models.projection is None:
        raise InputError(
            f"{model.folder}: the model was saved without what way {params.way} decodes with; fit it with "
            "counterfactual or groups, or ask for way published"
        )
    return _found(data, params, models, _answers(data, models, question, params.way, run.seed))


def sections() -> "Sections":
    """Return the sections of the report over its fits."""
    from unbatch.report.fits.scmedal import SECTIONS

    return SECTIONS


# ---------------------------------------------------------------------------------------------- what the models see


@dataclass(frozen=True)
class _Seen:
    """What the models see of a dataset.

    Attributes
    ----------
    cells
        The cells.
    source
        Their expression, in memory or streamed.
    batch, known
        Code of each cell's batch for the models, -1 for one that they don't know, n; and names of those they know.
    depth
        Sum of the normalised expression of a cell over all genes of the dataset.
    """

    cells: Cells
    source: "Source"
    batch: np.ndarray
    known: list[str]
    depth: float

    @property
    def labels(self) -> "Labels":
        from unbatch.models.scmedal.counterfactual import Labels

        return Labels(self.cells.label, self.cells.labels)


def _seen(
    cells: Cells, params: Params, device: str, known: list[str] | None = None, fitted_depth: float | None = None
) -> _Seen:
    """Read the expression, or leave it in its file to be streamed, at the depth of the fit where a model is applied."""
    from unbatch.data import expression
    from unbatch.nn.minibatches import Resident, Streamed

    stored = cells.source
    first = (
        cells.X[: expression.DEPTH_CELLS] if stored is None else stored.rows(0, min(expression.DEPTH_CELLS, len(cells)))
    )
    depth = expression.depth(first)
    if not 0 < depth < float("inf"):
        raise InputError(
            f"{cells.name}: X is too large for logarithms of normalised counts, expected what `preprocess` writes"
        )
    scale = 1.0 if fitted_depth is None else fitted_depth / depth
    if cells.streams(params.in_memory, device):

        def read(start: int, stop: int) -> Any:
            return expression.rescaled(stored.rows(start, stop)[:, cells.columns], scale)

        source: Source = Streamed(read, (len(cells), len(cells.genes)), device)
    else:
        source = Resident(expression.rescaled(cells.X, scale), device)
    if known is None:
        return _Seen(cells, source, cells.batch, cells.batches, depth)
    code = np.array([known.index(name) if name in known else -1 for name in cells.batches])
    return _Seen(cells, source, code[cells.batch], known, depth)


def _parts(data: _Seen, params: Params) -> tuple["Parts", _Seen]:
    """Divide the cells; also return the data with the batches as the models will know them, without one held out."""
    from unbatch.models.scmedal import missing_batches
    from unbatch.models.scmedal.counterfactual import listed
    from unbatch.models.scmedal.parts import of_fold, without_batch

    cells, held = data.cells, params.held_out_batch
    try:
        if held is None:
            parts = of_fold(cells.fold, params.fold)
        elif held in cells.batches:
            parts, batch = without_batch(cells.batch, cells.fold, cells.batches.index(held))
            known = [name for name in cells.batches if name != held]
            data = _Seen(cells, data.source, batch, known, data.depth)
        else:
            raise InputError(
                f"{cells.name}: obs/batch has no {held!r} to hold out, expected one of {listed(cells.batches)}"
            )
    except ValueError as error:
        raise InputError(f"{cells.name}: obs/split: {error}") from error
    missing = missing_batches(data.batch, parts)
    if missing:
        raise InputError(
            f"{cells.name}: obs/split: batch {data.known[missing[0]]} has no cells in the training folds, expected "
            "some in every batch; run preprocess again, or hold the batch out"
        )
    for fold, chosen in (("validation", parts.validation), ("test", parts.test)):
        absent = [name for code, name in enumerate(data.known) if not (data.batch[chosen] == code).any()]
        if absent and held is None:
            text = "%s: obs/split: no cell of %s is in the %s fold, which tells nothing of it"
            log.warning(text, cells.name, listed(absent), fold)
    return parts, data


def _settings(kind: str, params: Params) -> "Settings":
    from unbatch.models.scmedal import Settings

    names = ("preset", "latent", "epochs", "minibatch", "learning_rate", "patience")
    weights = params.weights_random if kind == "re" else params.weights_fixed
    return Settings(model=kind, weights=dict(weights), **{name: getattr(params, name) for name in names})


def _fitted(
    data: _Seen, parts: "Parts", params: Params, run: Run, *, projected: bool, keep: Any
) -> "tuple[dict[str, Fitted], Models]":
    """Fit the models of the mode, and what the default counterfactual is decoded with where it is `projected`.

    Where a fit breaks, `keep` gets what is good: the models so far, and the last good weights of that one.
    """
    from unbatch.models import scmedal
    from unbatch.nn.training import Diverged

    kinds, fits = KINDS[params.mode], {}
    what, n_train, label = "", len(parts.train), data.cells.label
    common = {"seed": run.seed, "tell": log.info}
    try:
        for what in kinds:
            log.info("%s", what.upper())
            settings = scmedal.limited(_settings(what, params), n_train, run.max_epochs)
            fits[what] = scmedal.fit(data.source, data.batch, parts, settings, label=label, **common)
        projection = None
        if projected:
            what, label = "the embedding to decode", label if len(data.cells.labels) > 1 else None
            log.info("embedding to decode%s", "" if label is None else ", batches matched within labels")
            settings = scmedal.limited(scmedal.decoding_settings(_settings("fe", params)), n_train, run.max_epochs)
            projection, _ = scmedal.fit_projection(data.source, data.batch, parts, settings, label=label, **common)
    except Diverged as error:
        good = {kind: fitted.model for kind, fitted in fits.items()}
        good |= {what: scmedal.Model(error.network)} if what in kinds else {}
        keep(scmedal.Models(good), diverged=f"{what}: {error}")
        raise UnbatchError(f"{data.cells.name}: {what} failed: {error}") from error
    except ValueError as error:
        raise InputError(f"{data.cells.name}: {error}") from error
    return fits, scmedal.Models({kind: fitted.model for kind, fitted in fits.items()}, projection)


# ------------------------------------------------------------------------------------------ what is asked of models


@dataclass(frozen=True)
class _Question:
    """Codes of batches to put cells into, the column of groups and these, positions of the cells."""

    into: dict[str, int]
    column: str | None
    between: "Groups | None"
    chosen: np.ndarray

    def __bool__(self) -> bool:
        return bool(self.into or self.between)


def _question(data: _Seen, params: Params) -> _Question:
    """Read the parameters `counterfactual`, `groups` and `cells`."""
    from unbatch.models.scmedal.counterfactual import target_batches

    if params.cells is not None and params.counterfactual is None and params.groups is None:
        raise InputError("scmedal: parameter cells names cells for counterfactual or groups, neither is given")
    wanted = [part.strip() for part in (params.counterfactual or "").split(",") if part.strip()]
    try:
        into = target_batches(wanted, data.known, unseen=data.cells.batches)
    except ValueError as error:
        raise InputError(f"{data.cells.name}: obs/batch, parameter counterfactual: {error}") from error
    return _Question(into, params.groups, _groups(data, params.groups), _chosen(data.cells, params.cells))


def _chosen(cells: Cells, query: str | None) -> np.ndarray:
    """Positions of the cells that a condition on obs names; all without one."""
    if query is None:
        return np.arange(len(cells))
    obs = cells.obs.reset_index(drop=True)
    try:
        found = obs.query(query, engine="python").index.to_numpy()
    except Exception as error:  # a condition may fail in any way
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"parameter cells {query!r}: {said}; expected a condition on the columns of obs in {cells.name}"
        ) from error
    if not len(found):
        raise InputError(f"parameter cells {query!r}: no cell of {cells.name} is such, expected one or more")
    return found.astype(np.int64)


def _groups(data: _Seen, column: str | None) -> "Groups | None":
    """Divide the batches that have cells and that the models know by a column of obs."""
    from unbatch.models.scmedal.counterfactual import listed, two_groups

    obs, name = data.cells.obs, data.cells.name
    if column is None:
        return None
    if column not in obs:
        raise InputError(f"{name}: obs has no column {column!r} for parameter groups, it has {listed([*obs])}")
    text = obs[column].astype(str).astype(object).where(obs[column].notna(), None).to_numpy()
    try:
        return two_groups(text, data.batch, data.known)
    except ValueError as error:
        raise InputError(f"{name}: obs/{column}, parameter groups: {error}") from error


def _require_way(data: _Seen, params: Params, question: _Question, random: bool) -> None:
    if question and params.way != "batch-free" and not random:
        raise InputError(
            f"{data.cells.name}: way {params.way} needs random effects, expected mode scmedal or re, found "
            f"{params.mode}"
        )


def _answers(data: _Seen, models: "Models", question: _Question, way: str, seed: int) -> dict[str, Any]:
    """Give what was asked, and the cells of genomaps where there are random effects."""
    from unbatch.models.scmedal import counterfactual

    if not question and "re" not in models.by_kind:
        return {}
    # genomaps show random effects as published, unless something else was asked for
    way = way if question else "published"
    move = models.mover(way, seed)
    named = {"labels": data.labels, "cells": question.chosen}
    found: dict[str, Any] = {}
    if question.into:
        table = counterfactual.shifts(data.source, data.batch, move, question.into, **named)
        found["uns/counterfactual"] = {"way": way, **table}
    if question.between:
        table = counterfactual.group_tests(data.source, data.batch, move, question.between, **named, seed=seed)
        names = " and ".join(question.between.names)
        log.info("%s: %d labels tested between %s", question.column, len(table["labels"]), names)
        found["uns/groups"] = {"way": way, "column": question.column, **table}
    return found | {"uns/panel": {"way": way, **_panel(data, models, move, seed)}}


def _panel(data: _Seen, models: "Models", move: "Move", seed: int) -> dict[str, Any]:
    """Choose cells for genomaps by the first embedding, and put them into every batch."""
    from unbatch.models.scmedal import counterfactual

    cells, batches = data.cells, len(data.known)
    embedding = next(iter(models.by_kind.values())).embed(data.source, data.batch)
    shown, first = counterfactual.panel_cells(embedding, cells.batch, labels=data.labels, batches=batches, seed=seed)
    kept: dict[str, Any] = counterfactual.panel(
        data.source.take(shown), data.batch[shown], batches=batches, fixed=models.fixed, move=move
    )
    code, names = data.labels.of(shown)
    return kept | {
        "cells": cells.obs.index.to_numpy().astype(object)[shown],
        "labels": _text(names)[code],
        "own": _text(cells.batches)[cells.batch[shown]],
        "medoids": first,
        "genes": _text(cells.genes)[kept["genes"]],
        "batches": _text(data.known),
    }


def _text(names: Sequence[str]) -> np.ndarray:
    return np.array(names, dtype=object)


# --------------------------------------------------------------------------------------------- fits and saved models


def _found(
    data: _Seen,
    params: Params,
    models: "Models",
    answers: dict[str, Any],
    *,
    fits: "dict[str, Fitted] | None" = None,
    parts: "Parts | None" = None,
    config: dict[str, Any] | None = None,
) -> Fit:
    """Everything that was found, in the slots of a fit; of a model that was applied, nothing on training."""
    embeddings = {kind: each.embed(data.source, data.batch) for kind, each in models.by_kind.items()}
    part = np.full(len(data.cells), "applied" if parts is None else "train", dtype=object)
    if parts is not None:
        part[parts.validation], part[parts.test] = "validation", "test"
    curves, fits = {}, fits or {}
    for kind, fitted in fits.items():
        curves |= {f"{kind}.{term}": np.array(values) for term, values in fitted.history.items()}
    slots = {f"obsm/X_scmedal_{kind}": values for kind, values in embeddings.items()} | {
        "uns/batches": _text(data.cells.batches),
        "uns/part": part.astype(str),
        "uns/history": curves,
        "uns/best_epoch": {kind: fitted.best_epoch for kind, fitted in fits.items()},
        "uns/loss_weights": {
            f"{kind}.{term}": w for kind, fitted in fits.items() for term, w in fitted.weights.items()
        },
    }
    return Fit(
        next(iter(embeddings.values())),
        weights={} if config is None else models.weights(),
        config={} if config is None else config | models.config(),
        used=params,
        first="X_scmedal_fe" if "fe" in embeddings else None,
        second="X_scmedal_re" if "re" in embeddings else None,
        slots=slots | answers,
    )


def _read_models(saved: SavedModel, device: str) -> "tuple[Models, float]":
    """Make the models of a saved fit of their arrays; also return the depth of the fit."""
    from unbatch.models.scmedal import Models

    path, config = saved.folder / "config.json", saved.config
    if "diverged" in config:
        raise InputError(f"{path}: the fit of the model ended with an error ({short(config['diverged'])})")
    depth = config.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, int | float) or not 0 < depth < float("inf"):
        raise InputError(f"{path}: depth is {short(depth)}, expected a number above 0")
    try:
        models = Models.from_weights(KINDS[saved.params.mode], config, saved.weights, device)
    except ValueError as error:
        raise InputError(f"{saved.folder}: config.json and weights.safetensors do not make a model: {error}") from error
    if models.sizes != {(len(saved.genes), len(saved.batches))}:
        found = " and ".join(f"{genes} genes and {batches} batches" for genes, batches in sorted(models.sizes))
        raise InputError(
            f"{path}: models of {found}, expected the {len(saved.genes)} genes and {len(saved.batches)} batches that "
            "are named"
        )
    return models, float(depth)

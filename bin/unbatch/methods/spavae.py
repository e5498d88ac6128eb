"""spaVAE (Tian et al. 2024): counts of spots by latent values that a Gaussian process ties over the tissue."""

import csv
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot, short
from unbatch.data.cells import Cells
from unbatch.errors import InputError, UnbatchError

if TYPE_CHECKING:
    from unbatch.models.spavae import Fitted, Latent, Model, Settings, Spots

log = logging.getLogger("unbatch")

PROGRAM = "fit-spavae"
PACKAGES = ("torch",)
NEEDS = Needs(batches=1, coordinates=True, integers=True, gpu=True)

SLOTS = {
    "obsm/X_spavae_gp": Slot("posterior means of the processes over the tissue, which domains are made of"),
    "obsm/X_spavae_variance": Slot("their posterior variances; 1 is the prior's"),
    "obsm/X_spavae_gaussian": Slot("means of the latent values that do not depend on the position"),
    "layers/denoised": Slot("expected counts of a spot of median depth (with `denoised`)"),
    "uns/part": Slot("train, validation, held out (`fold`), or empty: no count of the genes; or applied", "any"),
    "uns/history": Slot("terms of the loss per spot, beta and the score, by epoch", "mapping"),
    "uns/best_epoch": Slot("epoch whose weights were kept, from 1", "any"),
    "uns/inducing": Slot(
        "by section: inducing points, mean and largest share of the prior variance that they leave, scale", "mapping"
    ),
    "uns/domains": Slot("cluster of each cell by both clusterers, and after a vote of its neighbours", "mapping"),
    "uns/held_out": Slot(
        "minus log likelihood per spot and correlation of predictions at held-out spots, of the model and of "
        "simpler ones (with `fold`)",
        "mapping",
    ),
    "uns/predicted": Slot(
        "at new positions: latent values, variances, distance to the nearest spot, counts at median depth "
        "(with `predict_at`)",
        "mapping",
    ),
    "uns/spatial_genes": Slot("by gene: p-values of the score test, Moran's I (with `spatial_genes`)", "mapping"),
    "uns/differential": Slot("by group and gene: log fold changes, Bayes factors (with `differential`)", "mapping"),
}

PER_THREAD = 64_000
"""Entries of a minibatch, of cells x genes, that one more thread is worth its waiting for, as measured for scMEDAL's
networks, which are of the same size (benchmarks/busy.py)."""
SMALL = 500
"""Spots below which a fit is said to be unsure."""
MEAN_OF = 30
"""Nearest spots whose mean the predictions are compared with."""

_ASKED = {"applies": True}


class Params(Parameters):
    """Parameters of `fit`."""

    preset: Literal["recommended", "paper"] = Field(
        "recommended", description="sizes, start and training as published (paper), or what was found to be better"
    )
    latent: int = Field(2, ge=1, description="latent dimensions that a Gaussian process ties over the tissue")
    gaussian: int = Field(8, ge=0, description="latent dimensions that do not depend on the position")
    kernel: Literal["cauchy", "eq", "matern"] = Field(
        "cauchy", description="kernel over space, a function of the squared distance over the scale"
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="scale of the kernel, in squared spot pitches; null: 200 (a reach of 14 pitches), less in a small "
        "tissue, more where it would need too many inducing points",
    )
    inducing: Literal["auto", "grid", "kmeans"] | None = Field(
        None,
        description="inducing points: auto (as many spots as the kernel needs), a grid, or centres of k-means; null: "
        "the preset's",
    )
    inducing_points: int | None = Field(
        None, ge=4, description="of a section: at most (auto) or in all (grid, kmeans); null: 512 or 49"
    )
    inputs: Literal["pcs", "genes"] | None = Field(
        None, description="what is encoded: principal components or all genes; null: the preset's"
    )
    encoder: Literal["dense", "convolutional"] = Field(
        "dense", description="the encoder; a convolution over the order of the genes needs inputs genes"
    )
    dispersion: Literal["gene", "batch"] = Field("gene", description="a dispersion per gene, or per gene and batch")
    beta: float | None = Field(
        None, ge=0, description="weight of the divergences from the prior; null: chosen by a controller as it trains"
    )
    noise: float = Field(
        0.0, ge=0, description="noise on standardised inputs that must not change the processes, in deviations; 0: none"
    )
    epochs: int | None = Field(None, ge=1, description="training epochs; null: the preset's, by the number of cells")
    minibatch: int | None = Field(None, ge=16, description="spots in a step; null: the preset's")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="learning rate of Adam; null: the preset's")
    validation: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="share of the spots that only scores the epochs; null: the preset's (recommended: 0, paper: 0.05)",
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better score after which training stops; null: the preset's"
    )
    fold: int | None = Field(
        None, ge=0, description="fold of obs/split that is held out and predicted by its positions; null: none"
    )
    domains: int | None = Field(
        None, ge=2, description="number of domains; null: chosen by a criterion", json_schema_extra=_ASKED
    )
    denoised: bool = Field(
        False, description="also write layers/denoised: expected counts at median depth", json_schema_extra=_ASKED
    )
    predict_at: str | None = Field(
        None,
        description="CSV or TSV file of positions to predict at: columns section (where there are several), x, y and, "
        "in 3-D, z, in the unit and order of obsm/spatial",
        json_schema_extra=_ASKED,
    )
    spatial_genes: bool = Field(False, description="test every gene for a pattern over space", json_schema_extra=_ASKED)
    differential: str | None = Field(
        None,
        description="column of obs, or domains: test for differential expression between its groups",
        json_schema_extra=_ASKED,
    )
    between: str | None = Field(
        None,
        description="two groups of `differential`, separated by a comma; null: each against all others",
        json_schema_extra=_ASKED,
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Fit the model, and answer what was asked of it.

    Raises
    ------
    InputError
        If positions or counts can't be used, or what is asked for is not there.
    UnbatchError
        If a loss was not finite; the weights of the best epoch before are kept first.
    """
    from unbatch.models import spavae
    from unbatch.nn.threads import use_threads
    from unbatch.nn.training import Diverged

    settings = _settings(params, cells.coordinates.shape[1])
    counts = cells.whole_counts()
    if counts is not cells.counts:
        log.warning("%s: layers/counts are not whole numbers; they are scaled and rounded for the model", cells.name)
    part, spots = _parts(cells, counts, params, run.device)
    train = np.flatnonzero(part == "train")
    at = _require_questions(cells, params, cells.sections)
    try:
        spavae.require(spots, train, cells.sections)
    except ValueError as error:
        raise InputError(f"{cells.name}: obsm/spatial, layers/counts: {error}") from error
    if len(train) < SMALL:
        log.warning("%s: %d spots are few for a spatial model, expected %d or more", cells.name, len(train), SMALL)
    settings = settings.but(epochs=_limited(settings, len(train), run.max_epochs))
    size = spavae.schedule(settings, len(train)).size
    use_threads(run.threads, min(size, len(train)) * len(cells.genes), PER_THREAD)
    config = {"sections": cells.sections}
    try:
        fitted = spavae.fit(spots, settings, train_on=train, seed=run.seed, tell=log.info)
    except Diverged as error:
        if run.keep is not None:
            good = spavae.finished(error.network, spots, train)
            run.keep(config | spavae.config(good) | {"diverged": str(error)}, spavae.weights(good))
        raise UnbatchError(f"{cells.name}: spavae failed: {error}") from error
    except ValueError as error:
        raise InputError(f"{cells.name}: {error}") from error
    model, chosen = fitted.model, fitted.chosen
    part[fitted.held] = "validation"
    about = _inducing(cells, fitted, settings)
    latent = _latent(model, spots, np.isin(part, ["train", "validation"]), cells)
    slots = {
        "uns/history": {name: np.array(values) for name, values in fitted.history.items()},
        "uns/best_epoch": fitted.best_epoch,
        "uns/inducing": about,
    }
    if params.fold is not None:
        slots["uns/held_out"] = _held_out(model, latent, spots, part)
    log.info("scale %.4g: %s inducing points", chosen.scale, ", ".join(map(str, about["points"])))
    found = _found(cells, params, run, (model, latent, spots, part), cells.sections, at)
    found.weights, found.config = spavae.weights(model), config | spavae.config(model)
    found.slots |= slots
    learnt = {} if settings.learns_scale else {"scale": chosen.scale}
    found.used = found.used.using(epochs=fitted.plan.epochs, minibatch=fitted.plan.size, **learnt)
    return found


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Embed other cells with a saved model: cells of its sections by their positions, other sections by their own.

    Raises
    ------
    InputError
        If the model is damaged, or positions, counts or what is asked for can't be used.
    """
    from unbatch.models import spavae
    from unbatch.models.spavae import positions

    path = model.folder / "config.json"
    if "diverged" in model.config:
        raise InputError(f"{path}: the fit of the model ended with an error ({short(model.config['diverged'])})")
    names = model.config.get("sections")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: sections is {short(names)}, expected a list of names")
    try:
        fitted = spavae.model_of(model.config, model.weights, run.device)
    except ValueError as error:
        raise InputError(f"{model.folder}: config.json and weights.safetensors do not make a model: {error}") from error
    if (fitted.network.genes, fitted.network.batches, len(fitted.units)) != (
        len(model.genes), len(model.batches), len(names),
    ):  # fmt: skip
        raise InputError(f"{path}: genes, batches and sections are not as many as the arrays have")
    if cells.coordinates.shape[1] != fitted.units.shape[1]:
        raise InputError(
            f"{cells.name}: obsm/spatial has {cells.coordinates.shape[1]} columns, expected the "
            f"{fitted.units.shape[1]} of the model in {model.folder}"
        )
    new = [name for name in cells.sections if name not in names]
    every = [*names, *new]
    at = _require_questions(cells, model.params, every)
    section = np.array([every.index(name) for name in cells.sections])[cells.section]
    unknown = [name for name in cells.batches if name not in model.batches]
    if unknown:
        log.info("%s: the model does not know the batches %s, it takes the average one", cells.name, _listed(unknown))
    code = np.array([model.batches.index(name) if name in model.batches else -1 for name in cells.batches])
    counts = cells.whole_counts()
    spots = spavae.Spots.of(counts, cells.coordinates, section, code[cells.batch], run.device)
    own = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
    fresh = own[section[own] >= len(names)]
    if len(fresh):
        log.info("%s: the model does not know the sections %s; they are fields of their own", cells.name, _listed(new))
        try:
            positions.require(spots.points[fresh], section[fresh], every)
        except ValueError as error:
            raise InputError(f"{cells.name}: obsm/spatial: {error}") from error
        chosen = spavae.Spots.of(counts[fresh], spots.points[fresh], section[fresh], spots.batch[fresh], run.device)
        fitted = spavae.with_sections(fitted, chosen, run.seed)
    part = np.full(len(cells), "applied", dtype=object)
    counted = np.zeros(len(cells), dtype=bool)
    counted[own] = True
    latent = _latent(fitted, spots, counted, cells)
    return _found(cells, model.params, run, (fitted, latent, spots, part), every, at)


# ------------------------------------------------------------------------------------------------- what the model sees


def _settings(params: Params, axes: int) -> "Settings":
    """Make settings of the preset and of what was stated, for positions of so many axes."""
    from unbatch.models.spavae import PRESETS

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


def _limited(settings: "Settings", spots: int, most: int | None) -> int | None:
    from unbatch.models.spavae import schedule

    return settings.epochs if most is None else min(most, schedule(settings, spots).epochs)


def _parts(cells: Cells, counts: Any, params: Params, device: str) -> tuple[np.ndarray, Any]:
    """Say which cells train and which are only predicted."""
    from unbatch.models.spavae import Spots

    part = np.full(len(cells), "train", dtype=object)
    if params.fold is not None:
        folds = sorted(set(cells.fold.tolist()))
        if params.fold not in folds:
            raise InputError(f"{cells.name}: obs/split has no fold {params.fold}, expected one of {_listed(folds)}")
        part[cells.fold == params.fold] = "held out"
    empty = np.asarray(counts.sum(1)).ravel() == 0
    if empty.any():
        log.warning(
            "%s: %d cells have no count of the %d genes; they are predicted by their positions",
            cells.name,
            int(empty.sum()),
            len(cells.genes),
        )
        part[empty] = "empty"
    return part, Spots.of(counts, cells.coordinates, cells.section, cells.batch, device)


def _require_questions(cells: Cells, params: Params, sections: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Refuse what can't be answered before anything is fitted; give positions to predict at, and their sections."""
    from unbatch.models.spavae import domains, positions

    if params.between is not None and params.differential is None:
        raise InputError("spavae: parameter between names groups of differential, which is not given")
    if params.differential == "domains":
        _between(params, [str(code) for code in range(params.domains or domains.MOST)])
    elif params.differential is not None:
        _groups(cells, params, {})
    if params.spatial_genes and np.bincount(cells.section).max() < positions.LEAST:
        raise InputError(
            f"{cells.name}: no section has {positions.LEAST} cells, expected one at least to test genes for a pattern "
            "over space (spatial_genes)"
        )
    return None if params.predict_at is None else _read_positions(Path(params.predict_at), cells, sections)


# -------------------------------------------------------------------------------------------------- what is asked of it


def _latent(model: "Model", spots: "Spots", counted: np.ndarray, cells: Cells) -> "Latent":
    """Embed cells; those that are not `counted` by their positions alone. Warn of what is outside the tissue."""
    from unbatch.models.spavae import Latent
    from unbatch.models.spavae.prediction import surroundings

    own = model.embed(spots)
    near, distance = surroundings(model, spots.points, spots.section)
    _warn_far(distance, f"{cells.name}: obsm/spatial")
    mean = np.where(counted[:, None], own.gaussian, near)
    # of the dimensions that no position tells, the variance is the prior's
    return Latent(own.mean, own.variance, mean, np.where(counted[:, None], own.gaussian_variance, 1.0))


def _warn_far(distance: np.ndarray, where: str) -> None:
    from unbatch.models.spavae.positions import FAR

    far = distance > FAR
    if far.any():
        log.warning(
            "%s: %d of %d positions are outside the tissue, up to %.1f spot pitches from the nearest spot that the "
            "model was fitted to; what is predicted there is little more than the prior",
            where,
            int(far.sum()),
            len(distance),
            float(distance.max()),
        )


def _found(
    cells: Cells,
    params: Params,
    run: Run,
    known: "tuple[Model, Latent, Spots, np.ndarray]",
    sections: list[str],
    at: tuple[np.ndarray, np.ndarray] | None,
) -> Fit:
    """Give the embedding, and answers to all that was asked, in the slots of a fit.

    Codes of sections, of the spots and of the positions to predict `at`, are those of `sections`.
    """
    model, latent, spots, part = known
    place = spots.points * model.units[spots.section]
    domains = _domains(model, latent, place, spots.section, params, run.seed)
    slots: dict[str, Any] = {
        "obsm/X_spavae_gp": latent.mean.astype(np.float32),
        "obsm/X_spavae_variance": latent.variance.astype(np.float32),
        "uns/part": part.astype(str),
        "uns/domains": domains,
    }
    if latent.gaussian.shape[1]:
        slots["obsm/X_spavae_gaussian"] = latent.gaussian.astype(np.float32)
    if at is not None:
        slots["uns/predicted"] = _predicted(model, params.predict_at, at, sections, spots)
    if params.spatial_genes:
        slots["uns/spatial_genes"] = _spatial_genes(model, cells, spots)
    if params.differential is not None:
        slots["uns/differential"] = _differential(cells, params, domains, known, run.seed)
    layers = {"denoised": _denoised(model, latent, spots.batch, run.seed)} if params.denoised else {}
    used = params.using(domains=domains["number"])
    return Fit(latent.embedding.astype(np.float32), used=used, slots=slots, layers=layers)


def _domains(
    model: "Model", latent: "Latent", place: np.ndarray, section: np.ndarray, params: Params, seed: int
) -> dict[str, Any]:
    """Cluster by both clusterers, each with and without a vote of neighbours; none is preferred."""
    from unbatch.models.spavae import domains

    number = params.domains
    if number is None:
        explained = model.posterior.explained.mean(1).cpu().numpy()
        number = domains.number_of(latent.mean, float(explained[np.unique(section)].sum()), seed)
        log.info("%d domains by the Bayesian information criterion", number)
    found = {
        "kmeans": domains.by_kmeans(latent.embedding, number, seed),
        "mixture": domains.by_mixture(latent.mean, number, seed).labels,
    }
    refined = {f"{name}_refined": domains.refined(labels, place, section) for name, labels in found.items()}
    return {"number": number, "chosen": params.domains is None, **found, **refined}


def _inducing(cells: Cells, fitted: "Fitted", settings: "Settings") -> dict[str, Any]:
    """Say what was chosen, and warn where the inducing points leave much of the process out."""
    chosen = fitted.chosen
    for name, points, residual in zip(cells.sections, chosen.points, chosen.residual, strict=True):
        if residual > 2 * settings.tolerance:
            log.warning(
                "%s: section %s: %d inducing points leave %.0f %% of the variance of the kernel of scale %.3g; more "
                "points (inducing_points) or a larger scale leave less",
                cells.name,
                name,
                len(points),
                100 * residual,
                chosen.scale,
            )
        elif len(points) < 4:
            log.warning(
                "%s: section %s: a kernel of scale %.3g is nearly constant over the tissue (%d inducing points), "
                "expected a smaller scale",
                cells.name,
                name,
                chosen.scale,
                len(points),
            )
    return {
        "sections": _text(cells.sections),
        "points": np.array([len(each) for each in chosen.points]),
        "residual": np.array(chosen.residual),
        "largest": np.array(chosen.largest),
        "scale": fitted.model.network.field.scale.detach().cpu().numpy(),
    }


def _held_out(model: "Model", latent: "Latent", spots: Any, part: np.ndarray) -> dict[str, Any]:
    """Compare predictions at held-out spots with those by gene means and by the mean of the nearest spots."""
    from unbatch.models.spavae.positions import nearest_spots
    from unbatch.models.spavae.prediction import agreement, neighbour_rates

    held, train = np.flatnonzero(part == "held out"), np.flatnonzero(part == "train")
    depth = float(model.network.inputs.depth)
    size = np.maximum(np.asarray(spots.counts.sum(1)).ravel() / depth, 1e-9)
    place = spots.points * model.units[spots.section]
    near = nearest_spots(place[train], spots.section[train], place[held], spots.section[held], MEAN_OF)[1]
    mean = np.asarray(spots.counts[train].sum(0)).ravel() / size[train].sum()
    rivals = {
        "spavae": np.concatenate(list(model.rates(latent.embedding[held], spots.batch[held]))),
        "nearest": neighbour_rates(spots.counts[train], size[train], near),
        "means": np.broadcast_to(mean, (len(held), len(mean))),
    }
    counts = spots.counts[held].toarray()
    found = [agreement(rates, counts, size[held]) for rates in rivals.values()]
    nb, correlation = zip(*found, strict=True)
    return {
        "models": _text(list(rivals)),
        "spots": len(held),
        "nb_per_spot": np.array(nb),
        "correlation": np.array(correlation),
    }


def _denoised(model: "Model", latent: "Latent", batch: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield expected counts at median depth, a block of cells after another; averaged over draws if the preset says."""
    draws, rng = model.settings.draws, np.random.default_rng(seed)
    for rows in np.array_split(np.arange(len(batch)), max(1, len(batch) // 1024)):
        values = [latent.embedding[rows]] if not draws else [latent.draw(rng, rows) for _ in range(draws)]
        each = (np.concatenate(list(model.rates(value, batch[rows]))) for value in values)
        yield (sum(each) / len(values)).astype(np.float32)


def _read_positions(path: Path, cells: Cells, sections: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read positions (m x d) and codes of their sections from a file with a head."""
    from unbatch.data.io import require_file

    axes = ["x", "y", "z"][: cells.coordinates.shape[1]]
    text = require_file(path).read_text(encoding="utf-8-sig")
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
            raise InputError(f"{path}: row {number + 2}: section is {name!r}, expected one of {_listed(sections)}")
        codes[number] = sections.index(name)
        for column, axis in enumerate(axes):
            try:
                found[number, column] = float(row[axis] or "")
            except ValueError:
                found[number, column] = np.nan
            if not np.isfinite(found[number, column]):
                raise InputError(f"{path}: row {number + 2}: {axis} is {row[axis]!r}, expected a number")
    return found, codes


def _predicted(
    model: "Model", path: str, at: tuple[np.ndarray, np.ndarray], sections: list[str], spots: "Spots"
) -> dict[str, Any]:
    """Predict at the positions of a file, in the average batch unless a section's cells are of one batch."""
    from unbatch.models.spavae.prediction import predict

    points, code = at
    found = predict(model, points, code)
    _warn_far(found.distance, path)
    # codes of `spots` are the model's; those of the cells are their own dataset's
    told = np.full(len(sections), -1)
    for own in np.unique(spots.section):
        batches = np.unique(spots.batch[spots.section == own])
        if len(batches) == 1:
            told[own] = batches[0]
    rates = np.concatenate(list(model.rates(found.latent.embedding, told[code])))
    return {
        "section": _text(sections)[code],
        "position": points,
        "distance": found.distance,
        "mean": found.latent.mean,
        "variance": found.latent.variance,
        "gaussian": found.latent.gaussian,
        "expression": rates.astype(np.float32),
    }


def _spatial_genes(model: "Model", cells: Cells, spots: "Spots") -> dict[str, Any]:
    """Test all genes, on the cells that have counts, in spot pitches whatever the preset's unit."""
    from unbatch.models.spavae import spatial_genes

    rows = np.flatnonzero(np.asarray(spots.counts.sum(1)).ravel() > 0)
    section = spots.section[rows]
    place = spots.points[rows] * model.pitches[section]
    batch = np.unique(cells.batch[rows], return_inverse=True)[1]
    found = spatial_genes.spatial_genes(spots.counts[rows], place, section, batch)
    log.info(
        "%d of %d genes vary over space at a false discovery rate of 0.05",
        (found.q_value < 0.05).sum(),
        len(found.p_value),
    )
    return {"genes": _text(cells.genes), **asdict(found)}


def _groups(cells: Cells, params: Params, domains: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give the groups to compare by name: positions of their cells and of those that they are compared with."""
    if params.differential == "domains":
        text = domains["mixture"].astype(str).astype(object)
    else:
        if params.differential not in cells.obs:
            columns = _listed([*cells.obs])
            raise InputError(f"{cells.name}: obs has no column {params.differential!r}, it has {columns}")
        column = cells.obs[params.differential]
        text = column.astype(str).astype(object).where(column.notna(), None).to_numpy()
    names = sorted({each for each in text if each is not None})
    wanted = _between(params, names)
    if wanted is not None:
        return {" vs ".join(wanted): tuple(np.flatnonzero(text == name) for name in wanted)}
    if len(names) < 2:
        raise InputError(f"{cells.name}: obs/{params.differential} has {len(names)} groups, expected two or more")
    known = np.array([each is not None for each in text])
    return {name: (np.flatnonzero(text == name), np.flatnonzero((text != name) & known)) for name in names}


def _between(params: Params, names: list[str]) -> list[str] | None:
    """Give the two groups that are compared, None for each against all others."""
    if params.between is None:
        return None
    wanted = [each.strip() for each in params.between.split(",")]
    if len(wanted) != 2 or not set(wanted) <= set(names) or wanted[0] == wanted[1]:
        raise InputError(f"spavae: parameter between is {params.between!r}, expected two of {_listed(names)}")
    return wanted


def _differential(cells: Cells, params: Params, domains: dict[str, Any], known: tuple, seed: int) -> dict[str, Any]:
    """Test between groups; arrays are groups x genes."""
    from unbatch.models.spavae.differential import compare

    model, latent, spots, _ = known
    groups = _groups(cells, params, domains)
    found = [asdict(compare(model, latent, spots.batch, spots.counts, each, seed=seed)) for each in groups.values()]
    table = {name: np.stack([each[name] for each in found]) for name in found[0]}
    return {"column": params.differential, "groups": _text(list(groups)), "genes": _text(cells.genes), **table}


def _text(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=object)


def _listed(names: list[Any], most: int = 10) -> str:
    text = ", ".join(map(str, names[:most]))
    return text if len(names) <= most else f"{text} and {len(names) - most} more"

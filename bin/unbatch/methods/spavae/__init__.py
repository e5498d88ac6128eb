"""spaVAE (Tian et al. 2024): counts of spots by latent values that a Gaussian process ties over the tissue."""

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, InMemory, Needs, Parameters, Run, SavedModel, Slot, short
from unbatch.data.cells import Cells
from unbatch.errors import InputError, UnbatchError

if TYPE_CHECKING:
    from unbatch.report.section import Sections

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
        "by section: inducing points, mean and largest share of the prior variance that they leave, scale, how many "
        "are needed (0: more than 512); and where they are",
        "mapping",
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
    "uns/enhanced": Slot(
        "five positions for each spot: number of the spot, coordinates, latent values, counts at median depth of the "
        "genes of `maps` (with `enhance`)",
        "mapping",
    ),
    "uns/maps": Slot("some genes: counts over size factors, expected counts at median depth", "mapping"),
    "uns/restarts": Slot(
        "seeds, minus log likelihood per spot that chose among them, and how their domains agree (with `restarts`)",
        "mapping",
    ),
    "uns/spatial_genes": Slot(
        "by gene: p-values of the score test, Moran's I (with `spatial_genes`); share of a linear decoder, and the "
        "same of permuted positions (with `linear_share`)",
        "mapping",
    ),
    "uns/differential": Slot("by group and gene: log fold changes, Bayes factors (with `differential`)", "mapping"),
}

PER_THREAD = 64_000
"""Entries of a minibatch, of cells x genes, that one more thread is worth its waiting for, as measured for scMEDAL's
networks, which are of the same size (benchmarks/busy.py)."""
SMALL = 500
"""Spots below which a fit is said to be unsure."""

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
    epochs: int | None = Field(
        None,
        ge=1,
        description="training epochs, of at most 16,384 cells each if recommended; null: the preset's",
    )
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
    in_memory: InMemory = "auto"
    restarts: int = Field(
        1,
        ge=1,
        description="fits of different seeds, of which the one is kept that best predicts spots that were spared",
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
    enhance: bool = Field(
        False,
        description="also predict at four positions around each spot, a quarter of a pitch away",
        json_schema_extra=_ASKED,
    )
    maps: str | None = Field(
        None,
        description="genes by name, symbol or id, separated by commas, whose counts, denoised and predicted, are "
        "mapped in the report and predicted by `enhance`; null: some that vary over the tissue",
        json_schema_extra=_ASKED,
    )
    spatial_genes: bool = Field(False, description="test every gene for a pattern over space", json_schema_extra=_ASKED)
    linear_share: bool = Field(
        False,
        description="with `spatial_genes`: also fit a linear decoder (spaLDVAE), and give the share of each gene's "
        "rate that follows the tissue",
        json_schema_extra=_ASKED,
    )
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
    from unbatch.methods.spavae import answers, given
    from unbatch.models import spavae
    from unbatch.models.spavae.restarts import fit_several
    from unbatch.nn.threads import use_threads
    from unbatch.nn.training import Diverged

    settings = given.settings(params, cells.coordinates.shape[1])
    spots = given.spots(cells, params, run.device, cells.section, cells.batch)
    part = given.parts(cells, spots, params)
    train = np.flatnonzero(part == "train")
    at = given.require_questions(cells, params, cells.sections)
    try:
        spavae.require(spots, train, cells.sections)
    except ValueError as error:
        raise InputError(f"{cells.name}: obsm/spatial, layers/counts: {error}") from error
    if len(train) < SMALL:
        text = "%s: %d spots are few for a spatial model, expected %d or more"
        log.warning(text, cells.name, len(train), SMALL, extra={"code": "few-spots"})
    settings = settings.but(epochs=given.limited(settings, len(train), run.max_epochs))
    size = spavae.schedule(settings, len(train)).size
    use_threads(run.threads, min(size, len(train)) * len(cells.genes), PER_THREAD)
    config = {"sections": cells.sections}
    common = {"train_on": train, "seed": run.seed, "tell": log.info}
    several = None
    try:
        if params.restarts > 1:
            several = fit_several(spots, settings, params.restarts, **common)
        fitted = spavae.fit(spots, settings, **common) if several is None else several.fits[several.best]
    except Diverged as error:
        if run.keep is not None:
            good = spavae.finished(error.network, spots, train)
            run.keep(config | spavae.config(good) | {"diverged": str(error)}, spavae.weights(good))
        raise UnbatchError(f"{cells.name}: spavae failed: {error}") from error
    except ValueError as error:
        raise InputError(f"{cells.name}: {error}") from error
    model, chosen = fitted.model, fitted.chosen
    part[fitted.held] = "validation"
    if several is not None:
        part[several.scoring] = "validation"
    about = answers.about_inducing(cells, fitted, settings, spots)
    latent = answers.embedded(model, spots, np.isin(part, ["train", "validation"]), cells)
    known = answers.Known(model, latent, spots, part)
    slots = {
        "uns/history": {name: np.array(values) for name, values in fitted.history.items()},
        "uns/best_epoch": fitted.best_epoch,
        "uns/inducing": about,
    }
    if params.fold is not None:
        slots["uns/held_out"] = answers.compared(known)
    log.info("scale %.4g: %s inducing points", chosen.scale, ", ".join(map(str, about["points"])))
    found = answers.answered(cells, params, run, known, cells.sections, at)
    if several is not None:
        slots["uns/restarts"] = answers.agreed(several, spots, int(found.used.domains), run.seed)
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
    from unbatch.methods.spavae import answers, given
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
    at = given.require_questions(cells, model.params, every)
    section = np.array([every.index(name) for name in cells.sections])[cells.section]
    unknown = [name for name in cells.batches if name not in model.batches]
    if unknown:
        log.info(
            "%s: the model does not know the batches %s, it takes the average one", cells.name, given.listed(unknown)
        )
    code = np.array([model.batches.index(name) if name in model.batches else -1 for name in cells.batches])
    spots = given.spots(cells, model.params, run.device, section, code[cells.batch])
    own = np.flatnonzero(spots.totals > 0)
    fresh = own[section[own] >= len(names)]
    if len(fresh):
        log.info(
            "%s: the model does not know the sections %s; they are fields of their own", cells.name, given.listed(new)
        )
        try:
            positions.require(spots.points[fresh], section[fresh], every)
        except ValueError as error:
            raise InputError(f"{cells.name}: obsm/spatial: {error}") from error
        fitted = spavae.with_sections(fitted, spots.only(fresh), run.seed)
    part = np.full(len(cells), "applied", dtype=object)
    counted = np.zeros(len(cells), dtype=bool)
    counted[own] = True
    latent = answers.embedded(fitted, spots, counted, cells)
    return answers.answered(cells, model.params, run, answers.Known(fitted, latent, spots, part), every, at)


def sections() -> "Sections":
    """Return the sections of the report over its fits."""
    from unbatch.report.fits.spavae import SECTIONS

    return SECTIONS

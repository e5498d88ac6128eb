"""dp-VAE (Zhou and Du): positions from expression, by latent distances that are those between spots."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot, short
from unbatch.data.cells import Cells
from unbatch.errors import InputError, UnbatchError
from unbatch.methods.dpvae import answers

if TYPE_CHECKING:
    from unbatch.models.dpvae import Fitted, Model, Settings
    from unbatch.models.dpvae.model import Mask
    from unbatch.report.section import Sections

log = logging.getLogger("unbatch")

PROGRAM = "fit-dpvae"
PACKAGES = ("torch", "scikit-learn")
NEEDS = Needs(batches=1, coordinates=True, integers=True, gpu=True)
PARTIAL = True
"""`apply` takes cells that lack some genes of the model."""

SLOTS = {
    "obsm/X_dpvae_positions": Slot(
        "predicted position of each spot, in the unit of obsm/spatial and the coordinates of its section, or of the "
        "reference where no spot of its section was known; of known spots without their own position (preset paper: "
        "with it)"
    ),
    "obsm/X_dpvae_radii": Slot(
        "radii in spot pitches that hold the true position of 50, 80, 90, 95 of 100 spots of a section like those that "
        "the model was fitted to (see `radii_from`); in a section that it has not seen, but for a turn and a shift of "
        "all spots together",
        "any",
    ),
    "uns/radii_from": Slot(
        "by section, in the order of its name: whose errors its radii are made of: of its own known spots, of known "
        "sections that were left out in turn, or of another section, which are too small as a rule",
        "any",
    ),
    "uns/part": Slot("known, held out (`fold`), unknown (`unknown_sections`), anchor, or applied", "any"),
    "uns/history": Slot("terms of the loss per spot, lambda, and L_DP over lambda, by epoch", "mapping"),
    "uns/search": Slot("inner validation: alpha2, epoch, errors at random spots and in a block, in pitches", "mapping"),
    "uns/settings": Slot("what was chosen; lambda per pitch; the reference section", "mapping"),
    "uns/anchors": Slot("spots whose position placed a section, by number, and these (with anchors)", "mapping"),
    "uns/distance": Slot("distance of each spot's expression to the known spots', 1 being the median there", "any"),
    "uns/far": Slot("`distance` above which a position is a guess", "any"),
    "uns/baselines": Slot("errors of the positions, and of simpler methods on the same spots and genes", "mapping"),
    "uns/coverage": Slot("how many true positions are within the radii, by section", "mapping"),
    "uns/spatial": Slot("by section and space: Moran's I, Geary's C, correlation of distances, distortion", "mapping"),
    "uns/markers": Slot("genes mapped by true and by predicted positions", "mapping"),
    "uns/ellipses": Slot(
        "pull-back metric of the decoder as half axes of ellipses at latent points (latent 2, gaussian)", "mapping"
    ),
    "uns/snapshots": Slot("latent values of some spots by epoch (latent 2)", "mapping"),
    "uns/transfer": Slot("errors by section learnt from and section predicted (with `transfer`)", "mapping"),
    "uns/genes_missing": Slot("genes of the model that the dataset lacks (with --apply)", "any"),
}

PER_THREAD = 64_000
"""Entries of a minibatch, of spots x inputs, that one more thread is worth its waiting for, as of spaVAE."""
LEAST_WEIGHT = 0.5
"""Share of a model's weight that the genes of other cells must have."""


class Params(Parameters):
    """Parameters of `fit`."""

    preset: Literal["recommended", "paper"] = Field(
        "recommended", description="genes, sizes and training as published (paper), or what was found to be better"
    )
    likelihood: Literal["gaussian", "negative_binomial"] = Field(
        "gaussian", description="of standardised expression, or of counts with library size and batch, as in scVI"
    )
    genes: int | None = Field(
        None, ge=10, description="most variable genes that are used; null: 100 (paper), all highly variable ones"
    )
    latent: int | None = Field(None, ge=2, description="latent dimensions; null: the preset's")
    alpha2: float | None = Field(
        None,
        ge=0,
        description="weight of the distances; null: chosen by inner validation on known spots; 0: a plain VAE",
    )
    epochs: int | None = Field(None, ge=1, description="training epochs; null: chosen by inner validation")
    minibatch: int | None = Field(None, ge=16, description="spots in a step; null: the preset's")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="learning rate of Adam; null: the preset's")
    scaling: Literal["learned", "fixed", "profiled"] = Field(
        "learned",
        description="latent distances over those of spots (lambda): learned, fixed at its start, or each step's best",
    )
    scale_start: float = Field(1.0, gt=0, description="lambda at first, of positions with variance 1")
    near: int | None = Field(
        None, ge=0, description="partners of a spot in a step among its nearest; null: the preset's"
    )
    uniform: int | None = Field(None, ge=1, description="partners of a spot in a step among all; null: the preset's")
    mask: Literal["none", "knn", "radius", "label", "cluster", "file"] = Field(
        "none",
        description="pairs whose distances count: all, nearest spots, spots within a radius, of one label, of one "
        "cluster of the expression, or those of a file",
    )
    mask_size: float | None = Field(
        None, gt=0, description="number of nearest spots (knn), radius in spot pitches, or clusters; null: 6, 3, 7"
    )
    mask_file: str | None = Field(None, description="npz file of a scipy sparse matrix, spots x spots (mask file)")
    normalise: Literal["pairs", "n2"] = Field(
        "pairs", description="divide the distances' term by the pairs of the mask, or by all pairs as published"
    )
    fold: int | None = Field(None, ge=0, description="fold of obs/split whose positions are not used; null: none")
    unknown_sections: str | None = Field(
        None, description="sections whose positions are not used, separated by commas; null: none"
    )
    anchors: int | None = Field(
        None, ge=3, description="spots of each unknown section, drawn at random, whose positions place it; null: none"
    )
    anchor_column: str | None = Field(
        None, description="column of obs that is true for anchors, in place of drawn ones; null: none"
    )
    reconstruction: Literal["readout", "latent", "mds", "stress"] = Field(
        "readout",
        description="positions by regression on known spots, or of latent distances and anchors: principal axes, least "
        "stress, least stress with the anchors held",
    )
    gamma: float | None = Field(
        None, gt=0, description="weight of the anchors' own error (reconstruction stress); null: they are held"
    )
    radii_across: bool = Field(
        True,
        description="with known spots in several sections: also leave each out in turn (batches, where these hold "
        "several sections; five at most), whose errors are the radii of sections without known spots, as with --apply",
    )
    transfer: bool = Field(
        False, description="also fit each section alone and predict all others, which takes a fit for each"
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Fit the model to spots of known position, and place all others.

    Raises
    ------
    InputError
        If positions, counts, a mask or anchors can't be used.
    UnbatchError
        If a loss was not finite.
    """
    from unbatch.models import dpvae
    from unbatch.nn.threads import use_threads
    from unbatch.nn.training import Diverged

    if cells.coordinates is None:
        raise InputError(f"{cells.name}: obsm/spatial is missing, dpvae needs coordinates")
    settings = _settings(params, run.max_epochs)
    part = _parts(cells, params)
    known = part == "known"
    anchors = _anchors(cells, params, part, run.seed)
    part[anchors] = "anchor"
    snapshots = answers.Snapshots(len(cells), run.seed)
    try:
        units, place = _placed(cells, known)
        mask = _mask(cells, params, place, settings)
        use_threads(run.threads, (settings.minibatch or len(cells)) * (settings.components or 100), PER_THREAD)
        x = cells.whole_counts() if settings.counts else cells.X
        fitted = dpvae.fit(
            x,
            place,
            section=cells.section,
            settings=settings,
            known=known,
            batch=cells.batch,
            mask=mask,
            seed=run.seed,
            device=run.device,
            tell=log.info,
            watch=snapshots,
        )
        found = answers.reconstructed(
            fitted, fitted.latent, fitted.predicted, place, cells.section, part, params, run.seed
        )
        across = ()
        if params.radii_across and answers.has_radii(fitted, params):
            across = answers.elsewhere(fitted, cells, x, place, mask, run.seed, run.device)
    except Diverged as error:
        raise UnbatchError(f"{cells.name}: dpvae failed: {error}") from error
    except ValueError as error:
        raise InputError(f"{cells.name}: {error}") from error
    for text in fitted.warnings:
        log.warning("%s: %s", cells.name, text)
    slots = answers.about(fitted, cells, part, place)
    slots["obsm/X_dpvae_positions"] = (found / _own_units(units, cells.section, part, fitted)).astype(np.float32)
    tables, trust = answers.evaluated(fitted, cells, params, found, place, part, across, run.seed)
    slots |= tables | snapshots.slots()
    if params.transfer:
        slots |= answers.transfer(cells, x, place, known, fitted.settings, run.seed, run.device)
    reference = fitted.members[0].readout.frames.reference
    config = {"sections": cells.sections, "units": np.where(np.isfinite(units), units, units[reference]).tolist()}
    used = params.using(alpha2=fitted.settings.alpha2, epochs=fitted.settings.epochs)
    return Fit(
        fitted.latent.astype(np.float32),
        weights=dpvae.weights(fitted) | trust,
        config=config | dpvae.config(fitted),
        used=used,
        slots=slots,
    )


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Place other cells, which need no coordinates, in those of the model's reference section.

    Raises
    ------
    InputError
        If the model is damaged, or too few of its genes are there.
    """
    from unbatch.models import dpvae

    path = model.folder / "config.json"
    try:
        fitted = dpvae.model_of(model.config, model.weights, run.device)
        units = np.array(model.config["units"], dtype=np.float64)
        names = list(model.config["sections"])
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{model.folder}: config.json and weights.safetensors do not make a model: {error}") from error
    if len(units) != len(names) or fitted.inputs.genes.max() >= len(model.genes):
        raise InputError(f"{path}: units has {len(units)} rows, expected one for each of {short(names)}")
    missing = _missing(fitted, model, cells)
    x = _aligned(model, cells, cells.whole_counts() if fitted.settings.counts else cells.X)
    new = [name for name in cells.sections if name not in names]
    code = np.array([[*names, *new].index(name) for name in cells.sections])[cells.section]
    inputs = fitted.inputs(x, code)
    reference = fitted.members[0].readout.frames.reference
    place = fitted.locate(inputs, code)
    own = fitted.members[0].readout.frames.known(code)
    slots = {
        "obsm/X_dpvae_positions": (place / units[np.where(own, code, reference)]).astype(np.float32),
        "uns/part": np.full(len(cells), "applied", dtype=object),
        "uns/genes_missing": np.array(missing, dtype=object),
        "uns/settings": {"reference": names[reference], "scale": fitted.scale},
    }
    try:
        slots |= answers.trusted(fitted, model, cells, _aligned(model, cells, cells.X), place, code)
    except (ValueError, LookupError) as error:
        raise InputError(f"{model.folder}: weights.safetensors: {error}") from error
    if new:
        log.info(
            "%s: sections %s are placed in the coordinates of %s", cells.name, ", ".join(new[:5]), names[reference]
        )
    from unbatch.models.dpvae.model import encoded

    return Fit(encoded(fitted.members[0].network, inputs).astype(np.float32), slots=slots)


def sections() -> "Sections":
    """Give the sections of the report."""
    from unbatch.report.fits.dpvae import SECTIONS

    return SECTIONS


# ------------------------------------------------------------------------------------------------- what the model sees


def _settings(params: Params, most: int | None) -> "Settings":
    from unbatch.models.dpvae import PRESETS

    names = (
        "likelihood",
        "genes",
        "latent",
        "alpha2",
        "epochs",
        "minibatch",
        "scaling",
        "scale_start",
        "near",
        "uniform",
    )
    stated = {name: getattr(params, name) for name in names}
    settings = PRESETS[params.preset].but(**stated, rate=params.learning_rate)
    if most is not None:
        settings = settings.but(
            epochs=None if settings.epochs is None else min(settings.epochs, most),
            most_epochs=min(settings.most_epochs, most),
        )
    return settings


def _parts(cells: Cells, params: Params) -> np.ndarray:
    """Say of each cell what its position is used for."""
    part = np.full(len(cells), "known", dtype=object)
    if params.fold is not None:
        folds = sorted(set(cells.fold.tolist()))
        if params.fold not in folds:
            raise InputError(f"{cells.name}: obs/split has no fold {params.fold}, expected one of {folds}")
        part[cells.fold == params.fold] = "held out"
    for name in (
        [] if params.unknown_sections is None else [each.strip() for each in params.unknown_sections.split(",")]
    ):
        if name not in cells.sections:
            raise InputError(
                f"{cells.name}: obs/section has no {name!r} (unknown_sections), expected some of "
                f"{', '.join(cells.sections[:10])}"
            )
        part[cells.section == cells.sections.index(name)] = "unknown"
    part[~np.isfinite(cells.coordinates).all(1) & (part == "known")] = "unknown"
    if not (part == "known").any():
        raise InputError(f"{cells.name}: no position is left to learn from, expected a section that is known")
    return part


def _anchors(cells: Cells, params: Params, part: np.ndarray, seed: int) -> np.ndarray:
    """Choose the cells of unknown sections whose positions place them."""
    if params.gamma is not None and params.reconstruction != "stress":
        raise InputError(f"dpvae: parameter gamma is for reconstruction stress, found {params.reconstruction}")
    lost = [code for code in range(len(cells.sections)) if not (part[cells.section == code] == "known").any()]
    if not lost and (params.anchors is not None or params.anchor_column is not None):
        raise InputError("dpvae: anchors place sections without known spots, expected unknown_sections to name some")
    free = np.isin(cells.section, lost) & np.isfinite(cells.coordinates).all(1)
    if params.anchor_column is not None:
        if params.anchor_column not in cells.obs:
            raise InputError(f"{cells.name}: obs has no column {params.anchor_column!r} (anchor_column)")
        values = cells.obs[params.anchor_column]
        if values.dtype != bool:
            raise InputError(f"{cells.name}: obs/{params.anchor_column} holds {values.dtype}, expected true or false")
        return np.flatnonzero(free & values.to_numpy())
    if params.anchors is None:
        return np.empty(0, np.int64)
    rng = np.random.default_rng(seed)
    each = [rng.permutation(np.flatnonzero(free & (cells.section == code)))[: params.anchors] for code in lost]
    return np.sort(np.concatenate([*each, np.empty(0, np.int64)])).astype(np.int64)


def _placed(cells: Cells, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring positions to spot pitches; also what they are multiplied by, sections x axes, NaN where none is there."""
    from unbatch.models.spavae.positions import units

    found = np.full((len(cells.sections), cells.coordinates.shape[1]), np.nan)
    for code in range(len(cells.sections)):
        mine = (cells.section == code) & np.isfinite(cells.coordinates).all(1)
        used = mine & known if (mine & known).sum() > 2 else mine
        if used.sum() > 2:
            found[code] = units(cells.coordinates[used], np.zeros(int(used.sum()), np.int64))[0]
    return found, cells.coordinates * found[cells.section]


def _own_units(units: np.ndarray, section: np.ndarray, part: np.ndarray, fitted: "Fitted") -> np.ndarray:
    """Give what positions of each cell were multiplied by, in its section or in the reference."""
    own = np.array([np.isin(part[section == code], ["known", "anchor"]).any() for code in range(len(units))])
    return units[np.where(own[section], section, fitted.members[0].readout.frames.reference)]


def _mask(cells: Cells, params: Params, place: np.ndarray, settings: "Settings") -> "Mask | None":
    """Make what gives the pairs whose distances count; None for all pairs."""
    from unbatch.models.dpvae import masks

    by_all, size = params.normalise == "n2", params.mask_size
    if params.mask == "file":
        if params.mask_file is None:
            raise InputError("dpvae: mask file needs the parameter mask_file")
        given = _read_mask(Path(params.mask_file), len(cells))
        return lambda _place, section, number: masks.listed(given[number][:, number], section, by_all=by_all)
    if params.mask == "knn":
        k = int(size or 6)
        return lambda points, section, number: masks.listed(
            masks.knn(place[number], section, k), section, by_all=by_all
        )
    if params.mask == "radius":
        return lambda points, section, number: masks.listed(
            masks.within(place[number], section, size or 3.0), section, by_all=by_all
        )
    if params.mask == "none":
        return None
    if params.mask == "label":
        if cells.label is None:
            raise InputError(f"{cells.name}: obs/label is missing, mask label needs labels")
        code = cells.label
    else:
        from unbatch.data.cells import principal_components
        from unbatch.models.spavae.domains import by_kmeans

        code = by_kmeans(principal_components(cells.X, 20).embedding, int(size or 7), 0)
    return lambda points, section, number: masks.all_pairs(points, section, 0, code[number], by_all=by_all)


def _read_mask(path: Path, cells: int) -> Any:
    from zipfile import BadZipFile

    from scipy import sparse

    from unbatch.data.io import require_file

    try:
        found = sparse.csr_array(sparse.load_npz(require_file(path)))
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: no sparse matrix, expected one as scipy.sparse.save_npz writes it") from error
    if found.shape != (cells, cells):
        raise InputError(f"{path}: the mask has shape {found.shape}, expected {cells} x {cells} as there are spots")
    return found


def _missing(fitted: "Model", model: SavedModel, cells: Cells) -> list[str]:
    """Give the names of the model's genes that cells lack; refuse those that lack too many."""
    have = set(cells.genes)
    used = [model.genes[number] for number in fitted.inputs.genes]
    missing = [gene for gene in used if gene not in have]
    if missing:
        weight = fitted.gene_weights()
        there = float(weight[[gene in have for gene in used]].sum() / weight.sum())
        if there < LEAST_WEIGHT:
            raise InputError(
                f"{cells.name}: var_names lack {len(missing)} of the {len(used)} genes of the model in {model.folder}, "
                f"such as {', '.join(missing[:5])}; the others have {there:.0%} of its weight, "
                f"expected {LEAST_WEIGHT:.0%}"
            )
        log.warning(
            "%s: var_names lack %d of the %d genes of the model, such as %s; the others have %.0f %% of its weight",
            cells.name, len(missing), len(used), ", ".join(missing[:5]), 100 * there,
        )  # fmt: skip
    return missing


def _aligned(model: SavedModel, cells: Cells, x: Any) -> Any:
    """Give expression with the genes of the model in its order, NaN where one is missing."""
    if cells.genes == model.genes:
        return x
    have = {gene: number for number, gene in enumerate(cells.genes)}
    full = np.full((len(cells), len(model.genes)), np.nan, np.float32)
    at = [number for number, gene in enumerate(model.genes) if gene in have]
    full[:, at] = x.toarray()[:, [have[model.genes[number]] for number in at]]
    return full

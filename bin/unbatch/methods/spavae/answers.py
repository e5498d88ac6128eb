"""What is asked of a spaVAE: each question with its answer in the slots of a fit."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unbatch.contract import Fit, Run
from unbatch.data.cells import Cells
from unbatch.errors import UnbatchError
from unbatch.methods.spavae.given import groups, mapped, text
from unbatch.metrics.jackknife import adjusted_rand
from unbatch.models.spavae import Fitted, Latent, Model, Settings, Spots, domains, linear, positions, spatial_genes
from unbatch.models.spavae.differential import compare, mean_rates
from unbatch.models.spavae.prediction import (
    agreement,
    between_spots,
    kriged_rates,
    neighbour_rates,
    predict,
    surroundings,
    varying,
)
from unbatch.models.spavae.restarts import Restarts
from unbatch.models.spavae.start import sampled
from unbatch.nn import inducing
from unbatch.nn.training import Diverged

if TYPE_CHECKING:
    from unbatch.methods.spavae import Params

log = logging.getLogger("unbatch")

MEAN_OF = 30
"""Nearest spots whose mean the predictions are compared with."""
MOST_COMPARED = 50_000_000
"""Held-out spots times genes up to which all of these spots are compared; else a random sample."""
MAPPED, MAPPED_SPATIAL = 4, 6
"""Genes that are mapped where none is named: those that vary most over the tissue, those of the smallest p-values."""
MOST_NEEDED = 512
"""Inducing points up to which it is said how many a kernel needs."""


@dataclass(frozen=True)
class Known:
    """A model, and what it knows of the cells: latent values, counts and positions, and their parts in the fit."""

    model: Model
    latent: Latent
    spots: Spots
    part: np.ndarray


def embedded(model: Model, spots: Spots, counted: np.ndarray, cells: Cells) -> Latent:
    """Embed cells; those that are not `counted` by their positions alone. Warn of what is outside the tissue."""
    own = model.embed(spots)
    near, distance = surroundings(model, spots.points, spots.section)
    _warn_far(distance, f"{cells.name}: obsm/spatial")
    mean = np.where(counted[:, None], own.gaussian, near)
    # dimensions about which positions say nothing have the variance of the prior
    return Latent(own.mean, own.variance, mean, np.where(counted[:, None], own.gaussian_variance, 1.0))


def _warn_far(distance: np.ndarray, where: str) -> None:
    far = distance > positions.FAR
    if far.any():
        log.warning(
            "%s: %d of %d positions are outside the tissue, up to %.1f spot pitches from the nearest spot that the "
            "model was fitted to; what is predicted there is little more than the prior",
            where,
            int(far.sum()),
            len(distance),
            float(distance.max()),
        )


def answered(
    cells: Cells,
    params: "Params",
    run: Run,
    known: Known,
    sections: list[str],
    at: tuple[np.ndarray, np.ndarray] | None,
) -> Fit:
    """Give the embedding, and answers to all that was asked, in the slots of a fit.

    Codes of sections, of the spots and of the positions to predict `at`, are those of `sections`.
    """
    model, latent, spots = known.model, known.latent, known.spots
    place = spots.points * model.units[spots.section]
    found = _domains(model, latent, place, spots.section, params, run.seed)
    slots: dict[str, Any] = {
        "obsm/X_spavae_gp": latent.mean.astype(np.float32),
        "obsm/X_spavae_variance": latent.variance.astype(np.float32),
        "uns/part": known.part.astype(str),
        "uns/domains": found,
    }
    if latent.gaussian.shape[1]:
        slots["obsm/X_spavae_gaussian"] = latent.gaussian.astype(np.float32)
    if at is not None:
        slots["uns/predicted"] = _predicted(model, params.predict_at, at, sections, spots)
    if params.spatial_genes:
        slots["uns/spatial_genes"] = _spatial_genes(known, cells, params, run.seed)
    if params.differential is not None:
        slots["uns/differential"] = _differential(cells, params, found, known, run.seed)
    slots["uns/maps"] = _maps(known, cells, params, slots.get("uns/spatial_genes"), run.seed)
    if params.enhance:
        slots["uns/enhanced"] = _enhanced(known, sections, slots["uns/maps"]["genes"], cells, run.seed)
    every = np.arange(len(cells.genes))
    layers = {"denoised": _denoised(model, latent, spots.batch, run.seed, every)} if params.denoised else {}
    used = params.using(domains=found["number"])
    return Fit(latent.embedding.astype(np.float32), used=used, slots=slots, layers=layers)


def _domains(
    model: Model, latent: Latent, place: np.ndarray, section: np.ndarray, params: "Params", seed: int
) -> dict[str, Any]:
    """Cluster by both clusterers, each with and without a vote of neighbours; none is preferred."""
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


def agreed(several: Restarts, spots: Spots, number: int, seed: int) -> dict[str, Any]:
    """Compare the domains of fits with other seeds, by both clusterers: adjusted Rand indices, fits x fits."""
    latent = [fitted.model.embed(spots) for fitted in several.fits]
    labels = {
        "kmeans": [domains.by_kmeans(each.embedding, number, seed) for each in latent],
        "mixture": [domains.by_mixture(each.mean, number, seed).labels for each in latent],
    }
    found = {name: np.eye(len(latent)) for name in labels}
    for name, each in labels.items():
        for a, b in combinations(range(len(each)), 2):
            table = np.bincount(each[a] * number + each[b], minlength=number**2).reshape(number, number)
            found[name][a, b] = found[name][b, a] = adjusted_rand(table)
    mean = {name: values[np.triu_indices(len(latent), 1)].mean() for name, values in found.items()}
    log.info(
        "%d seeds, of which %d predicts spots best: their domains agree at an ARI of %.2f (mixture) and %.2f (k-means)",
        len(latent),
        several.seeds[several.best],
        mean["mixture"],
        mean["kmeans"],
    )
    about = {"seeds": np.array(several.seeds), "loss": several.loss, "kept": several.seeds[several.best]}
    return about | {"spots": len(several.scoring)} | found


def about_inducing(cells: Cells, fitted: Fitted, settings: Settings, spots: Spots) -> dict[str, Any]:
    """Say what was chosen, and warn where the inducing points leave much of the process out."""
    chosen, field, units = fitted.chosen, fitted.model.network.field, fitted.model.units
    scale = field.scale.detach().cpu().numpy()
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
    needed = np.array([len(each) for each in chosen.points])
    if settings.inducing != "auto" or settings.learns_scale or max(chosen.residual) > settings.tolerance:
        for code in range(len(needed)):
            own = torch.as_tensor(spots.points[spots.section == code] * units[code])
            enough = inducing.greedy(own, settings.kernel, float(scale[code]), settings.tolerance, MOST_NEEDED)
            needed[code] = len(enough.points) if enough.residual <= settings.tolerance else 0
    return {
        "sections": text(cells.sections),
        "points": np.array([len(each) for each in chosen.points]),
        "residual": np.array(chosen.residual),
        "largest": np.array(chosen.largest),
        "scale": scale,
        "tolerance": settings.tolerance,
        "needed": needed,
        "position": np.concatenate([each.numpy() / units[code] for code, each in enumerate(chosen.points)]),
    }


def compared(known: Known) -> dict[str, Any]:
    """Compare predictions at held-out spots with those by simpler means, from gene means to a process on components."""
    model, spots = known.model, known.spots
    train = np.flatnonzero(known.part == "train")
    held = sampled(np.flatnonzero(known.part == "held out"), MOST_COMPARED // model.network.genes, 0)
    depth = float(model.network.inputs.depth)
    size = np.maximum(spots.totals / depth, 1e-9)
    place = spots.points * model.units[spots.section]
    near = positions.nearest_spots(place[train], spots.section[train], place[held], spots.section[held], MEAN_OF)[1]
    mean = spots.of_genes(train) / size[train].sum()
    blocks = (found for _, found in spots.blocks(train))
    own = np.concatenate(list(model.rates(known.latent.embedding[held], spots.batch[held])))
    rivals = {
        "spavae": own,
        "kriging": kriged_rates(model, spots, train, held),
        "nearest": neighbour_rates(blocks, size[train], near),
        "means": np.broadcast_to(mean, (len(held), len(mean))),
    }
    counts = spots.array(held)
    found = [agreement(rates, counts, size[held]) for rates in rivals.values()]
    nb, correlation = zip(*found, strict=True)
    return {
        "models": text(list(rivals)),
        "spots": len(held),
        "nb_per_spot": np.array(nb),
        "correlation": np.array(correlation),
    }


def _denoised(model: Model, latent: Latent, batch: np.ndarray, seed: int, genes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield expected counts at median depth, a block of cells after another; averaged over draws if the preset says."""
    draws, rng = model.settings.draws, np.random.default_rng(seed)
    every = slice(None) if len(genes) == model.network.genes else genes
    for rows in np.array_split(np.arange(len(batch)), max(1, len(batch) // 1024)):
        values = [latent.embedding[rows]] if not draws else [latent.draw(rng, rows) for _ in range(draws)]
        each = (np.concatenate(list(model.rates(value, batch[rows], every))) for value in values)
        yield (sum(each) / len(values)).astype(np.float32)


def _maps(known: Known, cells: Cells, params: "Params", tested: dict[str, Any] | None, seed: int) -> dict[str, Any]:
    """Give counts over size factors and expected counts of some genes, n x g each: what maps are drawn of."""
    model, spots, why = known.model, known.spots, {}
    if params.maps is not None:
        why |= {int(gene): "named" for gene in mapped(cells, params)}
    else:
        why |= {int(gene): "varying" for gene in varying(model, known.latent, spots.batch, MAPPED, seed)}
    if tested is not None:
        first = np.argsort(tested["p_value"], kind="stable")[:MAPPED_SPATIAL]
        why = {int(gene): "spatial" for gene in first} | {gene: each for gene, each in why.items() if gene not in first}
    genes = np.array(list(why))
    size = np.maximum(spots.totals / float(model.network.inputs.depth), 1e-9)
    raw = spots.array(genes=genes) / size[:, None]
    denoised = np.concatenate(list(_denoised(model, known.latent, spots.batch, seed, genes)))
    names = text([cells.genes[gene] for gene in genes])
    return {"genes": names, "why": text(list(why.values())), "raw": raw.astype(np.float32), "denoised": denoised}


def _enhanced(known: Known, sections: list[str], genes: np.ndarray, cells: Cells, seed: int) -> dict[str, Any]:
    """Predict at five positions for each spot, in its batch; expected counts are those of the genes of the maps."""
    model, spots = known.model, known.spots
    points, spot = between_spots(model, spots.points, spots.section)
    latent = predict(model, points, spots.section[spot]).latent
    columns = np.array([cells.genes.index(name) for name in genes])
    found = np.concatenate(list(_denoised(model, latent, spots.batch[spot], seed, columns)))
    return {
        "spot": spot.astype(np.int32),
        "position": points,
        "mean": latent.mean.astype(np.float32),
        "variance": latent.variance.astype(np.float32),
        "gaussian": latent.gaussian.astype(np.float32),
        "genes": genes,
        "expression": found,
    }


def _predicted(
    model: Model, path: str, at: tuple[np.ndarray, np.ndarray], sections: list[str], spots: Spots
) -> dict[str, Any]:
    """Predict at the positions of a file, in the average batch unless a section's cells are of one batch."""
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
        "section": text(sections)[code],
        "position": points,
        "distance": found.distance,
        "mean": found.latent.mean,
        "variance": found.latent.variance,
        "gaussian": found.latent.gaussian,
        "expression": rates.astype(np.float32),
    }


def _spatial_genes(known: Known, cells: Cells, params: "Params", seed: int) -> dict[str, Any]:
    """Test all genes, on the cells that have counts, in spot pitches whatever the preset's unit."""
    model, spots = known.model, known.spots
    rows = np.flatnonzero(spots.totals > 0)
    section = spots.section[rows]
    place = spots.points[rows] * model.pitches[section]
    batch = np.unique(cells.batch[rows], return_inverse=True)[1]
    found = spatial_genes.spatial_genes(spots.rows(rows), place, section, batch)
    log.info(
        "%d of %d genes vary over space at a false discovery rate of 0.05",
        (found.q_value < 0.05).sum(),
        len(found.p_value),
    )
    table = {"genes": text(cells.genes), **asdict(found)}
    if params.linear_share:
        code = np.unique(section, return_inverse=True)[1]
        try:
            table |= asdict(linear.spatial_share(spots.only(rows, code, batch), seed=seed, tell=log.info))
        except Diverged as error:
            raise UnbatchError(f"{cells.name}: the linear decoder of linear_share failed: {error}") from error
    return table


def _differential(cells: Cells, params: "Params", labels: dict[str, Any], known: Known, seed: int) -> dict[str, Any]:
    """Test between groups; arrays are groups x genes."""
    model, latent, spots = known.model, known.latent, known.spots
    pairs = groups(cells, params, labels)
    means = mean_rates(spots, [rows for each in pairs.values() for rows in each])
    relative = zip(means[::2], means[1::2], strict=True)
    found = [
        asdict(compare(model, latent, spots.batch, own, each, seed=seed))
        for own, each in zip(relative, pairs.values(), strict=True)
    ]
    table = {name: np.stack([each[name] for each in found]) for name in found[0]}
    return {"column": params.differential, "groups": text(list(pairs)), "genes": text(cells.genes), **table}

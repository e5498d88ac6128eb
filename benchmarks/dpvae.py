"""Positions from expression: dp-VAE and rivals on sections of human cortex.

    python benchmarks/dpvae.py rivals FOLDER [SECTION ...]    # ridge, kNN, forest, mean, a Gaussian process; 80/20
    python benchmarks/dpvae.py split FOLDER [SECTION ...]     # presets of dp-VAE, the same splits; gap, radii, time
    python benchmarks/dpvae.py plain FOLDER [SECTION ...]     # the plain VAE alone
    python benchmarks/dpvae.py plain-short FOLDER [SECTION ...]   # the same in 60 epochs of minibatches
    python benchmarks/dpvae.py across FOLDER [SECTION ...]    # trained on one section, tested on the others
    python benchmarks/dpvae.py unseen FOLDER FIRST,SECOND THIRD,FOURTH   # radii for sections that were not trained on
    python benchmarks/dpvae.py spaces FOLDER [SECTION ...]    # Moran, Geary, distances: with and without the term
    python benchmarks/dpvae.py novelty FOLDER [SECTION ...]   # whether spots that are called far have larger errors
    python benchmarks/dpvae.py peers FOLDER [SECTION ...]     # CeLEry and Tangram, where they are installed
    python benchmarks/dpvae.py gradient FOLDER SECTION        # sampled pairs against all pairs
    python benchmarks/dpvae.py anchors                        # exact distances and three anchors
    python benchmarks/dpvae.py large [SPOTS GENES]            # memory and time of drawn counts

FOLDER holds SECTION.h5ad with counts in X and ``obsm['spatial']`` (array row and column). A fifth of the spots is held
out at random, another one with each of five seeds. Settings are the defaults for all sections. Errors are in spot
pitches, of positions as they were predicted; disparity is Procrustes'. Values go to benchmarks/results/dpvae-*.csv. One
thread: times are seconds of its CPU.
"""

import environment  # noqa: F401

# isort: split
import argparse
import resource
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import anndata
import numpy as np
import torch
from record import record
from scipy import sparse
from scipy.stats import spearmanr

from unbatch.metrics import spatial
from unbatch.models.dpvae.inputs import standardised_dispersion
from unbatch.nn import ard_gp
from unbatch.positions import baselines, conformal, evaluation, novelty, splits

SEEDS = (0, 1, 2, 3, 4)
FEW = 100
"""Genes of the preset as published."""


@dataclass(frozen=True)
class Section:
    """A section: its name, counts, log-normalised expression, positions in pitches, genes."""

    name: str
    counts: sparse.csr_matrix
    x: np.ndarray
    place: np.ndarray
    genes: list[str]

    def about(self, genes: int | None = None) -> str:
        """Name what is measured on."""
        return f"{self.name}, {len(self.x):,} spots x {genes or len(self.genes):,} genes"


def read(folder: Path, name: str) -> Section:
    """Read a section; spots and genes without counts are left out."""
    adata = anndata.read_h5ad(folder / f"{name}.h5ad")
    counts = sparse.csr_matrix(adata.X)
    rows, columns = np.asarray(counts.sum(1)).ravel() > 0, np.asarray(counts.sum(0)).ravel() > 0
    counts = counts[rows][:, columns]
    place = np.asarray(adata.obsm["spatial"], float)[rows] * [np.sqrt(0.75), 0.5]
    return Section(name, counts, logged(counts), place, adata.var_names[columns].tolist())


def logged(counts: sparse.csr_matrix) -> np.ndarray:
    """Logarithms of counts at median depth, dense."""
    size = np.asarray(counts.sum(1)).ravel()
    return np.log1p(counts.multiply((np.median(size) / size)[:, None]).toarray()).astype(np.float32)


def shared(sections: list[Section]) -> list[Section]:
    """Bring sections to the genes that they share."""
    genes = sorted(set.intersection(*(set(each.genes) for each in sections)))
    found = []
    for each in sections:
        place = {gene: number for number, gene in enumerate(each.genes)}
        counts = each.counts[:, [place[gene] for gene in genes]]
        found.append(Section(each.name, counts, logged(counts), each.place, genes))
    return found


def data_for(section: Section, settings: object) -> "np.ndarray | sparse.csr_matrix":
    """Give what settings of dp-VAE are fitted to: counts, or their logarithms."""
    return section.counts if settings.counts else section.x


def variable(x: np.ndarray, number: int) -> np.ndarray:
    """Positions of the most variable genes of log-normalised expression, chosen as the preset does."""
    values = np.expm1(x)
    dispersion = standardised_dispersion(values.mean(axis=0), values.var(axis=0))
    return np.sort(np.argsort(-dispersion, kind="stable")[:number])


def scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Disparity, errors in pitches, and R2 of each axis."""
    errors = spatial.position_errors(predicted, true)
    constant = np.ptp(predicted, axis=0).max() == 0
    values = {"disparity": 1.0 if constant else spatial.disparity(predicted, true)}
    return values | {"rmse": errors.rmse, "median": errors.median, "R2 row": errors.r2[0], "R2 column": errors.r2[1]}


def both_components(x: np.ndarray, counts: sparse.csr_matrix, train: np.ndarray) -> np.ndarray:
    """50 principal components of logarithms and 50 of Pearson residuals, found on training spots."""
    parts = []
    for values in (x, baselines.pearson(counts)):
        values = values - values.mean(axis=0)
        parts.append(baselines.components(values[train])(values))
    return np.concatenate(parts, axis=1)


def covered(radii: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Coverage at each level, and the median 90% radius."""
    shares = conformal.coverage(radii, predicted, true)
    found = {f"coverage {100 * level:g} %": share for level, share in zip(conformal.LEVELS, shares, strict=True)}
    return found | {"radius 90 %": float(np.median(radii[:, 2]))}


def run_rivals(folder: Path, names: list[str]) -> None:
    """Rivals on all genes and on 100, and what the Gaussian process makes of two kinds of components."""
    for seed, name in product(SEEDS, names):
        section = read(folder, name)
        held = splits.random_split(np.zeros(len(section.x), int), seed=seed)
        blocks = splits.block_split(section.place, seed=seed)
        for genes in (None, FEW):
            columns = slice(None) if genes is None else variable(section.x[~held], genes)
            x = baselines.standardised(section.x[:, columns])
            for kind, out in (("", held), (", blocks", blocks)):
                # one seed of blocks: each is five held-out pieces of the tissue
                if kind and (genes or seed):
                    continue
                for method, make in (baselines.BASELINES | baselines.STRONGER).items():
                    start = time.process_time()
                    predicted = make(x[~out], section.place[~out], seed)(x[out])
                    values = scores(predicted, section.place[out]) | {"cpu_s": time.process_time() - start}
                    record("dpvae-rivals", section.about(genes) + kind, method, values, seed=seed)
        for kind, out in (("", held), (", blocks", blocks)):
            if kind and seed:
                continue
            start, train = time.process_time(), np.flatnonzero(~out)
            inputs = both_components(section.x, section.counts, train)
            found = ard_gp.fit(inputs[train], section.place[train], seed=seed)
            predicted = found.predict(inputs).mean
            values = scores(predicted[out], section.place[out]) | {"cpu_s": time.process_time() - start}
            values["train disparity"] = spatial.disparity(predicted[train], section.place[train])
            alone = found.leave_one_out(inputs[train], section.place[train])
            radii = conformal.calibrate(alone, section.place[train], seed).radii(predicted[out])
            values |= covered(radii, predicted[out], section.place[out])
            record("dpvae-rivals", section.about() + kind, "process, logs and Pearson residuals", values, seed=seed)


def run_plain(folder: Path, names: list[str]) -> None:
    """Fit the preset as published without its term of the distances, which has no positions to choose epochs by."""
    from unbatch.models import dpvae

    run_split(folder, names, {"plain VAE, 500 epochs": dpvae.PRESETS["paper"].but(alpha2=0.0, epochs=500)})


def run_plain_short(folder: Path, names: list[str]) -> None:
    """Fit the plain VAE in minibatches of 256 for 60 epochs, as the lower of two numbers for it was measured."""
    from unbatch.models import dpvae

    settings = dpvae.PRESETS["paper"].but(alpha2=0.0, epochs=60, minibatch=256, rate=1e-3)
    run_split(folder, names, {"plain VAE, 60 epochs of minibatches": settings})


def run_split(folder: Path, names: list[str], methods: dict[str, object] | None = None) -> None:
    """Presets on the same splits; known spots have positions of networks that had not seen them."""
    from unbatch.models import dpvae

    paper = dpvae.PRESETS["paper"]
    methods = methods or {name: dpvae.PRESETS[name] for name in ("recommended", "paper")}
    for seed, name in product(SEEDS, names):
        section = read(folder, name)
        held = splits.random_split(np.zeros(len(section.x), int), seed=seed)
        for method, settings in methods.items():
            start = time.process_time()
            place = np.where(held[:, None], np.nan, section.place)
            fitted = dpvae.fit(data_for(section, settings), place, settings=settings, seed=seed)
            took = time.process_time() - start
            predicted = fitted.predicted
            values = scores(predicted[held], section.place[held]) | {"cpu_s": took}
            values["train disparity"] = spatial.disparity(predicted[~held], section.place[~held])
            values["gap"] = values["disparity"] - values["train disparity"]
            values |= {"alpha2": fitted.settings.alpha2, "epochs": fitted.settings.epochs}
            if settings.members > 1:
                radii = conformal.calibrate(predicted[~held], section.place[~held], seed).radii(predicted[held])
                values |= covered(radii, predicted[held], section.place[held])
            record("dpvae-split", section.about(settings.genes), method, values, seed=seed)
        if "paper" not in methods:
            continue
        # one training with the settings that were chosen, without the search for them
        start = time.process_time()
        dpvae.fit(section.x, place, settings=paper.but(alpha2=100.0, epochs=paper.most_epochs), seed=seed)
        values = {"cpu_s of one training": time.process_time() - start}
        record("dpvae-split", section.about(paper.genes), "paper", values, seed=seed)


def run_across(folder: Path, names: list[str]) -> None:
    """Each section alone, tested on each other one, genes standardised by section; the diagonal holds a fifth out."""
    sections = shared([read(folder, name) for name in names])
    standard = [baselines.standardised(each.x) for each in sections]
    everywhere = range(len(sections))
    for number, seed in product(everywhere, SEEDS):
        one = sections[number]
        held = splits.random_split(np.zeros(len(one.x), int), seed=seed)
        rows = np.flatnonzero(~held)
        for method, make in (baselines.BASELINES | baselines.STRONGER).items():
            predict = make(standard[number][rows], one.place[rows], seed)
            for other in everywhere:
                tested = held if other == number else np.ones(len(sections[other].x), bool)
                found = spatial.disparity if method != "mean" else lambda _a, _b: 1.0
                value = found(predict(standard[other][tested]), sections[other].place[tested])
                about = f"{one.name} on {sections[other].name}, {len(one.genes):,} genes"
                record("dpvae-across", about, method, {"disparity": value}, seed=seed)
        residuals = [baselines.pearson(each.counts) for each in sections]
        project = [baselines.components(values[number][rows]) for values in (standard, residuals)]
        inputs = [np.hstack([project[0](a), project[1](b)]) for a, b in zip(standard, residuals, strict=True)]
        found = ard_gp.fit(inputs[number][rows], one.place[rows], seed=seed)
        radii = conformal.calibrate(found.leave_one_out(inputs[number][rows], one.place[rows]), one.place[rows], seed)
        for other in everywhere:
            tested = held if other == number else np.ones(len(sections[other].x), bool)
            predicted, true = found.predict(inputs[other][tested]).mean, sections[other].place[tested]
            about = f"{one.name} on {sections[other].name}, {len(one.genes):,} genes"
            values = {"disparity": spatial.disparity(predicted, true)}
            # coordinates of another section are turned and shifted against those of this one
            aligned = predicted if other == number else spatial.similarity(predicted, true)(predicted)
            values |= covered(radii.radii(predicted), aligned, true)
            record("dpvae-across", about, "process, logs and Pearson residuals", values, seed=seed)
        _across_models(sections, number, held, seed)


def _across_models(sections: list[Section], number: int, held: np.ndarray, seed: int) -> None:
    """Train the recommended preset on one section; all others are sections without known positions."""
    from unbatch.models import dpvae

    settings = dpvae.PRESETS["recommended"]
    x = sparse.vstack([each.counts for each in sections]).tocsr()
    x = x if settings.counts else np.concatenate([each.x for each in sections])
    code = np.repeat(np.arange(len(sections)), [len(each.x) for each in sections])
    place = np.full((x.shape[0], 2), np.nan)
    own = np.flatnonzero(code == number)
    place[own[~held]] = sections[number].place[~held]
    fitted = dpvae.fit(x, place, section=code, settings=settings, seed=seed)
    radii = conformal.calibrate(fitted.predicted[own[~held]], place[own[~held]], seed)
    for other, each in enumerate(sections):
        rows = own[held] if other == number else np.flatnonzero(code == other)
        true = each.place[held] if other == number else each.place
        predicted = fitted.predicted[rows]
        aligned = predicted if other == number else spatial.similarity(predicted, true)(predicted)
        values = {"disparity": spatial.disparity(predicted, true)}
        values |= covered(radii.radii(predicted), aligned, true)
        about = f"{sections[number].name} on {each.name}, {len(each.genes):,} genes"
        record("dpvae-across", about, "recommended", values, seed=seed)


def run_unseen(folder: Path, names: list[str]) -> None:
    """Train on some sections, and test radii on others: by errors within a section, and in sections left out."""
    from unbatch.models import dpvae

    train, test = (each.split(",") for each in names)
    sections = shared([read(folder, name) for name in (*train, *test)])
    code = np.repeat(np.arange(len(sections)), [len(each.x) for each in sections])
    place, counts = np.concatenate([each.place for each in sections]), sparse.vstack([each.counts for each in sections])
    known = code < len(train)
    seed, given, counts = 0, np.where(known[:, None], place, np.nan), counts.tocsr()
    start = time.process_time()
    fitted = dpvae.fit(counts, given, section=code, seed=seed)
    middle = time.process_time()
    left = dpvae.left_out(counts, given, section=code, group=code, fitted=fitted, seed=seed)
    took = {"cpu_s": middle - start, "cpu_s of the fits with sections left out": time.process_time() - middle}
    across = tuple(conformal.calibrate(*each, seed) for each in left)
    for other in range(len(train), len(sections)):
        rows = code == other
        predicted, true = fitted.predicted[rows], place[rows]
        rotation = spatial.similarity(true, predicted).rotation
        aligned = (true - true.mean(axis=0)) @ rotation + predicted.mean(axis=0)
        about = f"{' and '.join(train)} on {sections[other].name}, {len(sections[0].genes):,} genes"
        values = {"disparity": spatial.disparity(predicted, true)} | took
        for kind, elsewhere in (("errors within a section", ()), ("sections left out", across)):
            made = conformal.Radii.of(fitted.predicted[known], place[known], code[known], known[known], seed, elsewhere)
            values |= covered(made.radii(predicted, code[rows]), predicted, aligned)
            record("dpvae-unseen", about, kind, values, seed=seed)
            values = {}


def run_spaces(folder: Path, names: list[str]) -> None:
    """Scores of latent values of held-out spots, with the term and without, for both likelihoods."""
    from unbatch.models import dpvae

    base = dpvae.PRESETS["paper"].but(epochs=100)
    # the latent space for counts is larger, as the published one
    kinds = {"VAE": base, "NB-VAE": base.but(likelihood="negative_binomial", latent=10)}
    for seed, name in product(SEEDS, names):
        section = read(folder, name)
        held = splits.random_split(np.zeros(len(section.x), int), seed=seed)
        place = np.where(held[:, None], np.nan, section.place)
        near = spatial.nearest(section.place[held], evaluation.NEIGHBOURS)
        for (kind, settings), alpha2 in product(kinds.items(), (0.0, 100.0)):
            fitted = dpvae.fit(data_for(section, settings), place, settings=settings.but(alpha2=alpha2), seed=seed)
            latent = fitted.latent[held]
            agreed = spatial.distance_correlation(latent, section.place[held], draws=50, seed=seed)
            values = {
                "moran": spatial.morans_i(latent, near).mean(),
                "geary": spatial.gearys_c(latent, near).mean(),
                "r": agreed.r,
                "L_DP / lambda": fitted.history[-1]["relative"],
            }
            method = f"{kind} {'with' if alpha2 else 'without'} distances"
            record("dpvae-spaces", section.about(settings.genes), method, values, seed=seed)


def run_novelty(folder: Path, names: list[str]) -> None:
    """Errors of held-out spots that are far from the training expression, and of the others."""
    for seed, name in product(SEEDS, names):
        section = read(folder, name)
        held = splits.random_split(np.zeros(len(section.x), int), seed=seed)
        x = baselines.standardised(section.x)
        distance, far = novelty.expression_distance(x[~held], x[held])
        predicted = baselines.process(x[~held], section.place[~held], seed)(x[held])
        error = np.linalg.norm(predicted - section.place[held], axis=1)
        beyond = distance > far
        values = {"far": beyond.mean(), "rank correlation with the error": spearmanr(distance, error)[0]}
        if beyond.sum() >= 3:
            values |= {"median error, far": np.median(error[beyond]), "median error, others": np.median(error[~beyond])}
        record("dpvae-novelty", section.about(), "distance to training expression", values, seed=seed)


def run_peers(folder: Path, names: list[str]) -> None:
    """Peers that are installed, on 100 genes; one seed, as they take long."""
    for name, method in product(names, baselines.installed()):
        section = read(folder, name)
        held = splits.random_split(np.zeros(len(section.x), int), seed=0)
        x = baselines.standardised(section.x[:, variable(section.x[~held], FEW)])
        start = time.process_time()
        predicted = baselines.PEERS[method][0](x[~held], section.place[~held], 0)(x[held])
        values = scores(predicted, section.place[held]) | {"cpu_s": time.process_time() - start}
        record("dpvae-rivals", section.about(FEW), method, values, seed=0)


def run_gradient(folder: Path, names: list[str]) -> None:
    """Mean gradient of the distances' term over 1,000 draws of pairs, against that of all pairs."""
    from unbatch.models.dpvae import masks
    from unbatch.nn.pairs import lengths

    section = read(folder, names[0])
    place = torch.as_tensor(section.place / section.place.std())
    code = np.zeros(len(place), np.int64)
    pairs = masks.all_pairs(section.place, code, 12)
    torch.manual_seed(0)
    latent = (place + 0.5 * torch.randn_like(place)).requires_grad_()
    exact = (torch.cdist(latent, latent) - torch.cdist(place, place)).abs().mean()
    oracle = torch.autograd.grad(exact, latent)[0]
    mean, draws, first = torch.zeros_like(latent), 1000, torch.arange(len(place))
    for _ in range(draws):
        one, other, weight = pairs.draw(first, 1, 8)
        found = (weight * (lengths(latent, one, other) - lengths(place, one, other)).abs()).sum()
        mean += torch.autograd.grad(found, latent)[0] / draws
    apart = float((mean - oracle).norm() / oracle.norm())
    about = f"{section.name}, {len(place):,} spots"
    record("dpvae-pairs", about, "8 uniform partners and 1 near", {"relative error of the gradient": apart}, seed=0)


def run_anchors() -> None:
    """Exact distances of drawn points, and three anchors."""
    from unbatch.models import dpvae

    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        place = rng.uniform(0, 60, (800, 2))
        turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
        chosen = rng.choice(len(place), 3, replace=False)
        for method in ("latent", "mds", "stress"):
            found = dpvae.reconstruct(2 * place @ turn, 2.0, (chosen, place[chosen]), method=method, seed=seed)
            error = spatial.position_errors(found, place).rmse
            moved = float(np.abs(found[chosen] - place[chosen]).max())
            record(
                "dpvae-anchors",
                "800 drawn points, 3 anchors",
                method,
                {"rmse": error, "anchors moved": moved},
                seed=seed,
            )


def run_large(spots: int, genes: int) -> None:
    """Few epochs on drawn expression: memory beyond that of the data."""
    from unbatch.models import dpvae

    rng = np.random.default_rng(0)
    place = rng.uniform(0, np.sqrt(spots), (spots, 2))
    waves, parts = rng.normal(size=(2, genes)), []
    # in pieces: what drawing needs must not hide what the fit does
    for rows in np.array_split(np.arange(spots), max(1, spots // 2_000)):
        rates = np.exp(np.sin(place[rows] @ waves / 20) - 1.5)
        parts.append(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)))
    x = sparse.vstack(parts).tocsr()
    del parts
    settings = dpvae.PRESETS["recommended"].but(alpha2=100.0, epochs=2)
    x = x if settings.counts else logged(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    dpvae.fit(x, place, settings=settings)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    values = {"extra_gb": more, "cpu_s of 2 epochs and readouts": time.process_time() - start}
    record("dpvae-large", f"{spots:,} spots x {genes:,} genes, drawn", "recommended", values, seed=0)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {
        "rivals": run_rivals,
        "split": run_split,
        "plain": run_plain,
        "plain-short": run_plain_short,
        "across": run_across,
        "unseen": run_unseen,
        "spaces": run_spaces,
        "novelty": run_novelty,
        "peers": run_peers,
        "gradient": run_gradient,
    }
    parser.add_argument("what", choices=[*runs, "anchors", "large"])
    parser.add_argument("given", nargs="*", help="FOLDER SECTION ...; of large: SPOTS GENES")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "anchors":
        run_anchors()
    elif given.what == "large":
        run_large(*(int(each) for each in (given.given or ["50000", "500"])))
    else:
        folder = Path(given.given[0])
        runs[given.what](folder, given.given[1:] or sorted(path.stem for path in folder.glob("*.h5ad")))


if __name__ == "__main__":
    main()

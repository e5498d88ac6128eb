"""spaVAE on sections of human cortex: domains, held-out spots, spatially variable genes, speed.

    python benchmarks/spavae.py domains FOLDER [SECTION ...] [--rows ROW ...]   # NMI and ARI, next to rivals
    python benchmarks/spavae.py stopping FOLDER [SECTION ...]  # what choosing the epoch by labels would gain
    python benchmarks/spavae.py held-out FOLDER [SECTION ...]  # a tenth of the spots predicted by their positions
    python benchmarks/spavae.py joint FOLDER [SECTION ...]     # the sections in one model
    python benchmarks/spavae.py genes FOLDER SECTION           # p-values on simulated genes with known patterns
    python benchmarks/spavae.py speed FOLDER SECTION           # CPU seconds of an epoch and of a fit
    python benchmarks/spavae.py large [SPOTS GENES]            # the same of drawn counts in a file, held and streamed
    python benchmarks/spavae.py steps SPOTS GENES MOST ...     # fits whose epochs take MOST spots
    python benchmarks/spavae.py authors FOLDER SECTION --code CODE [--epochs N]   # the authors' code and ours in turns

FOLDER holds SECTION.h5ad with counts in X, ``obsm['spatial']`` (array row and column) and ``obs['layer']``. Settings
are the defaults for all sections. The number of clusters is that of the layers; spots without a layer are clustered and
left out of the scores. CODE is the folder src/spaVAE of the authors' repository (ttgump/spaVAE), which is no part of
this one. Values go to benchmarks/results/spavae-*.csv. One thread: times are seconds of its CPU.
"""

import environment  # noqa: F401

# isort: split
import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import torch
from anndata.io import sparse_dataset, write_elem
from record import record
from scipy import sparse
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, average_precision_score, normalized_mutual_info_score
from sklearn.model_selection import cross_val_score

from unbatch import contract, methods
from unbatch.data.cells import Cells
from unbatch.data.graph import neighbours
from unbatch.metrics import domains
from unbatch.metrics.spatial import nearest
from unbatch.models import spavae, staligner
from unbatch.models.spavae import Spots, Stored, positions, spatial_genes
from unbatch.models.spavae import settings as spavae_settings
from unbatch.models.spavae.prediction import agreement, neighbour_rates, predict
from unbatch.nn import inducing

SEEDS = (0, 1, 2, 3, 4)
SETTINGS = spavae.PRESETS["recommended"]
COMPONENTS, RING = 10, 18
"""Components of the rivals, and neighbours of a spot within two rings."""
LENGTHS = (10, 15, 20, 25, 30, 40)
"""Epochs of the fits among which labels could choose; 20 or so is the default."""
STAGATE_EPOCHS = (250, 1000)
"""A quarter of the default, and the default, which takes a quarter of an hour of CPU a section."""


@dataclass(frozen=True)
class Section:
    """A section: its name, counts, array positions and layers ("NA" where unknown)."""

    name: str
    counts: sparse.csr_matrix
    points: np.ndarray
    layer: np.ndarray
    genes: list[str]

    @property
    def about(self) -> str:
        """What was measured on."""
        return f"{self.name}, {self.counts.shape[0]:,} spots x {self.counts.shape[1]:,} genes"

    @property
    def clusters(self) -> int:
        """Number of layers."""
        return len(set(self.layer) - {"NA"})

    @property
    def place(self) -> np.ndarray:
        """Positions in spot pitches."""
        return self.points * positions.units(self.points, np.zeros(len(self.points), np.int64))[0]


def read(folder: Path, name: str) -> Section:
    """Read a section; spots and genes without counts are left out."""
    adata = anndata.read_h5ad(folder / f"{name}.h5ad")
    counts = sparse.csr_matrix(adata.X)
    rows, columns = np.asarray(counts.sum(1)).ravel() > 0, np.asarray(counts.sum(0)).ravel() > 0
    layer = adata.obs["layer"].astype(str).to_numpy()[rows]
    genes = adata.var_names[columns].tolist()
    return Section(name, counts[rows][:, columns], np.asarray(adata.obsm["spatial"], float)[rows], layer, genes)


def components(counts: sparse.csr_matrix, number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Principal components of standardised log counts (n x number), and what standardised them."""
    size = np.asarray(counts.sum(1)).ravel()
    values = np.log1p(counts.toarray() / (size / np.median(size))[:, None])
    mean, spread = values.mean(0), values.std(0, ddof=1) + 1e-8
    values = (values - mean) / spread
    vectors = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :number]
    return values @ vectors, {"mean": mean, "spread": spread, "vectors": vectors}


def mean_around(values: np.ndarray, place: np.ndarray, spots: int) -> np.ndarray:
    """Mean of each spot and so many nearest ones."""
    return (values + values[nearest(place, spots)].sum(1)) / (spots + 1)


def smoothed(values: np.ndarray, place: np.ndarray, noise: float = 5.0) -> np.ndarray:
    """Mean of a Gaussian process on values with noise of so many times its variance."""
    points = torch.as_tensor(place)
    chosen = inducing.greedy(points, "cauchy", 200.0, 0.03, 512).points
    features = inducing.whitened(chosen, points, "cauchy", 200.0).numpy()
    return features @ np.linalg.solve(noise * np.eye(len(chosen)) + features.T @ features, features.T @ values)


def compare(labels: np.ndarray, section: Section) -> tuple[float, float]:
    """NMI and ARI with the layers."""
    known = section.layer != "NA"
    both = section.layer[known], labels[known]
    return normalized_mutual_info_score(*both), adjusted_rand_score(*both)


def clustered(
    section: Section, spaces: dict[str, np.ndarray], seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores and labels of both clusterers, each in the space that is named for it, plain and refined."""
    none = np.zeros(len(section.layer), np.int64)
    labels = {
        "k-means": domains.by_kmeans(spaces["k-means"], section.clusters, seed),
        "mixture": domains.by_mixture(spaces["mixture"], section.clusters, seed).labels,
    }
    labels |= {f"{name}, refined": domains.refined(each, section.place, none) for name, each in labels.items()}
    found = {}
    for name, each in labels.items():
        found[f"NMI, {name}"], found[f"ARI, {name}"] = compare(each, section)
    return found, labels


def cells_of(section: Section) -> Cells:
    """Make what methods take of a section."""
    size = np.asarray(section.counts.sum(1)).ravel()
    X = section.counts.astype(np.float32).copy()
    X.data = np.log1p(X.data / np.repeat(size / size.mean(), np.diff(X.indptr))).astype(np.float32)
    none = np.zeros(len(size), np.int64)
    return Cells(X, section.counts, section.genes, none, coordinates=section.points, batches=["0"], name=section.name)


def by_method(name: str, section: Section, seed: int, **params: object) -> np.ndarray:
    """Embedding by a method with its defaults but for `params`."""
    declared = methods.load(name)
    chosen = contract.checked(name, declared.params, params)
    return declared.fit(cells_of(section), chosen, contract.Run(seed)).embedding


def by_stagate(section: Section, seed: int, epochs: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Embed as the method does; also what choosing the best epoch of the second half by the layers would gain."""
    cells, declared = cells_of(section), methods.load("stagate")
    chosen = contract.checked("stagate", declared.params, {"epochs": epochs})
    graph = neighbours(cells.coordinates, cells.section)
    seen = []

    def look(at: int, embedding: torch.Tensor) -> None:
        if 2 * at >= epochs and at % (epochs // 50) == 0:
            seen.append(embedding.detach().numpy().copy())

    found = staligner.train(
        cells.X.toarray(), np.stack([graph.source, graph.target]), chosen.hidden, chosen.latent, chosen.epochs,
        chosen.learning_rate, chosen.weight_decay, seed=seed, more=look,
    )  # fmt: skip
    about = {}
    for name, cluster in (
        ("k-means", lambda values: domains.by_kmeans(values, section.clusters, seed, domains.STARTS)),
        ("mixture", lambda values: domains.by_mixture(values, section.clusters, seed, domains.STARTS).labels),
    ):
        scores = np.array([compare(cluster(values), section)[1] for values in seen])
        about[f"ARI, {name}, second half: mean"] = scores.mean()
        about[f"ARI, {name}, second half: best"] = scores.max()
    return dict.fromkeys(("k-means", "mixture"), found), about


def by_spavae(section: Section, seed: int, preset: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Spaces to cluster in, and the number of inducing points."""
    spots = Spots.of(section.counts, section.points)
    fitted = spavae.fit(spots, spavae.PRESETS[preset], seed=seed)
    latent = fitted.model.embed(spots)
    about = {"inducing points": len(fitted.chosen.points[0]), "epochs": len(next(iter(fitted.history.values())))}
    return {"k-means": latent.embedding, "mixture": latent.mean}, about


@dataclass(frozen=True)
class Row:
    """A row of the table of domains: its name, what makes its embedding, and seeds of that and of the clusterers."""

    name: str
    make: Callable[[Section, int], np.ndarray | tuple]
    seeds: tuple[int, ...] = SEEDS
    drawn: bool = True


def _pcs(section: Section) -> np.ndarray:
    return components(section.counts, COMPONENTS)[0]


def _stagate(epochs: int) -> Row:
    name = f"STAGATE, {epochs:,} epochs, one seed"
    return Row(name, lambda section, seed: by_stagate(section, seed, epochs), seeds=(0,))


ROWS = {
    "pcs": Row("10 PCs", lambda section, _: _pcs(section), drawn=False),
    "rings": Row("mean of two rings", lambda s, _: mean_around(_pcs(s), s.place, RING), drawn=False),
    "thirty": Row("mean of 30 neighbours", lambda s, _: mean_around(_pcs(s), s.place, 30), drawn=False),
    "gp": Row("GP on 10 PCs", lambda section, _: smoothed(_pcs(section), section.place), drawn=False),
    "banksy": Row("BANKSY", lambda section, seed: by_method("banksy", section, seed), drawn=False),
    "banksy-0.2": Row("BANKSY, lambda 0.2", lambda s, seed: by_method("banksy", s, seed, weight=0.2), drawn=False),
    "spavae": Row("spaVAE", lambda section, seed: by_spavae(section, seed, "recommended")),
    "batchblend": Row(
        "BatchBlend with space", lambda section, seed: by_method("batchblend", section, seed, spatial="linear")
    ),
    "resolvi": Row("resolVI, one seed", lambda section, seed: by_method("resolvi", section, seed), seeds=(0,)),
    "paper": Row("spaVAE, preset paper, one seed", lambda s, seed: by_spavae(s, seed, "paper"), seeds=(0,)),
    "stagate": _stagate(STAGATE_EPOCHS[0]),
    "stagate-1000": _stagate(STAGATE_EPOCHS[1]),
}
"""What is compared; `domains` is given names of rows to run some of them."""


def run_domains(folder: Path, names: list[str], rows: list[str]) -> None:
    """Cluster the embedding of each row and section; rows without random numbers have seeds of the clusterers alone."""
    for name, key in product(names, rows or ROWS):
        section, row, found, known = read(folder, name), ROWS[key], [], None
        for seed in row.seeds:
            start = time.process_time()
            known = row.make(section, seed) if row.drawn or known is None else known
            about = {"cpu_s": time.process_time() - start} if row.drawn or seed == row.seeds[0] else {}
            spaces, more = known if isinstance(known, tuple) else (dict.fromkeys(("k-means", "mixture"), known), {})
            scores, labels = clustered(section, spaces, seed)
            found.append(labels["mixture"])
            record("spavae-domains", section.about, row.name, scores | about | more, seed=seed)
        if len(row.seeds) > 1:
            same = [adjusted_rand_score(a, b) for a, b in combinations(found, 2)]
            agreed = {"ARI of two seeds": np.mean(same), "ARI of two seeds, lowest": np.min(same)}
            record("spavae-domains", section.about, row.name, agreed, seed=f"{row.seeds[0]}-{row.seeds[-1]}")


def run_stopping(folder: Path, names: list[str]) -> None:
    """Fits of several lengths, and what choosing the length by the layers, section by section, would gain."""
    for name in names:
        section, found = read(folder, name), {}
        for epochs in LENGTHS:
            spots = Spots.of(section.counts, section.points)
            latent = spavae.fit(spots, SETTINGS.but(epochs=epochs), seed=0).model.embed(spots)
            scores, _ = clustered(section, {"k-means": latent.embedding, "mixture": latent.mean}, 0)
            record("spavae-stopping", section.about, f"{epochs} epochs", scores, seed=0)
            found[epochs] = scores
        for method, choose in (("mean of all lengths", np.mean), ("best length by the layers", max)):
            scores = {metric: choose([each[metric] for each in found.values()]) for metric in found[LENGTHS[0]]}
            record("spavae-stopping", section.about, method, scores, seed=0)


def kriged(
    counts: sparse.csr_matrix, place: np.ndarray, at: np.ndarray, number: int = 20, noise: float = 5.0
) -> np.ndarray:
    """Rates at positions by a Gaussian process on principal components, brought to the mean rates of the genes."""
    values, known = components(counts, number)
    points = torch.as_tensor(place)
    chosen = inducing.greedy(points, "cauchy", 200.0, 0.03, 512).points
    here, there = (inducing.whitened(chosen, torch.as_tensor(p), "cauchy", 200.0).numpy() for p in (place, at))
    scale = values[:, :1].std()
    weights = np.linalg.solve(np.eye(len(chosen)) + here.T @ here / noise, here.T @ (values / scale) / noise) * scale

    def rates(features: np.ndarray) -> np.ndarray:
        logs = features @ weights @ known["vectors"].T * known["spread"] + known["mean"]
        return np.maximum(np.expm1(logs), 1e-4)

    size = np.asarray(counts.sum(1)).ravel()
    mean = np.asarray(counts.sum(0)).ravel() / (size / np.median(size)).sum()
    return rates(there) * mean / rates(here).mean(0)


def run_held_out(folder: Path, names: list[str]) -> None:
    """Hold a tenth of the spots out, which differ between seeds, and predict them by everything."""
    for name in names:
        section = read(folder, name)
        total = np.asarray(section.counts.sum(1)).ravel()
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(len(total))
            held, train = np.sort(order[: len(order) // 10]), np.sort(order[len(order) // 10 :])
            size = total / np.median(total[train])
            spots = Spots.of(section.counts, section.points)
            fitted = spavae.fit(spots, SETTINGS, train_on=train, seed=seed)
            none = np.zeros(len(held), np.int64)
            latent = predict(fitted.model, section.points[held], none).latent
            place, at = section.place[train], section.place[held]
            near = positions.nearest_spots(place, np.zeros(len(train), np.int64), at, none, 30)[1]
            counts = section.counts[train]
            mean = np.asarray(counts.sum(0)).ravel() / size[train].sum()
            found = {
                "spaVAE": np.concatenate(list(fitted.model.rates(latent.embedding, none))),
                "GP on 20 PCs": kriged(counts, place, at),
                "mean of 30 spots": neighbour_rates(counts, size[train], near),
                "nearest spot": neighbour_rates(counts, size[train], near[:, :1]),
                "gene means": np.broadcast_to(mean, (len(held), len(mean))),
            }
            # a gene without a count among few spots must not make the whole prediction impossible
            found["nearest spot"] = (found["nearest spot"] + 0.3 * mean) / 1.3
            for method, rates in found.items():
                nb, correlation = agreement(rates, section.counts[held].toarray(), size[held])
                values = {"loss per spot": nb} | ({} if method == "gene means" else {"correlation": correlation})
                record("spavae-held-out", section.about, method, values, seed=seed)


def run_joint(folder: Path, names: list[str]) -> None:
    """All sections in one model, on the genes that they share."""
    sections = [read(folder, name) for name in names]
    genes = sorted(set.intersection(*(set(each.genes) for each in sections)))
    parts = [each.counts[:, [each.genes.index(gene) for gene in genes]] for each in sections]
    code = np.repeat(np.arange(len(sections)), [len(each.layer) for each in sections])
    spots = Spots.of(sparse.vstack(parts).tocsr(), np.concatenate([each.points for each in sections]), code)
    about = f"{len(names)} sections, {len(code):,} spots x {len(genes)} genes"
    for seed in SEEDS:
        start = time.process_time()
        fitted = spavae.fit(spots, SETTINGS, seed=seed)
        latent = fitted.model.embed(spots)
        seconds = time.process_time() - start
        probe = cross_val_score(LogisticRegression(max_iter=500), latent.mean, code, cv=5).mean()
        chance = np.bincount(code).max() / len(code)
        values = {"batch probe": probe, "batch probe, chance": chance, "cpu_s": seconds}
        record("spavae-joint", about, "spaVAE", values, seed=seed)
        for number, section in enumerate(sections):
            rows = code == number
            spaces = {"k-means": latent.embedding[rows], "mixture": latent.mean[rows]}
            record(
                "spavae-joint", f"{section.name} of {about}", "spaVAE", clustered(section, spaces, seed)[0], seed=seed
            )


def simulated(section: Section, seed: int, *, spatial: int = 80, mixed: bool = True, types: bool = True) -> np.ndarray:
    """Draw counts of 400 genes on a section's positions, of which the first ones follow a pattern.

    Patterns are smooth fields of four scales and signs of such fields and, if `mixed`, stripes and discs. With `types`,
    genes share types of cells that are in no order: each gene's p-value is then right, but those of different genes
    depend on one another, and their distribution over genes is less even than by chance.
    """
    rng, genes = np.random.default_rng(seed), 400
    place, spots = section.place, len(section.layer)
    points, patterns = torch.as_tensor(place), []
    for scale in (8.0, 30.0, 100.0, 400.0):
        chosen = inducing.greedy(points, "cauchy", scale, 0.05, 250).points
        features = inducing.whitened(chosen, points, "cauchy", scale).numpy()
        patterns += [features @ rng.standard_normal(features.shape[1]) for _ in range(2)]
    patterns += [np.sign(each) for each in patterns[4:]]
    for period in (6.0, 20.0) if mixed else ():
        angle = rng.uniform(0, np.pi)
        patterns.append(np.sin(2 * np.pi * place @ [np.cos(angle), np.sin(angle)] / period))
    for radius in (4, 8, 16) if mixed else ():
        patterns.append((((place - place[rng.integers(spots)]) ** 2).sum(1) < radius**2).astype(float))
    shapes = np.stack(patterns, 1)
    shapes = (shapes - shapes.mean(0)) / shapes.std(0)
    kinds = (rng.random((spots, 4)) < 0.3).astype(float)
    kinds = (kinds - kinds.mean(0)) / kinds.std(0)
    effect = np.zeros((shapes.shape[1], genes))
    for gene in range(spatial):
        effect[rng.integers(shapes.shape[1]), gene] = rng.uniform(0.03, 0.2) * rng.choice([-1, 1])
    logs = rng.normal(0, 1, genes) + shapes @ effect
    if types:
        logs += kinds @ rng.normal(0, 0.25, (4, genes))
    total = np.asarray(section.counts.sum(1)).ravel()
    mean = (total / np.median(total))[:, None] * np.exp(logs)
    theta = np.exp(rng.normal(1, 0.7, genes))
    return rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape)).astype(np.float32)


def run_genes(folder: Path, names: list[str]) -> None:
    """Ten simulations of each kind: how genes are ranked, and whether p-values are right."""
    section = read(folder, names[0])
    kinds = {
        "400 genes, smooth fields": {"mixed": False},
        "400 genes, fields, stripes, discs": {},
        "400 genes, no pattern": {"spatial": 0, "types": False},
    }
    for (kind, given), seed in product(kinds.items(), range(10)):
        counts, spatial = simulated(section, seed, **given), np.arange(400) < given.get("spatial", 80)
        seen = counts.sum(1) > 0
        none = np.zeros(seen.sum(), np.int64)
        start = time.process_time()
        found = spatial_genes.spatial_genes(counts[seen], section.place[seen], none, none)
        seconds = time.process_time() - start
        moran = spatial_genes.adjusted(found.moran_p_value)
        for method, score, p, q in (
            ("score test", -found.p_value, found.p_value, found.q_value),
            ("Moran's I", found.moran, found.moran_p_value, moran),
        ):
            hits = q < 0.05
            uniform = kstest(p[~spatial], "uniform").pvalue
            values = {"false": hits[~spatial].sum(), "KS p": uniform, "KS p above 0.05": int(uniform > 0.05)}
            values |= {"cpu_s": seconds} if method == "score test" else {}
            if spatial.any():
                share = hits[~spatial].sum() / max(hits.sum(), 1)
                ranked = average_precision_score(spatial, score)
                values |= {"AUPRC": ranked, "found": hits[spatial].sum(), "share of false": share}
            record("spavae-genes", kind, method, values, seed=seed)


def run_speed(folder: Path, names: list[str]) -> None:
    """CPU seconds of an epoch, from fits of 2 and 12 epochs, of what comes before and after, and of a default fit."""
    section = read(folder, names[0])
    # what is done once, such as imports, is not a fit's
    spavae.fit(Spots.of(section.counts, section.points), SETTINGS.but(epochs=1))
    for method, settings in {
        "defaults": SETTINGS,
        "150 inducing points": SETTINGS.but(tolerance=1e-9, most_points=150, scale=200.0),
        "genes as input": SETTINGS.but(inputs="genes"),
        "preset paper": spavae.PRESETS["paper"],
    }.items():
        _timed(section, settings, method)
    start = time.process_time()
    spots = Spots.of(section.counts, section.points)
    spavae.fit(spots, SETTINGS).model.embed(spots)
    record("spavae-speed", section.about, "defaults", {"cpu_s of a fit": time.process_time() - start}, seed=0)


def _timed(section: Section, settings: spavae.Settings, method: str) -> None:
    seconds = []
    for epochs in (2, 12):
        start = time.process_time()
        spots = Spots.of(section.counts, section.points)
        fitted = spavae.fit(spots, settings.but(epochs=epochs, patience=epochs))
        seconds.append(time.process_time() - start)
    epoch = (seconds[1] - seconds[0]) / 10
    size = len(fitted.chosen.points[0])
    took = {"cpu_s of an epoch": epoch, "cpu_s before and after": seconds[0] - 2 * epoch, "inducing points": size}
    record("spavae-speed", section.about, method, took, seed=0)


AUTHORS = "the authors' code"


def run_authors(folder: Path, name: str, code: Path, epochs: int) -> None:
    """CPU seconds of an epoch of the authors' code and of ours, three times in turns, then a fit of theirs.

    Ours has their settings (preset paper) and the defaults. An epoch is the difference of fits of 2 and 7 epochs.
    """
    section = read(folder, name)
    spots = Spots.of(section.counts, section.points)
    spavae.fit(spots, SETTINGS.but(epochs=1))
    for turn in range(3):
        short, long = (authors(section, code, each, each)["cpu_s"] for each in (2, 7))
        took = {"cpu_s of an epoch": (long - short) / 5, "inducing points": 49}
        record("spavae-speed", section.about, AUTHORS, took, seed=turn)
        for preset in ("paper", "recommended"):
            seconds = []
            for each in (2, 7):
                start = time.process_time()
                spavae.fit(spots, spavae.PRESETS[preset].but(epochs=each, patience=each))
                seconds.append(time.process_time() - start)
            took = {"cpu_s of an epoch": (seconds[1] - seconds[0]) / 5}
            record("spavae-speed", section.about, f"preset {preset}, in turns with {AUTHORS}", took, seed=turn)
    if not epochs:
        return
    found = authors(section, code, epochs, 200)
    latent = found.pop("latent")
    scores, _ = clustered(section, {"k-means": latent, "mixture": latent[:, :2]}, 0)
    record("spavae-domains", section.about, f"{AUTHORS}, one seed", scores | found, seed=0)


def authors(section: Section, code: Path, epochs: int, patience: int, seed: int = 0) -> dict[str, Any]:
    """Train the authors' code in a process of its own, and give latent values, epochs run and CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "given.npz"), Path(folder, "out.npz")
        np.savez(given, counts=section.counts.toarray(), points=section.points)
        program = Path(__file__).with_name("published_spavae.py")
        ran = subprocess.run(
            [sys.executable, program, given, out, str(epochs), str(patience), str(seed)],
            env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        with np.load(out) as found:
            return {
                "latent": found["latent"],
                "cpu_s": float(found["cpu_s"]),
                "epochs": ran.stdout.count("validating ELBO"),
            }


def _written(path: Path, spots: int, genes: int) -> None:
    """Write drawn counts of a square tissue to an h5ad file as `preprocess` would, some spots at a time."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(spots)))
    points = np.stack(np.divmod(np.arange(spots), side), 1).astype(float)
    shape = np.exp(rng.normal(-1.5, 1, genes))
    with h5py.File(path, "w") as file:
        write_elem(file.create_group("obsm"), "spatial", points)
        layers = file.create_group("layers")
        for rows in np.array_split(np.arange(spots), max(1, spots // 10_000)):
            wave = np.exp(0.5 * np.sin(points[rows, :1] / side * 9 + np.arange(genes) % 7))
            counts = rng.poisson(shape * wave).astype(np.float32)
            counts[counts.sum(1) == 0, 0] = 1
            block = sparse.csr_matrix(counts)
            if rows[0]:
                sparse_dataset(layers["counts"]).append(block)
            else:
                compressed = {"compression": "gzip", "compression_opts": 1, "indptr_dtype": np.int64}
                write_elem(layers, "counts", block, dataset_kwargs=compressed)


def _large(path: Path, way: str) -> None:
    """Fit counts of a file that are held or streamed: seconds of set-up, an epoch and the posterior, peak of memory.

    An epoch is measured after the first; three are run.
    """
    torch.set_num_threads(1)
    start, times = time.process_time(), []
    with h5py.File(path) as file:
        stored, points = sparse_dataset(file["layers/counts"]), file["obsm/spatial"][:]
        shape = stored.shape
        streamed = way == "streamed"
        counts = Stored(lambda low, high: stored[low:high], shape) if streamed else stored.to_memory()
        settings = SETTINGS.but(epochs=3)
        fitted = spavae.fit(Spots.of(counts, points), settings, tell=lambda text: times.append(time.process_time()))
        end = time.process_time()
    epoch = (times[-1] - times[0]) / (len(times) - 1)
    took = {
        "cpu_s of an epoch": epoch,
        "cpu_s before and after": times[0] - start - epoch + end - times[-1],
        "inducing points": len(fitted.chosen.points[0]),
        "steps of an epoch": fitted.plan.steps(shape[0]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    about = f"{shape[0]:,} spots x {shape[1]:,} genes, drawn"
    record("spavae-speed", about, "defaults, streamed" if streamed else "defaults", took, seed=0)


def run_large(spots: int, genes: int, ways: list[str], kept: Path | None) -> None:
    """Fit drawn counts of a large tissue from a file, in a process of its own for each way: its memory is the fit's."""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = kept or Path(folder) / "drawn.h5ad"
        written = [] if path.exists() else [(_written, path, spots, genes)]
        for task in (*written, *((_large, path, way) for way in ways)):
            process = processes.Process(target=task[0], args=task[1:])
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{task[0].__name__} ended with {process.exitcode}")


def drawn(spots: int, genes: int, seed: int) -> tuple[np.ndarray, sparse.csr_matrix, np.ndarray]:
    """Draw a tissue with six smooth fields and four types of cells in no order: positions, counts, rates (logarithms).

    A field is a sum of waves of random directions, 30 to 300 pitches long. Counts are negative binomial.
    """
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(spots)))
    points = np.stack(np.divmod(np.arange(spots), side), 1).astype(float)
    fields = []
    for _ in range(6):
        angle, length = rng.uniform(0, 2 * np.pi, 8), np.exp(rng.uniform(np.log(30), np.log(300), 8))
        waves = points @ np.stack([np.cos(angle), np.sin(angle)]) * (2 * np.pi / length) + rng.uniform(0, 6.3, 8)
        fields.append(np.sin(waves).sum(1) / 2)
    kinds = (rng.random((spots, 4)) < 0.3).astype(float)
    effects = np.concatenate([rng.normal(0, 0.2, (6, genes)), rng.normal(0, 0.6, (4, genes))])
    logs = (np.concatenate([np.stack(fields, 1), kinds], 1) @ effects + rng.normal(-0.5, 1, genes)).astype(np.float32)
    theta, parts = np.exp(rng.normal(1, 0.5, genes)), []
    for rows in np.array_split(np.arange(spots), max(1, spots // 10_000)):
        depth = np.exp(rng.normal(0, 0.3, (len(rows), 1)))
        mean = depth * np.exp(logs[rows]) * rng.gamma(theta, 1 / theta, (len(rows), genes))
        counts = rng.poisson(mean).astype(np.float32)
        counts[counts.sum(1) == 0, 0] = 1
        parts.append(sparse.csr_matrix(counts))
    return points, sparse.vstack(parts).tocsr(), logs


def run_steps(spots: int, genes: int, sizes: list[int], seeds: list[int], beta: float | None) -> None:
    """Fits whose epochs take some or all of the spots: how close to the truth they are at spots held out."""
    for seed in seeds:
        points, counts, logs = drawn(spots, genes, seed)
        order = np.random.default_rng(seed).permutation(spots)
        held, train = np.sort(order[:5000]), np.sort(order[5000:])
        data = Spots.of(counts, points)
        none, size = np.zeros(len(held), np.int64), data.totals[held] / np.median(data.totals[train])
        dense, true = counts[held].toarray(), logs[held]
        for most in sizes:
            spavae_settings.MOST = most
            start = time.process_time()
            fitted = spavae.fit(data, SETTINGS.but(beta=beta), train_on=train, seed=seed)
            seconds = time.process_time() - start
            own = fitted.model.embed(data.only(held)).embedding
            there = predict(fitted.model, points[held], none).latent.embedding
            rates = {"": own, ", by position": there}
            rates = {name: np.concatenate(list(fitted.model.rates(each, none))) for name, each in rates.items()}
            # what is left of them: 0 where all spots have the same value
            spread = float(own[:, SETTINGS.latent :].var(0).mean())
            values = {
                "variance of Gaussian values": spread,
                "steps": fitted.plan.epochs * fitted.plan.steps(len(train)),
                "cpu_s": seconds,
            }
            for name, each in rates.items():
                values[f"loss per spot{name}"] = agreement(each, dense, size)[0]
                values[f"correlation with the truth{name}"] = np.mean(
                    [np.corrcoef(np.log(each[:, gene]), true[:, gene])[0, 1] for gene in range(genes)]
                )
            about = f"{spots:,} spots x {genes:,} genes, drawn fields and types"
            held_at = "" if beta is None else f", beta {beta:g}"
            record("spavae-steps", about, f"at most {most:,} spots an epoch{held_at}", values, seed=seed)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {
        "stopping": run_stopping,
        "held-out": run_held_out,
        "joint": run_joint,
        "genes": run_genes,
        "speed": run_speed,
    }
    parser.add_argument("what", choices=["domains", *runs, "large", "steps", "authors"])
    parser.add_argument(
        "given", nargs="*", help="FOLDER SECTION ...; of large: SPOTS GENES; of steps: SPOTS GENES MOST ..."
    )
    parser.add_argument("--ways", nargs="+", choices=["held", "streamed"], default=["held", "streamed"])
    parser.add_argument("--file", type=Path, help="where to keep the drawn counts of large, and where they may be")
    parser.add_argument("--beta", type=float, help="a fixed beta; of steps")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of steps")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=[], help="rows of domains; by default all")
    parser.add_argument("--code", type=Path, help="folder of the authors' code; of authors")
    parser.add_argument("--epochs", type=int, default=0, help="most epochs of a whole fit of theirs; of authors")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "large":
        run_large(*(int(each) for each in (given.given or ["100000", "1000"])), given.ways, given.file)
        return
    if given.what == "steps":
        spots, genes, *sizes = (int(each) for each in given.given)
        run_steps(spots, genes, sizes, given.seeds, given.beta)
        return
    folder = Path(given.given[0])
    sections = given.given[1:] or sorted(path.stem for path in folder.glob("*.h5ad"))
    if given.what == "authors":
        run_authors(folder, *given.given[1:], given.code, given.epochs)
        return
    if given.what == "domains":
        run_domains(folder, sections, given.rows)
        return
    runs[given.what](folder, sections)


if __name__ == "__main__":
    main()

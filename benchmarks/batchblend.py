"""BatchBlend next to other methods and controls; what is measured goes to results/batchblend-*.csv.

    python benchmarks/batchblend.py simulations [METHOD ...]  # scores on simulated data, five seeds
    python benchmarks/batchblend.py grid [METHOD ...]  # every strength, share and mix; needs liger; truth is what
                                                       # the true amounts score
    python benchmarks/batchblend.py metagenes 15       # the thesis preset with so many metagenes
    python benchmarks/batchblend.py recovery           # batch effect against the truth, coverage of the errors
    python benchmarks/batchblend.py robustness         # harder simulations, and plain factorisation of them
    python benchmarks/batchblend.py refusal DATA.h5ad [MODE ...] # a section split in pseudo-batches, with and
                                                       # without an effect: uncorrected, default, leave, remove
    python benchmarks/batchblend.py sections DATA.h5ad # several sections, scores and NMI by section
    python benchmarks/batchblend.py speed [PYTHON]     # CPU time of a fit, and of popari's package if PYTHON has it
    python benchmarks/batchblend.py scale              # time and memory from 1,000 to 1,000,000 cells

DATA.h5ad is a dataset that `preprocess` wrote. Seeds are 50 to 54, on which nothing was tuned; `--seeds 60-79` takes
others.
"""

import environment  # noqa: F401

# isort: split
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import record
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from unbatch import methods
from unbatch.contract import Run
from unbatch.data.cells import Cells, principal_components
from unbatch.data.graph import neighbours, widened
from unbatch.data.io import write_h5ad
from unbatch.data.simulation.common import draw_expression
from unbatch.data.simulation.thesis import Parameters, draw_truth
from unbatch.metrics import integration, recovery
from unbatch.models import batchblend

SEEDS = range(50, 55)
METHODS = ("none", "pca", "combat", "harmony", "scanorama", "plain", "popari", "batchblend")

SETTINGS = {
    "thesis preset": {},
    "other mix": {"mix": "shifted"},
    "no batch effect": {"sigma_beta": 0.0},
    "factors 0.3": {"sigma_beta": 0.0, "sigma_gene": 0.3},
    "factors 0.3, other mix": {"sigma_beta": 0.0, "sigma_gene": 0.3, "mix": "shifted"},
    "factors 0.3 and offset": {"sigma_gene": 0.3},
    "factors 0.3 and offset, other mix": {"sigma_gene": 0.3, "mix": "shifted"},
    "factors 0.6": {"sigma_beta": 0.0, "sigma_gene": 0.6},
    "factors 0.6, other mix": {"sigma_beta": 0.0, "sigma_gene": 0.6, "mix": "shifted"},
    "factors 0.6 and offset": {"sigma_gene": 0.6},
    "factors 0.6 and offset, other mix": {"sigma_gene": 0.6, "mix": "shifted"},
}
GRID = {
    f"sigma {sigma:g}, share {share:g}, {mix}": {"sigma_beta": sigma, "share_beta": share, "mix": mix}
    for mix in ("same", "shifted")
    for share in (0.25, 0.5, 0.75, 1.0)
    for sigma in (0.0, 0.3, 1.0, 2.0, 3.0, 5.0)
    # without an effect the share says nothing
    if sigma or share == 0.25
}
HARDER = {
    "noise x 3": {"sigma_y": 3.0},
    "size cv 0.1": {"size_scale": 0.11},
    "size cv 0.03": {"size_scale": 0.0099},
    "Poisson, 2,000 counts": {"noise": "nb", "dispersion": 0.0, "depth": 2000.0},
    "four batches": {"batches": 4},
}


def simulated(seed: int, **settings: Any) -> tuple[Cells, object]:
    rng = np.random.default_rng(seed)
    truth = draw_truth(Parameters(**settings), rng)
    counts = sparse.csr_matrix(np.concatenate([np.asarray(_dense(block)) for block in draw_expression(truth, rng)]))
    return as_cells(counts, truth.batch, truth.cell_type, truth.position), truth


def _dense(block: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return block.toarray() if sparse.issparse(block) else block


def as_cells(counts: sparse.spmatrix, batch: np.ndarray, label: np.ndarray, coordinates: np.ndarray) -> Cells:
    total = np.asarray(counts.sum(1)).ravel()
    size = np.maximum(total / total.mean(), 1e-6)
    normalised = sparse.csr_matrix(counts.multiply(1 / size[:, None])).log1p().astype(np.float32)
    genes = [f"gene{i}" for i in range(counts.shape[1])]
    return Cells(
        normalised,
        sparse.csr_matrix(counts),
        genes,
        np.asarray(batch, np.int64),
        label=np.asarray(label, np.int64),
        coordinates=np.asarray(coordinates, float),
    )


def embed(
    method: str, cells: Cells, seed: int, metagenes: int | None = None, **changes: Any
) -> tuple[np.ndarray, batchblend.Fitted | None]:
    """Embedding and, for our own methods, the fit."""
    if method not in ("plain", "popari", "batchblend"):
        return methods.load(method).fit(cells, run=Run(seed)).embedding, None
    K = metagenes or batchblend.choose_metagenes(cells.counts, cells.batch, seed)
    graph = neighbours(cells.coordinates, cells.section)
    if method == "popari":
        settings = batchblend.Settings.popari(K)
    elif method == "plain":
        settings = batchblend.Settings(K, offset="none", factors=False, sparsity=0.0, pooling=0.0)
    else:
        # as fit-batchblend does
        spots = set(graph.kinds.values()) == {"visium"}
        settings = batchblend.Settings(K, spatial="linear", **batchblend.OF_SPOTS if spots else batchblend.OF_CELLS)
    settings = replace(settings, **changes)
    edges = wide = None
    if settings.spatial != "none":
        edges = (graph.source, graph.target)
        if settings.spatial == "linear":
            wider = widened(graph, len(cells.batch))
            wide = (wider.source, wider.target)
    fitted = batchblend.fit(cells.counts, cells.batch, settings, graph=edges, wide_graph=wide, seed=seed)
    return batchblend.shares(fitted.amounts), fitted


def score(
    embedding: np.ndarray, cells: Cells, reference: np.ndarray, chosen: np.ndarray | slice = slice(None)
) -> dict[str, float]:
    """Compute the thesis's ten scores and their means."""
    z = np.ascontiguousarray(embedding[chosen], dtype=np.float32)
    z = z[:, np.ptp(z, axis=0) > 0]
    label = np.unique(cells.label[chosen], return_inverse=True)[1]
    scene = integration.Scene(z, reference, integration.nearest_neighbours(z), cells.batch[chosen], label)
    wanted = [m for m in integration.metrics("silhouette_batch") if m.kind != "other"]
    found, _ = integration.evaluate(scene, wanted)
    for kind in ("batch", "bio"):
        found[kind] = integration.mean(found, [m.name for m in wanted if m.kind == kind])[0]
    found["total"] = integration.total(found["batch"], found["bio"])
    return found


def simulations(
    benchmark: str, settings: dict[str, dict], methods: tuple[str, ...], seeds: range, **changes: Any
) -> dict[str, dict[str, list[float]]]:
    """Fit and score; totals by method and data set."""
    import jax

    totals: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    said = "".join(f", {name} {value}" for name, value in changes.items())
    for name, options in settings.items():
        for seed in seeds:
            cells, truth = simulated(seed, **options)
            reference = principal_components(cells.X, 50).embedding
            for method in methods:
                start = time.process_time()
                if method == "truth":
                    embedding, fitted = batchblend.shares(np.asarray(truth.amounts)), None
                else:
                    embedding, fitted = embed(method, cells, seed, **changes)
                values = {"cpu_s": time.process_time() - start} | score(embedding, cells, reference)
                if fitted:
                    values["metagenes"] = fitted.model.metagenes.shape[0]
                totals[method][name].append(values["total"])
                record(benchmark, name, method + said, values, seed=seed)
        # what XLA compiled for twenty settings is more maps of memory than Linux lets a process have
        jax.clear_caches()
    return totals


def grid(methods: tuple[str, ...], seeds: range) -> None:
    """Score in all settings, and what they have in common."""
    totals = simulations("batchblend-grid", GRID, methods, seeds)
    means = {method: np.array([np.mean(of_seeds) for of_seeds in each.values()]) for method, each in totals.items()}
    for method, each in means.items():
        values = {"lowest total": each.min(), "highest total": each.max(), "mean total": each.mean()}
        if "batchblend" in means and method not in ("batchblend", "truth"):
            values["least lead of batchblend"] = (means["batchblend"] - each).min()
        record("batchblend-grid", "all settings", method, values, seed=span(seeds))


def span(seeds: range) -> str:
    """Write a range of seeds as the column of the results has it."""
    return f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def recovered(seeds: range) -> None:
    for name, options in SETTINGS.items():
        if not (options.get("sigma_beta", 2.0) or options.get("sigma_gene")):
            continue
        errors, differences = [], []
        for seed in seeds:
            cells, truth = simulated(seed, **options)
            _, fitted = embed("batchblend", cells, seed, spatial="none")
            model, row = fitted.model, {}
            true = truth.gene_factors * (truth.beta @ truth.metagenes)
            if options.get("sigma_beta", 2.0):
                row |= recovery.offset_recovery(model.offset, true)
                differences.append(np.linalg.norm(true[0] - true[1]))
                errors.append(row["relative_error"] * differences[-1])
                row["offset covered"] = recovery.coverage(model.offset, model.offset_error, true)
            if options.get("sigma_gene"):
                logs = np.log(truth.gene_factors)
                error = np.log(model.factors) - (logs - logs.mean(0))
                error -= np.median(error, axis=1, keepdims=True)
                row["log factors r"] = np.corrcoef(np.log(model.factors).ravel(), (logs - logs.mean(0)).ravel())[0, 1]
                row["log factors rmse"] = np.sqrt((error**2).mean())
                row["factors covered"] = recovery.coverage(error, model.log_error, np.zeros_like(error))
            pairs = recovery.match_metagenes(model.metagenes.T, truth.metagenes.T)
            row["metagenes r"] = float(np.mean(pairs[2]))
            record("batchblend-recovery", name, "batchblend, no space", row, seed=seed)
        if errors:
            # a data set whose batches happen to have much the same offset decides the mean of the relative errors
            pooled = np.linalg.norm(errors) / np.linalg.norm(differences)
            values = {"pooled relative error": pooled}
            record("batchblend-recovery", name, "batchblend, no space", values, seed=span(seeds))


def neighbourhoods(embedding: np.ndarray, cells: Cells) -> tuple[float, float]:
    """Mixing (two batches, 30 neighbours) and share of the label among 15 neighbours."""
    near = integration.nearest_neighbours(embedding, 31).indices[:, 1:]
    share = (cells.batch[near] == 0).mean(1)
    mixing = (1 / (share**2 + (1 - share) ** 2) - 1).mean()
    return float(mixing), float((cells.label[near[:, :15]] == cells.label[:, None]).mean())


REFUSAL = {
    "uncorrected": {"offset": "none", "factors": False},
    "default": {},
    "leave": {"strength": 0.0},
    "remove": {"strength": 1.0},
}


def refusal(path: Path, modes: tuple[str, ...], seeds: range, cells_per_section: int = 1200) -> None:
    found: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for section, data in sections_of(path).items():
        if data.label.max() < 6:
            continue  # only sections with all seven layers can be split below the third
        for seed in seeds:
            rng = np.random.default_rng(seed)
            chosen = rng.permutation(len(data.batch))[:cells_per_section]
            label, counts = data.label[chosen], data.counts[chosen].astype(np.float64)
            deep = (label >= 3).astype(int)
            splits = {
                "random": rng.integers(0, 2, len(chosen)),
                "85/15 by layer": np.where(rng.random(len(chosen)) < 0.85, deep, 1 - deep),
                "disjoint layers": deep,
            }
            factors = np.exp(0.3 * rng.normal(size=(2, counts.shape[1])))
            for split, batch in splits.items():
                for effect, planted in (
                    ("no factors", counts),
                    ("factors 0.3", counts.multiply(factors[batch]).tocsr()),
                ):
                    cells = as_cells(planted, batch, label, data.coordinates[chosen])
                    for mode in modes:
                        embedding, _ = embed("batchblend", cells, seed, metagenes=15, spatial="none", **REFUSAL[mode])
                        mixing, purity = neighbourhoods(embedding, cells)
                        values = {"mixing": mixing, "purity": purity}
                        found[f"{split}, {effect}", mode, seed].append(values)
                        record("batchblend-refusal", f"{section}, {split}, {effect}", mode, values, seed=seed)
    for (data, mode, seed), each in found.items():
        means = {name: np.mean([values[name] for values in each]) for name in each[0]}
        record("batchblend-refusal", f"all sections, {data}", mode, means, seed=seed)


def sections_of(path: Path) -> dict[str, Cells]:
    """Labelled cells of each batch; labels in alphabetical order, which is that of the layers."""
    import anndata

    data = anndata.read_h5ad(path)
    data = data[data.obs["label"].notna() & (data.obs["label"].astype(str) != "NA"), data.var["highly_variable"]].copy()
    found = {}
    for name in data.obs["batch"].cat.categories:
        part = data[data.obs["batch"] == name]
        label = pd.Categorical(part.obs["label"].astype(str)).codes
        found[str(name)] = as_cells(
            sparse.csr_matrix(part.layers["counts"]), np.zeros(part.n_obs, int), label, part.obsm["spatial"]
        )
    return found


def sections(path: Path, cells_per_section: int = 1200) -> None:
    import anndata

    data = anndata.read_h5ad(path)
    data = data[:, data.var["highly_variable"]].copy()
    label = pd.Categorical(data.obs["label"].astype(str).where(data.obs["label"].astype(str) != "NA"))
    cells = Cells(
        sparse.csr_matrix(data.X),
        sparse.csr_matrix(data.layers["counts"]),
        list(data.var_names),
        data.obs["batch"].cat.codes.to_numpy().astype(np.int64),
        label=label.codes.astype(np.int64),
        coordinates=data.obsm["spatial"],
    )
    rng = np.random.default_rng(0)
    chosen = []
    for batch in range(cells.n_batches):
        mine = np.flatnonzero((cells.batch == batch) & (cells.label >= 0))
        chosen.append(np.sort(rng.permutation(mine)[:cells_per_section]))
    chosen = np.concatenate(chosen)
    reference = principal_components(cells.X[chosen], 50).embedding
    variants = {
        **{m: (m, {}) for m in ("none", "pca", "combat", "harmony", "scanorama")},
        "plain factorisation, noise-weighted": ("batchblend", {"offset": "none", "factors": False, "spatial": "none"}),
        "batchblend, no space": ("batchblend", {"spatial": "none"}),
        "batchblend": ("batchblend", {}),
        "batchblend, strength 0": ("batchblend", {"strength": 0.0}),
    }
    data_name = f"{cells.n_batches} sections, {len(cells.batch):,} spots, {cells_per_section:,} of each scored"
    for name, (method, changes) in variants.items():
        start = time.process_time()
        embedding, fitted = embed(method, cells, 20, **changes)
        values = {"cpu_s": time.process_time() - start} | score(embedding, cells, reference, chosen)
        if fitted:
            values["metagenes"] = fitted.model.metagenes.shape[0]
        record("batchblend-sections", data_name, name, values, seed=20)
    for section, part in sections_of(path).items():
        for name, changes in (("batchblend, no space, K 15", {"spatial": "none"}), ("batchblend, K 15", {})):
            embedding, _ = embed("batchblend", part, 20, metagenes=15, **changes)
            record("batchblend-sections", section, name, {"nmi": clustered(embedding, part.label)}, seed=20)
        values = {"nmi": clustered(principal_components(part.X, 30).embedding, part.label)}
        record("batchblend-sections", section, "pca", values, seed=20)


def clustered(embedding: np.ndarray, label: np.ndarray, seeds: int = 5) -> float:
    """NMI of k-means clusters with labels, mean over seeds."""
    k = len(np.unique(label))
    fits = [KMeans(k, n_init=10, random_state=seed).fit_predict(embedding) for seed in range(seeds)]
    return float(np.mean([normalized_mutual_info_score(label, fit) for fit in fits]))


FITS = {
    "batchblend": ("batchblend", {}),
    "batchblend, no space": ("batchblend", {"spatial": "none"}),
    "popari mode": ("popari", {}),
}
PUBLISHED = {"popari, 50 iterations, svd": (50, "svd"), "popari, 200 iterations, leiden": (200, "leiden")}


def speed(python: str | None, seeds: range, metagenes: int = 11, repeats: int = 5) -> None:
    """CPU seconds of fits of the thesis preset, in turns, one thread; the first of each does not count."""
    torch.set_num_threads(1)
    data = f"thesis preset, {metagenes} metagenes"
    for seed in seeds:
        cells, _ = simulated(seed)
        reference = principal_components(cells.X, 50).embedding
        spent: dict[str, list[float]] = {name: [] for name in FITS}
        scores: dict[str, dict[str, float]] = {}
        for _ in range(repeats + 1):
            for name, (method, changes) in FITS.items():
                start = time.process_time()
                embedding, _ = embed(method, cells, seed, metagenes=metagenes, **changes)
                spent[name].append(time.process_time() - start)
                if name not in scores:
                    scores[name] = score(embedding, cells, reference)
        for name, values in scores.items():
            values["cpu_s"] = float(np.median(spent[name][1:]))
            record("batchblend-speed", data, name, values, seed=seed)
        for name, embedding, cpu in published(python, cells, metagenes, seed) if python else ():
            for form, values in ((", amounts", embedding), (", shares", batchblend.shares(embedding))):
                record("batchblend-speed", data, name + form, score(values, cells, reference), seed=seed)
            record("batchblend-speed", data, name, {"cpu_s": cpu}, seed=seed)
            for ours, values in scores.items():
                record("batchblend-speed", data, ours, {f"cpu_s of {name} over it": cpu / values["cpu_s"]}, seed=seed)


def published(python: str, cells: Cells, metagenes: int, seed: int) -> Iterator[tuple[str, np.ndarray, float]]:
    """Fit popari's own package; embedding and CPU seconds."""
    import anndata
    from peers import ENVIRONMENT

    program = Path(__file__).with_name("published_popari.py")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data.h5ad"), Path(folder, "out.npz")
        obs = pd.DataFrame(
            {"batch": pd.Categorical(cells.batch.astype(str))}, index=np.arange(len(cells.batch)).astype(str)
        )
        # its environment can have an older anndata
        write_h5ad(anndata.AnnData(cells.counts, obs=obs, obsm={"spatial": cells.coordinates}), data)
        for name, (iterations, start) in PUBLISHED.items():
            wanted = [python, program, data, out, metagenes, seed, iterations, start]
            subprocess.run(list(map(str, wanted)), check=True, env=ENVIRONMENT)
            found = np.load(out)
            yield name, found["embedding"], float(found["cpu_s"])


def scale(sizes: tuple[int, ...], device: str = "cpu") -> None:
    """One process per size, as memory is a process's highest."""
    threads = torch.get_num_threads()
    method = (
        f"batchblend, 15 metagenes, no space, {f'{threads} thread{"s" * (threads > 1)}' if device == 'cpu' else device}"
    )
    spent = []
    for size in sizes:
        command = [sys.executable, __file__, "one-size", str(size), device, "--threads", str(threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        values = json.loads(done.stdout.splitlines()[-1])
        spent.append(values["cpu_s"])
        record("batchblend-scale", f"{size:,} cells x 300 genes, 4 batches", method, values)
    if len(sizes) > 1:
        slope = np.polyfit(np.log(sizes), np.log(spent), 1)[0]
        data = f"{sizes[0]:,} to {sizes[-1]:,} cells x 300 genes, 4 batches"
        record("batchblend-scale", data, method, {"slope of log cpu_s": slope})


def one_size(cells: int, device: str) -> None:
    rng = np.random.default_rng(20)
    truth = draw_truth(Parameters(batches=4, cells=cells // 4, genes=300, noise="nb", depth=1000.0), rng)
    counts = sparse.vstack([sparse.csr_matrix(block) for block in draw_expression(truth, rng, 2)], format="csr")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start, cpu = time.perf_counter(), time.process_time()
    batchblend.fit(counts, truth.batch, batchblend.Settings(15), seed=0, device=device)
    values = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    values |= {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "peak before the fit, gb": before}
    print(json.dumps(values), flush=True)


def as_range(text: str) -> range:
    """Seeds from the first to the last."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def as_sizes(text: str) -> tuple[int, ...]:
    """Numbers, separated by commas."""
    return tuple(map(int, text.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=as_range, default=SEEDS, help="the first and the last, as in 50-54")
    parser.add_argument("--sizes", type=as_sizes, default=(1_000, 10_000, 100_000, 1_000_000), help="cells of `scale`")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rest, seeds = given.arguments, given.seeds
    if given.what == "simulations":
        simulations("batchblend-simulations", SETTINGS, tuple(rest) or METHODS, seeds)
    elif given.what == "grid":
        # torch must have been at work before pyliger is imported, whose h5sparse can't be looked at
        grid(tuple(rest) or ("combat", "harmony", "scanorama", "popari", "batchblend", "liger"), seeds)
    elif given.what == "metagenes":
        changes = {"metagenes": int(rest[0])}
        simulations("batchblend-simulations", {"thesis preset": {}}, ("batchblend",), seeds, **changes)
    elif given.what == "recovery":
        recovered(seeds)
    elif given.what == "robustness":
        simulations("batchblend-robustness", HARDER, tuple(rest) or ("plain", "batchblend"), seeds)
    elif given.what == "refusal":
        if unknown := set(rest[1:]) - set(REFUSAL):
            parser.error(f"no mode {', '.join(sorted(unknown))}; there are: {', '.join(REFUSAL)}")
        refusal(Path(rest[0]), tuple(rest[1:]) or tuple(REFUSAL), seeds)
    elif given.what == "sections":
        sections(Path(rest[0]))
    elif given.what == "speed":
        speed(rest[0] if rest else None, seeds)
    elif given.what == "scale":
        scale(given.sizes, rest[0] if rest else "cpu")
    elif given.what == "one-size":
        one_size(int(rest[0]), rest[1])
    else:
        parser.error(f"{given.what}: not one of the benchmarks above")


if __name__ == "__main__":
    main()

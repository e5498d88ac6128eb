"""How often the 95% interval of the difference of two equal methods holds 0, for scores and for the batch probe.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py        about 4 CPU minutes
    python benchmarks/intervals.py --draws 3                to try it

Cells are drawn anew each time: 4 labels in 2 batches, 10 dimensions. Two embeddings of the same cells are equal in
expectation: two shuffles of the uncorrected one, or two draws of noise on the one without a batch effect. k-means is
scikit-learn's with one start, as that of scib-metrics compiles itself for every embedding; all else is as in `score`.
"""

import environment  # noqa: F401

# isort: split
import argparse
import warnings
from collections import defaultdict

import numpy as np
from record import record
from sklearn.cluster import KMeans

from unbatch.metrics import evidence, integration, jackknife, uncertainty
from unbatch.metrics.uncertainty import Sample

LABELS, BATCHES, DIMENSIONS = 4, 2, 10
WANTED = [metric for metric in integration.metrics() if metric.kind in ("batch", "bio")]
NAMES = {kind: [metric.name for metric in WANTED if metric.kind == kind] for kind in ("batch", "bio")}


def scored(embedding: np.ndarray, reference: np.ndarray, batch: np.ndarray, label: np.ndarray, seed: int) -> dict:
    """Means of an embedding as samples over cells."""
    embedding = np.ascontiguousarray(embedding, dtype=np.float32)
    group = uncertainty.deal(batch * LABELS + label, seed)
    scene = integration.Scene(embedding, reference, integration.nearest_neighbours(embedding), batch, label, group)
    scene.__dict__["assigned"] = KMeans(LABELS, n_init=1, random_state=0).fit(embedding).labels_.astype(np.int64)
    found, _ = integration.evaluate(scene, WANTED)
    found = {name: np.array([value, *scene.left_out[name]]) for name, value in found.items()}
    means = {kind: np.mean([found[name] for name in names], axis=0) for kind, names in NAMES.items()}
    means["total"] = sum(weight * means[kind] for kind, weight in integration.WEIGHTS.items())
    variance = jackknife.clustering_variance(embedding, label) / len(NAMES["bio"]) ** 2
    clustering = {"batch": 0.0, "bio": variance, "total": integration.WEIGHTS["bio"] ** 2 * variance}
    return {name: Sample(values[:1], values[None, 1:], clustering[name]) for name, values in means.items()}


def coverage(shuffled: bool, n: int, draws: int) -> None:
    """Record the share of draws in which the interval of the difference holds 0, and its error over the draws' sd."""
    held, gains, widths = defaultdict(list), defaultdict(list), defaultdict(list)
    for draw in range(draws):
        rng = np.random.default_rng(1000 + draw)
        label, batch = np.arange(n) % LABELS, (np.arange(n) // LABELS) % BATCHES
        cells = rng.normal(0, 1, (n, DIMENSIONS)) + 1.2 * rng.normal(0, 1, (LABELS, DIMENSIONS))[label]
        raw = cells + rng.normal(0, 0.6, (BATCHES, DIMENSIONS))[batch]
        pair = [rng.permutation(raw) if shuffled else cells + 0.7 * rng.normal(0, 1, cells.shape) for _ in range(2)]
        one, other = (scored(each, raw, batch, label, draw) for each in pair)
        for name in one:
            gain = uncertainty.difference(one[name], other[name], of_methods=False)
            held[name].append(not (gain.above or gain.below))
            gains[name].append(gain.mean)
            widths[name].append((gain.high - gain.low) / 4)
    data = f"{'two shuffles' if shuffled else 'two draws of noise'}, {n:,} cells, {draws} draws"
    for name, each in held.items():
        ratio = np.sqrt(np.mean(np.square(widths[name]))) / np.std(gains[name])
        record(
            "intervals",
            data,
            f"mean of {name}" if name != "total" else name,
            {"covered": np.mean(each), "error over sd": ratio},
        )


def probes(n: int, dimensions: int, shift: float, draws: int) -> None:
    """Do the same for the batch probe, with embeddings of noise of which one dimension moves with the batch."""
    held = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        batch, fold = rng.permutation(np.arange(n) % 2), rng.permutation(np.arange(n) % 5)
        group, pair = uncertainty.deal(batch, draw), []
        for _ in range(2):
            embedding = rng.normal(size=(n, dimensions))
            embedding[:, 0] += shift * batch
            told = evidence.logistic_predictions(embedding, batch, fold)
            *left_out, value = evidence.accuracies(told, batch, group, uncertainty.GROUPS)
            pair.append(Sample(np.array([value]), np.array([left_out])))
        gain = uncertainty.difference(*pair, of_methods=False)
        held.append(not (gain.above or gain.below))
    data = f"noise, {n:,} cells, shift {shift:g}, {draws} draws"
    record("intervals", data, "batch probe", {"covered": np.mean(held)})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, help="of each, in place of 100 to 300")
    given = parser.parse_args()
    for shuffled, n, draws in ((True, 200, 300), (False, 400, 300), (False, 1000, 100)):
        coverage(shuffled, n, given.draws or draws)
    for n, shift, draws in ((200, 0, 250), (200, 0.7, 250), (1000, 0, 120), (1000, 0.4, 120)):
        probes(n, 30, shift, given.draws or draws)

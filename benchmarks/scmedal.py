"""scMEDAL next to principal components, with the batch erased linearly and without; results/scmedal-*.csv.

    python benchmarks/scmedal.py sections DATA.h5ad [METHOD ...] # batch and label in embeddings, held-out cells
    python benchmarks/scmedal.py counterfactuals [SEED ...] # error and coverage on two simulations
    python benchmarks/scmedal.py mixed DATA.h5ad           # what random effects add to the one-hot batch
    python benchmarks/scmedal.py speed DATA.h5ad           # CPU time per epoch and to a validation error, memory
    python benchmarks/scmedal.py large [CELLS GENES BATCHES] # the same per epoch of drawn sparse counts

DATA.h5ad is a dataset that `preprocess` wrote of the four DLPFC sections. ``--folds`` names the folds of obs/split to
test on; ``--keep FOLDER`` leaves fits and scores there, which the next run at the same commit reads.
"""

import environment  # noqa: F401

# isort: split
import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchblend import as_cells
from record import commit, record
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unbatch.data.cells import principal_components
from unbatch.data.simulation import donors
from unbatch.data.simulation.common import draw_expression
from unbatch.metrics import counterfactual, evidence, jackknife, prediction
from unbatch.models import scmedal
from unbatch.models.scmedal import Settings
from unbatch.models.scmedal.parts import Parts, of_fold
from unbatch.nn.minibatches import Resident

FOLDS = (0, 1, 2, 3, 4)
SEEDS = (5, 6, 7)
LATENT = 50


@dataclass(frozen=True)
class Sections:
    """Labelled cells: expression (n x G, CSR), codes of batch, label and fold, and whether tuning has scored them."""

    X: sparse.csr_matrix
    batch: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    tuned: np.ndarray


@dataclass(frozen=True)
class Fit:
    """An embedding of all cells; by epoch: squared error on validation cells (scaled units) and CPU seconds so far."""

    embedding: np.ndarray
    error: np.ndarray
    cpu: np.ndarray
    best: int
    sd: np.ndarray
    profile: float

    @property
    def reached(self) -> float:
        """Validation error of the epoch that was kept."""
        return float(self.error[self.best - 1])


def read(path: Path) -> Sections:
    import anndata

    data = anndata.read_h5ad(path)
    data = data[data.obs["label"].notna(), data.var["highly_variable"]].copy()
    batch = data.obs["batch"].cat.remove_unused_categories().cat.codes.to_numpy().astype(np.int64)
    label = data.obs["label"].cat.remove_unused_categories().cat.codes.to_numpy().astype(np.int64)
    # the weights of FE's drift and RE's head noise were chosen on the first two folds of another division
    others = StratifiedKFold(5, shuffle=True, random_state=42).split(batch, batch * 10 + label)
    tuned = np.zeros(len(batch), dtype=bool)
    for _, (_, test) in zip(range(2), others, strict=False):
        tuned[test] = True
    return Sections(sparse.csr_matrix(data.X), batch, label, data.obs["split"].to_numpy().astype(np.int64), tuned)


# ---------------------------------------------------------------------------------------------------------- embeddings


def fitted(
    data: Sections,
    fold: int,
    model: str,
    preset: str,
    keep: Path | None,
    budget: float | None = None,
    epochs: int | None = None,
) -> Fit:
    """Fit, or read what was fitted; `budget` in CPU seconds sets the number of epochs, or `epochs` does."""
    place = keep / f"{fold}.{model}.{preset}.npz" if keep else None
    if place and place.exists():
        with np.load(place) as file:
            return Fit(**{name: file[name] if file[name].ndim else file[name].item() for name in file.files})
    parts, source = of_fold(data.fold, fold), Resident(data.X)
    settings = Settings(model=model, preset=preset, latent=LATENT, epochs=epochs, patience=epochs)
    if budget and not epochs:
        one, _ = timed(source, data.batch, parts, Settings(model=model, preset=preset, latent=LATENT, epochs=1))
        settings = Settings(model=model, preset=preset, latent=LATENT, epochs=max(1, round(budget / one[-1])))
    cpu, found = timed(source, data.batch, parts, settings)
    moments = scmedal.moments(source, parts.train)
    unit = moments.unexplained if preset == "recommended" else 1.0
    about_means = data.X[parts.validation].toarray() - moments.low - moments.mean.numpy() * (moments.high - moments.low)
    deviations = [
        np.median(each.sd().detach().numpy(), 1) for each in getattr(found.model.network.coder, "effects", [])
    ]
    fit = Fit(
        found.model.embed(source, data.batch),
        np.array(found.history["validation_reconstruction"]) * unit,
        cpu,
        found.best_epoch,
        np.array(deviations),
        float((about_means**2).mean() / (moments.high - moments.low) ** 2),
    )
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **vars(fit))
    return fit


def timed(source: Resident, batch: np.ndarray, parts: Parts, settings: Settings) -> tuple[np.ndarray, scmedal.Fitted]:
    """Fit, and note the CPU seconds at the end of each epoch."""
    start, cpu = time.process_time(), []
    found = scmedal.fit(source, batch, parts, settings, seed=0, tell=lambda _: cpu.append(time.process_time() - start))
    return np.array(cpu), found


def components(data: Sections, parts: Parts) -> tuple[np.ndarray, float, float]:
    """Principal components of the training cells, for all cells; what they and means miss of the validation cells."""
    weights = principal_components(data.X[parts.train], LATENT).weights
    embedding = np.asarray(data.X @ weights["components"].T) - weights["mean"] @ weights["components"].T
    about_means = data.X[parts.validation].toarray() - weights["mean"]
    missed = about_means - embedding[parts.validation] @ weights["components"]
    of = scmedal.moments(Resident(data.X), parts.train)
    errors = (float((each**2).mean() / (of.high - of.low) ** 2) for each in (missed, about_means))
    return embedding.astype(np.float32), *errors


def erased(embedding: np.ndarray, batch: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Remove all linear information on the batch with the smallest change (LEACE, Belrose et al. 2023, theorem 4.3)."""
    mean = embedding[train].mean(0, dtype=np.float64)
    centred = embedding[train] - mean
    codes = prediction.one_hot(batch[train]).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(train))
    spread = np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    whiten, colour = (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
    with_batch = whiten @ centred.T @ (codes - codes.mean(0)) / len(train)
    # codes of K batches have K - 1 directions
    directions = np.linalg.svd(with_batch, full_matrices=False)[0][:, : codes.shape[1] - 1]
    return (embedding - (embedding - mean) @ (colour @ directions @ directions.T @ whiten).T).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- scores


def scores(data: Sections, embedding: np.ndarray, train: np.ndarray, tests: dict[str, np.ndarray]) -> Iterator[dict]:
    """Score by cells that classifiers were not fitted to: a row for each set of `tests`."""

    def logistic(C: float) -> object:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))

    network = make_pipeline(
        StandardScaler(), MLPClassifier((64,), max_iter=25, learning_rate_init=2e-3, batch_size=256, random_state=0)
    )
    tell_batch = {
        "batch logistic": logistic(1.0).fit(embedding[train], data.batch[train]),
        "batch MLP": network.fit(embedding[train], data.batch[train]),
    }
    near = KNeighborsClassifier(evidence.NEIGHBOURS).fit(embedding[train], data.label[train])
    # pooled, an embedding that tells batches gains by what is peculiar to the labels of each
    within: dict[str, dict[int, Any]] = {"label within": {}, "label 11-NN within": {}}
    for one in np.unique(data.batch):
        mine = train[data.batch[train] == one]
        within["label within"][one] = logistic(0.1).fit(embedding[mine], data.label[mine])
        nearest = KNeighborsClassifier(evidence.NEIGHBOURS)
        within["label 11-NN within"][one] = nearest.fit(embedding[mine], data.label[mine])
    for name, test in tests.items():
        U, batch, label = embedding[test], data.batch[test], data.label[test]
        row: dict[str, Any] = {"cells": name}
        for probe, classifier in tell_batch.items():
            row[probe] = evidence.balanced_accuracy(batch, classifier.predict(U))
        permuted = evidence.permuted_within(batch, label, evidence.PERMUTATIONS, seed=0)
        together = np.zeros(len(U), dtype=np.int64)
        found = jackknife.silhouettes(U, [batch, *permuted.T], together, 1)
        widths = np.array([sums[-1].sum() / cells[-1].sum() for sums, cells in found])
        row["batch ASW"], row["batch ASW, null"] = float(widths[0]), float(widths[1:].mean())
        row["batch ASW within"] = evidence.silhouette_within(U, batch, label, together, 1)[-1]
        for score, classifiers in within.items():
            told = [
                evidence.balanced_accuracy(label[batch == one], classifier.predict(U[batch == one]))
                for one, classifier in classifiers.items()
            ]
            row[score] = float(np.mean(told))
        row["label 11-NN"] = evidence.balanced_accuracy(label, near.predict(U))
        yield row


METHODS = ("PCA", "PCA, batch erased", "FE", "FE, paper preset", "RE")


def sections(path: Path, methods: tuple[str, ...], folds: tuple[int, ...], keep: Path | None) -> None:
    data = read(path)
    for fold in folds:
        for method in methods:
            place = keep / f"{fold}.{method}.json" if keep else None
            if place and place.exists():
                found = json.loads(place.read_text())
            else:
                found = of_sections(data, fold, method, keep)
                if place:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(json.dumps(found))
            for row in found:
                values = {name: value for name, value in row.items() if name not in ("method", "fold", "cells")}
                # what is drawn is the fold of the test cells
                record("scmedal-sections", f"{name_of(data)}, {row['cells']} test spots", method, values, seed=fold)


def name_of(data: Sections) -> str:
    """Name labelled cells by their size."""
    return f"{len(np.unique(data.batch))} sections, {data.X.shape[0]:,} spots x {data.X.shape[1]} genes"


def of_sections(data: Sections, fold: int, method: str, keep: Path | None) -> list[dict]:
    parts = of_fold(data.fold, fold)
    tests = {"all": parts.test, "clean": parts.test[~data.tuned[parts.test]]}
    more: dict[str, float] = {}
    if method.startswith("PCA"):
        embedding, error, profile = components(data, parts)
        if method == "PCA":
            more = {"error": error, "error of means": profile, "error over that of means": error / profile}
        else:
            embedding = erased(embedding, data.batch, parts.train)
    else:
        if method == "FE, paper preset":
            ours = fitted(data, fold, "fe", "recommended", keep)
            fit = fitted(data, fold, "fe", "paper", keep, budget=ours.cpu[-1])
        else:
            fit = fitted(data, fold, method.lower(), "recommended", keep)
        embedding = fit.embedding
        more = {"error": fit.reached, "error of means": fit.profile, "epochs": len(fit.cpu), "best epoch": fit.best}
        more |= {"error over that of means": fit.reached / fit.profile}
        more |= {"cpu_s": float(fit.cpu[-1]), "epoch below means": first(fit.error < fit.profile)}
        if method == "RE":
            # the last layer, whose random effects are those of genes; batches in the order of their names
            more |= {f"sd of batch {one}": float(sd) for one, sd in enumerate(fit.sd[-1])}
    return [{"method": method, "fold": fold, **row, **more} for row in scores(data, embedding, parts.train, tests)]


def first(reached: np.ndarray) -> float:
    """Epoch of the first True, from 1 on; NaN without one."""
    return float(np.argmax(reached) + 1) if reached.any() else float("nan")


# ----------------------------------------------------------------------------------------------------- counterfactuals


@dataclass(frozen=True)
class Known:
    """Cells whose shift to another batch is known: `shift(cells, target)` and whether a model could know it."""

    X: sparse.csr_matrix
    batch: np.ndarray
    label: np.ndarray
    shift: Callable[[np.ndarray, int], np.ndarray]
    comparable: Callable[[np.ndarray, int], np.ndarray]


def of_donors(seed: int, cells_of_each: int = 300) -> Known:
    """Draw counts of 8 donors, as `simulate --preset donors` draws them; shifts are within conditions."""
    rng = np.random.default_rng(seed)
    truth = donors.draw_truth(donors.Parameters(cells=cells_of_each), rng)
    counts = sparse.vstack([sparse.csr_matrix(block) for block in draw_expression(truth, rng)], format="csr")
    cells = as_cells(counts, truth.batch, truth.cell_type, np.zeros((len(truth.batch), 2)))
    total = np.asarray(counts.sum(1)).ravel()
    size = np.maximum(total / total.mean(), 1e-6)
    condition = truth.condition[truth.batch]

    def comparable(chosen: np.ndarray, target: int) -> np.ndarray:
        # donors are nested in conditions: across these, no data tells the donor from the condition
        return (cells.batch[chosen] != target) & (condition[chosen] == truth.condition[target])

    return Known(
        cells.X,
        cells.batch,
        cells.label,
        lambda chosen, target: counterfactual.expected_shift(truth, size, target, chosen),
        comparable,
    )


def of_types(
    seed: int, n: int = 3000, genes: int = 200, batches: int = 3, types: int = 5, common: float = 0.3, own: float = 0.25
) -> Known:
    """Draw Gaussian expression in 3 batches with effects in common and of each type (that of the specification).

    Types have other shares in each batch, and cells differ along three programs.
    """
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(types, 5.0), batches)
    batch = rng.integers(0, batches, n)
    label = np.array([rng.choice(types, p=shares[one]) for one in batch])
    profiles = rng.uniform(1, 2.5, genes) + rng.normal(0, 0.6, (types, genes))
    programs = rng.normal(0, 0.25, (3, genes))
    effect = rng.normal(0, common, (batches, 1, genes)) + rng.normal(0, own, (batches, types, genes))
    mean = profiles[label] + rng.normal(size=(n, 3)) @ programs + effect[batch, label]
    return Known(
        sparse.csr_matrix((mean + rng.normal(0, 0.5, mean.shape)).astype(np.float32)),
        batch,
        label,
        lambda chosen, target: effect[target, label[chosen]] - effect[batch[chosen], label[chosen]],
        lambda chosen, target: batch[chosen] != target,
    )


KNOWN = {
    "effects of types": of_types,
    "donors": of_donors,
    # as many cells of a type and batch as the effects of types have
    "donors, 1,000 cells of each": partial(of_donors, cells_of_each=1000),
    "donors, 1,500 cells of each": partial(of_donors, cells_of_each=1500),
}


def counterfactuals(seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        for name, draw in KNOWN.items():
            known = draw(seed)
            joint = known.batch * 100 + known.label
            fold = np.zeros(len(joint), dtype=np.int64)
            divided = StratifiedKFold(5, shuffle=True, random_state=seed).split(joint, joint)
            for number, (_, test) in enumerate(divided):
                fold[test] = number
            for labelled in (True, False):
                found, by_type = of_projection(known, of_fold(fold, 0), labelled, seed)
                method = f"scMEDAL, {'with' if labelled else 'without'} labels"
                record("scmedal-counterfactuals", name, method, found, seed=seed)
                for one in by_type:
                    data = f"{name}, type {one.pop('type')}"
                    record("scmedal-counterfactuals", data, method, one, seed=seed)


def of_projection(known: Known, parts: Parts, labelled: bool, seed: int) -> tuple[dict[str, float], list[dict]]:
    """Errors of the shifts of test cells, over all of them, and by cell type and gene."""
    start = time.process_time()
    label = known.label if labelled else None
    projection, _ = scmedal.fit_projection(
        Resident(known.X), known.batch, parts, Settings(latent=LATENT), label=label, seed=seed
    )
    spent = time.process_time() - start
    expression, batches = known.X[parts.train].toarray(), known.batch[parts.train]
    found, plain, of_labels, true, covered, types = [], [], [], [], [], []
    means = group_means(expression, batches, known.label[parts.train])
    for target in range(int(known.batch.max()) + 1):
        cells = parts.test[known.comparable(parts.test, target)]
        shown = list(projection.counterfactual(known.X[cells], known.batch[cells], target, samples=30, seed=seed))
        shift, sd = (np.concatenate([getattr(block, each) for block in shown]) for each in ("shift", "sd"))
        types.append(known.label[cells])
        true.append(known.shift(cells, target))
        found.append(shift - true[-1])
        plain.append(counterfactual.batch_mean_shift(expression, batches, known.batch[cells], target) - true[-1])
        by_label = means[target, known.label[cells]] - means[known.batch[cells], known.label[cells]]
        of_labels.append(by_label - true[-1])
        covered.append(np.abs(found[-1]) < 1.645 * sd)
    error, of_means, by_label, nothing = (
        float(np.mean(np.concatenate(each) ** 2)) for each in (found, plain, of_labels, true)
    )
    row = {"no change": nothing, "batch means": of_means, "label means": by_label / of_means}
    row |= {"error": error, "over batch means": error / of_means}
    row |= {"covered": float(np.mean(np.concatenate(covered))), "cpu_s": spent}
    truth, kinds = np.concatenate(true), np.concatenate(types)
    ours, theirs = (
        counterfactual.shift_error(np.concatenate(each) + truth, truth, kinds)["mse_by_gene"] for each in (found, plain)
    )
    nothing = counterfactual.shift_error(0 * truth, truth, kinds)["mse_by_gene"]
    by_type = [
        {
            "type": kind + 1,
            "no change": nothing[kind].mean(),
            "batch means": theirs[kind].mean(),
            "error": ours[kind].mean(),
            "over batch means": ours[kind].mean() / theirs[kind].mean(),
            "median gene": np.median(ours[kind]),
            "largest of a gene": ours[kind].max(),
            "genes better than batch means": (ours[kind] < theirs[kind]).mean(),
        }
        for kind in np.unique(kinds)
    ]
    return row, by_type


def group_means(values: np.ndarray, batch: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Means by batch and label, K x C x G: their differences are a shift that takes no model, only labels."""
    groups = np.unique(batch).size, np.unique(label).size
    sums, count = np.zeros((*groups, values.shape[1])), np.zeros(groups)
    np.add.at(sums, (batch, label), values)
    np.add.at(count, (batch, label), 1)
    return sums / np.maximum(count, 1)[..., None]


# -------------------------------------------------------------------------------------------------- prediction, speed


def mixed(path: Path, folds: tuple[int, ...], keep: Path | None) -> None:
    data = read(path)
    for fold in folds:
        parts = of_fold(data.fold, fold)
        pca, fixed = components(data, parts)[0], fitted(data, fold, "fe", "recommended", keep).embedding
        features = {"PCA": pca, "FE": fixed, "Z": prediction.one_hot(data.batch)}
        tried = [("PCA", "Z"), ("FE", "RE"), ("PCA",), ("FE", "Z"), ("FE",), ("RE",), ("Z",)]
        split = [(parts.train, parts.test)]
        found = {"dummy": accuracies(prediction.dummy(data.label, split, seed=42))}
        for names in tried:
            if "RE" in names and "RE" not in features:
                features["RE"] = fitted(data, fold, "re", "recommended", keep).embedding
            values = np.hstack([features[name] for name in names])
            found[" + ".join(names)] = accuracies(prediction.forest(values, data.label, split, seed=42))
        for method, values in found.items():
            record("scmedal-prediction", name_of(data), method, values, seed=fold)


def accuracies(found: prediction.Accuracy) -> dict[str, float]:
    return {"balanced accuracy": found.balanced.mean, "accuracy": found.accuracy.mean}


def speed(path: Path, folds: tuple[int, ...], keep: Path | None, epochs: int | None = None) -> None:
    """CPU time to the error that the paper preset has after the CPU time of a recommended fit, or after `epochs`."""
    data = read(path)
    for fold in folds:
        for model in ("fe", "re"):
            ours = fitted(data, fold, model, "recommended", keep)
            published = fitted(data, fold, model, "paper", None if epochs else keep, ours.cpu[-1], epochs)
            lowest = published.error.min()
            epoch = first(ours.error <= lowest)
            reached = ours.cpu[int(epoch) - 1] if epoch == epoch else np.nan
            row = {
                "error of means": ours.profile,
                "error, paper preset": lowest,
                "cpu_s, paper preset": published.cpu[-1],
            }
            row |= {"epochs, paper preset": len(published.cpu), "lowest error": ours.error.min()}
            row |= {"epochs to the same error": epoch, "cpu_s to the same error": reached}
            row["ratio of cpu_s"] = row["cpu_s, paper preset"] / reached
            given = f", paper preset of {epochs} epochs" if epochs else ""
            record("scmedal-speed", name_of(data), f"{model.upper()}{given}", row, seed=fold)
    for model in ("ae", "fe", "re"):
        for preset in ("paper", "recommended"):
            of_process("epoch", path, model, preset)


def of_process(*arguments: object) -> None:
    """Record what a process of its own found, as memory is a process's highest."""
    command = [sys.executable, "-W", "ignore", __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    data, method, values = json.loads(done.stdout.splitlines()[-1])
    record("scmedal-epochs", data, method, values)


def one_epoch(path: Path, model: str, preset: str, genes: int = 542, epochs: int = 2) -> None:
    """All labelled cells train, on the genes that vary most."""
    data = read(path)
    values = data.X.toarray()
    chosen = np.sort(np.argsort(-values.var(0))[:genes])
    epoch_of(sparse.csr_matrix(values[:, chosen]), data.batch, data.fold, model, preset, epochs)


def large(cells: int = 100_000, genes: int = 3000, batches: int = 4) -> None:
    for model in ("fe", "re"):
        of_process("drawn", cells, genes, batches, model)


def drawn(cells: int, genes: int, batches: int, model: str, epochs: int = 2) -> None:
    """Fit to counts as sparse as those of DLPFC (four in ten are not 0), drawn 10,000 cells at a time."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(-0.7, 1.4, genes))
    effect = np.exp(rng.normal(0, 0.3, (batches, genes)))
    batch = rng.integers(0, batches, cells)
    blocks = [
        sparse.csr_matrix(rng.poisson(rate * effect[batch[low : low + 10_000]])) for low in range(0, cells, 10_000)
    ]
    X = sparse.vstack(blocks, format="csr").astype(np.float32)
    X.data = np.log1p(X.data)
    epoch_of(X, batch, np.arange(cells) % 5, model, "recommended", epochs)


def epoch_of(X: sparse.csr_matrix, batch: np.ndarray, fold: np.ndarray, model: str, preset: str, epochs: int) -> None:
    source, everything = Resident(X), np.arange(X.shape[0])
    parts = Parts(everything, np.flatnonzero(fold == 0), np.flatnonzero(fold == 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cpu, found = timed(source, batch, parts, Settings(model=model, preset=preset, epochs=epochs))
    row = {"not 0": X.nnz / X.shape[0] / X.shape[1], "preparation, cpu_s": float(cpu[0] - np.diff(cpu).mean())}
    row |= {"cpu_s of an epoch": float(np.diff(cpu).mean()), "peak before the fit, gb": before}
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    data = f"{X.shape[0]:,} cells x {X.shape[1]:,} genes, minibatches of {found.plan.size}"
    print(json.dumps((data, f"{model.upper()}, {preset}", row)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--folds", type=lambda text: tuple(map(int, text.split(","))), default=FOLDS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of the paper preset in `speed`, without its early stopping")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # fits of other code are not those of this
    given.keep = given.keep and given.keep / commit()
    tables = {"mixed": mixed, "speed": partial(speed, epochs=given.epochs)}
    if given.what == "counterfactuals":
        counterfactuals(tuple(map(int, given.arguments)) or SEEDS)
    elif given.what == "large":
        large(*map(int, given.arguments))
    elif given.what == "drawn":
        drawn(*map(int, given.arguments[:3]), given.arguments[3])
    elif given.what == "epoch":
        one_epoch(Path(given.arguments[0]), *given.arguments[1:])
    elif given.what == "sections" and given.arguments:
        methods = tuple(given.arguments[1:]) or METHODS
        if unknown := set(methods) - set(METHODS):
            parser.error(f"no method {', '.join(sorted(unknown))}; there are: {'; '.join(METHODS)}")
        sections(Path(given.arguments[0]), methods, given.folds, given.keep)
    elif given.what in tables and given.arguments:
        tables[given.what](Path(given.arguments[0]), given.folds, given.keep)
    else:
        parser.error(f"{given.what}: not one of the benchmarks above, or DATA.h5ad is missing")


if __name__ == "__main__":
    main()

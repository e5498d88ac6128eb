"""The table of scores: one dataset, many fits, the same cells and the same metrics for all.

What each metric computes is in `unbatch.metrics`, on arrays; here cells are chosen, codes made of names, and rows of
what was found. The program `score` and `unbatch.score` both call it.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from unbatch.data.cells import principal_components
from unbatch.data.labels import about_labels
from unbatch.data.notes import Note, read_notes
from unbatch.data.sampling import stratified_sample
from unbatch.errors import InputError, out_of_memory
from unbatch.metrics import evidence, integration, jackknife, uncertainty
from unbatch.metrics.evidence import PERMUTATIONS
from unbatch.metrics.integration import WEIGHTS, Scene, nearest_neighbours
from unbatch.metrics.prediction import Question, explains, solves
from unbatch.text import safe_text

if TYPE_CHECKING:
    from scib_metrics.nearest_neighbors import NeighborsResults

    from unbatch.metrics.domains import Tissue
    from unbatch.metrics.evidence import Level
    from unbatch.metrics.integration import Metric
    from unbatch.metrics.prediction import Accuracy

log = logging.getLogger("unbatch")

SCHEMA = 1
"""Version of scores.json."""

EVIDENCE_CELLS = 10_000
"""Cells that probes and predictions take at most: their time grows faster than with the cells."""

MAX_CLASSES = 100
"""Most categories that a target may have; a column with more is a measurement or a name."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit: embedding of the scored cells or neighbours in a graph, how it was made, fixed and random effects.

    `tissue` is the embedding of the cells whose domains are scored, which need no label.
    """

    embedding: "np.ndarray | None"
    made: dict[str, Any]
    fixed: "np.ndarray | None"
    random: "np.ndarray | None"
    near: "NeighborsResults | None" = None
    tissue: "np.ndarray | None" = None

    @cached_property
    def digest(self) -> str | None:
        """Digest of all that is scored; None for a graph or a fit with random effects."""
        if self.embedding is None or self.random is not None:
            return None
        parts = [part for part in (self.embedding, self.tissue) if part is not None]
        found = hashlib.blake2b(repr([(part.dtype.str, part.shape) for part in parts]).encode())
        for part in parts:
            found.update(np.ascontiguousarray(part))
        return found.hexdigest()

    @classmethod
    def of(
        cls,
        made: dict[str, Any],
        obsm: "Mapping[str, Any]",
        obsp: "Mapping[str, Any]",
        cells: "np.ndarray",
        tissue: "np.ndarray | None" = None,
    ) -> "Fitted":
        """Take what a fit has of some cells out of its slots.

        Parameters
        ----------
        made
            How it was made (``uns/unbatch`` of a fit); ``slot`` names an embedding that is not ``X_METHOD``.
        obsm, obsp
            Embeddings and graphs of all cells, by slot.
        cells
            Positions of the cells.
        tissue
            Positions of the cells whose domains are scored, None for none.
        """
        method = str(made["method"])
        if made.get("output", "embedding") == "graph":
            from unbatch.metrics.paths import nearest_by_path

            return cls(None, made, None, None, nearest_by_path(obsp[method], cells, integration.LISI_NEIGHBOURS))
        parts = (obsm.get(str(made.get(name))) for name in ("first", "second"))
        fixed, random = (None if part is None else np.asarray(part)[cells] for part in parts)
        whole = np.asarray(obsm[made.get("slot", f"X_{method}")])
        return cls(whole[cells], made, fixed, random, tissue=None if tissue is None else whole[tissue])


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is asked of every embedding in addition to its scores; `cells` are positions among the scored ones."""

    cells: "np.ndarray"
    metrics: "list[Metric]"
    levels: "dict[str, Level]"
    questions: "dict[str, Question]"


@dataclass(frozen=True)
class Options:
    """How to score.

    Attributes
    ----------
    max_cells
        Above this, a sample that keeps the shares of batches and labels is scored.
    batch_silhouette
        ``"bras"`` or ``"silhouette_batch"``: the silhouette score in the batch mean.
    targets
        Columns of obs to predict in addition to the label.
    evidence
        Whether to probe for the batch and predict the label and the targets.
    space
        Whether to score domains and neighbourhoods where there are coordinates.
    seed, threads
        Seed of sample, probes and predictions; threads at most.
    """

    max_cells: int = 20_000
    batch_silhouette: str = "bras"
    targets: list[str] = field(default_factory=list)
    evidence: bool = True
    space: bool = True
    seed: int = 0
    threads: int = 1


def _silent(items: Iterable[Any], _label: str, _name: Callable[[Any], str]) -> Iterator[Any]:
    yield from items


def score(
    adata: AnnData,
    planned: list[dict[str, Any]],
    read: Callable[[str, np.ndarray, np.ndarray | None], Fitted],
    options: Options,
    *,
    name: str = "dataset",
    source: str | Path = "adata",
    watch: Callable[..., Iterator[Any]] = _silent,
) -> dict[str, Any]:
    """Score fits of a dataset: mixing of batches, conservation of biology, evidence of what is left of the batch.

    Parameters
    ----------
    adata
        The dataset: log-normalised ``X``, ``obs["batch"]``, ``obs["split"]``, ``var["highly_variable"]`` and, for
        biology, ``obs["label"]``.
    planned
        A mapping per planned fit: ``fit`` (None where it failed or does not apply) and what is known of it (id, method,
        params_id, seed, code, status, exit_code, message, attempts).
    read
        Gives the fit of a name of ``fit``: of the cells at some positions, and of those of the tissue (None: none).
    options
        How to score.
    name, source
        Name of the dataset in the table, and of its file in messages.
    watch
        Shows progress: takes items, a label, and what gives an item's name.

    Returns
    -------
    dict
        What scores.json holds (docs/output.md), without versions.

    Raises
    ------
    InputError
        If a target is missing or is no column of classes.
    """
    columns = _targets(adata, options.targets, source)
    reason = _no_labels(adata)
    labelled = reason is None
    cells = _cells_to_score(adata, labelled, options.max_cells, options.seed)
    batch, label = _codes(adata, "batch", cells), _codes(adata, "label", cells) if labelled else None
    strata = batch if label is None else batch * (int(label.max()) + 1) + label
    group = uncertainty.deal(strata, options.seed)
    tissue = _tissue(adata, labelled, options) if options.space and "spatial" in adata.obsm else None
    around = None if tissue is None else tissue.cells
    fitted = {row["fit"]: read(row["fit"], cells, around) for row in planned if row["fit"] is not None}
    graphs = any(fit.near is not None for fit in fitted.values())
    known = integration.metrics(options.batch_silhouette, labelled, graphs)
    probing = _evidence(adata, cells, batch, label, group, columns, options.seed) if options.evidence else None
    known += probing.metrics if probing else []
    single = adata.obs["batch"].nunique() < 2
    missing = {m.name: reason for m in known if m.needs_label and not labelled}
    if missing:
        log.warning("no scores of biology: %s; missing are %s", reason, ", ".join(missing))
    if single:
        missing |= {m.name: "obs/batch holds one batch" for m in known if m.of_batches}
        log.warning("no scores of mixing: obs/batch holds one batch, of which there is nothing to mix")
    wanted = [m for m in known if m.name not in missing]
    reference = _reference(adata, cells)

    kinds = {kind: [m.name for m in wanted if m.kind == kind] for kind in ("batch", "bio", "other", "evidence")}
    alone = _without_embedding(probing, options) if probing else {}
    rows, twins = [], {}
    for row in watch(planned, "score", lambda r: r.get("id") or r["fit"] or "?"):
        if row["fit"] is None:
            rows.append(_row(row, name))
            continue
        fit = fitted[row["fit"]]
        twin = twins.get(fit.digest)
        if twin:
            # a method without random numbers gives the same embedding with every seed, and that has the same scores
            scores, reasons, same = deepcopy(twin)
            rows.append(_row(row, name, fit.made, scores, reasons, kinds) | same)
            continue
        scene = _scene(fit, reference, batch, label, group)
        scores, reasons = integration.evaluate(scene, wanted)
        found = _row(row, name, fit.made, scores, reasons, kinds)
        rows.append(found)
        found["cells"] = _over_cells(found, scene, kinds)
        if tissue is not None and fit.tissue is not None:
            found["space"] = _rounded_all(tissue.score(fit.tissue, options.seed))
        if fit.digest and found["cells"] is not None:
            same = {key: found[key] for key in ("cells", "space") if key in found}
            twins[fit.digest] = deepcopy((scores, reasons, same))
        if probing and fit.random is not None:
            probes = [m for m in wanted if m.kind == "evidence"]
            effects = _scene(replace(fit, embedding=fit.random), reference, batch, label, None, search=False)
            found["random_effects"] = integration.evaluate(effects, probes)[0]
    if probing:
        _predict(rows, planned, fitted, probing, alone, options, watch)
    return {
        "schema": SCHEMA,
        "dataset": _describe(adata, name, cells, labelled),
        "metrics": {**kinds, "weights": integration.WEIGHTS, "missing": missing},
        "evidence": _describe_evidence(probing, alone) if probing else None,
        "space": _describe_tissue(tissue) if tissue is not None else None,
        "rows": rows,
        "settings": {"seed": options.seed, "max_cells": options.max_cells, "neighbours": integration.LISI_NEIGHBOURS}
        | {"cell_groups": int(group.max()) + 1, "level": uncertainty.LEVEL},
    }


def _scene(
    fit: Fitted,
    reference: np.ndarray,
    batch: np.ndarray,
    label: np.ndarray | None,
    group: np.ndarray | None,
    search: bool = True,
) -> Scene:
    """Lay out what the scores of an embedding or graph need; neighbours are found once."""
    if fit.embedding is None:
        return Scene(None, reference, fit.near, batch, label, group)
    embedding = np.ascontiguousarray(fit.embedding, dtype=np.float32)
    # a dimension can be constant in the scored sample though it is not in all cells; PCR divides by its spread
    embedding = embedding[:, np.ptp(embedding, axis=0) > 0]
    return Scene(embedding, reference, nearest_neighbours(embedding) if search else None, batch, label, group)


def _over_cells(row: dict[str, Any], scene: Scene, kinds: dict[str, list[str]]) -> dict[str, Any] | None:
    """Means and probes of a fit with each group of cells left out, and their intervals over cells.

    Returns
    -------
    dict or None
        ``left_out`` (a list by score), ``interval`` (its ends by score) and ``clustering_sd`` (by score, where there is
        any); None where it could not be computed, which costs the comparison and not the scores.
    """
    found = scene.left_out
    try:
        means = {
            kind: np.mean([found[name] for name in kinds[kind] if row["metrics"][name] is not None], axis=0)
            for kind in WEIGHTS
            if row[kind] is not None
        }
        spread = {}
        if "bio" in means and {"nmi", "ari"} <= found.keys():
            # both are parts of the mean of biology
            variance = jackknife.clustering_variance(scene.embedding, scene.label) / row["n_bio"] ** 2
            spread["bio"] = float(np.sqrt(variance))
    except Exception as error:
        if out_of_memory(error):
            raise
        text = f"intervals over cells could not be computed ({error}), therefore it is not compared with other methods"
        log.warning("%s: %s", row["id"], text)
        row["notes"].append(asdict(Note("no-interval", "warning", safe_text(text), {})))
        return None
    if len(means) == len(WEIGHTS):
        means["total"] = sum(weight * means[kind] for kind, weight in WEIGHTS.items())
        spread |= {"total": WEIGHTS["bio"] * spread["bio"]} if spread else {}
    left_out = means | {name: found[name] for name in kinds["evidence"] if name in found}
    intervals = {}
    for name, values in left_out.items():
        value = row[name] if name in means else row["metrics"][name]
        sample = uncertainty.Sample(np.array([value]), values[None], spread.get(name, 0.0) ** 2)
        each = uncertainty.interval(sample)
        intervals[name] = [rounded(each.low), rounded(each.high)]
    return {
        "left_out": {name: [rounded(value) for value in values] for name, values in left_out.items()},
        "interval": intervals,
        "clustering_sd": {name: rounded(value) for name, value in spread.items()},
    }


def rounded(value: float | None) -> float | None:
    """Round as JSON keeps it; None for what is not finite."""
    return round(float(value), 6) if value is not None and math.isfinite(value) else None


def _no_labels(adata: AnnData) -> str | None:
    """Say why nothing can be scored against labels, or None when it can."""
    if "label" not in adata.obs:
        return "obs/label is missing"
    has_label = adata.obs["label"].notna()
    if not has_label.any():
        return "obs/label is missing in all cells"
    doubt = about_labels(adata.obs["label"])
    if doubt and doubt.meaningless:
        return doubt.text.removesuffix(".")
    if adata.obs.loc[has_label, "batch"].nunique() < min(2, adata.obs["batch"].nunique()):
        return "all cells that have a label are of one batch"
    return None


def _cells_to_score(adata: AnnData, labelled: bool, max_cells: int, seed: int) -> np.ndarray:
    """Choose the cells: those with a label where there are labels, a stratified sample if they are too many."""
    strata = adata.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    cells = np.arange(adata.n_obs)
    if labelled:
        label = adata.obs["label"].cat.codes.to_numpy()
        strata = strata * (int(label.max()) + 1) + label
        cells = cells[label >= 0]
    return cells[stratified_sample(strata[cells], max_cells, seed)]


def _codes(adata: AnnData, column: str, cells: np.ndarray) -> np.ndarray:

    return np.unique(adata.obs[column].cat.codes.to_numpy()[cells], return_inverse=True)[1]


def _tissue(adata: AnnData, labelled: bool, options: Options) -> "Tissue":
    """Choose the sections whose domains are scored, with their unlabelled cells."""
    from unbatch.metrics.domains import Tissue

    section = adata.obs["section" if "section" in adata.obs else "batch"].astype("category")
    label = adata.obs["label"].cat.codes.to_numpy().astype(np.int64) if labelled else None
    points, names = np.asarray(adata.obsm["spatial"], dtype=np.float64), [str(name) for name in section.cat.categories]
    return Tissue.of(points, section.cat.codes.to_numpy(), names, label, options.max_cells, options.seed)


def _describe_tissue(tissue: "Tissue") -> dict[str, Any]:
    """Say of which cells domains are scored, and how."""
    from unbatch.metrics import domains

    return {
        "sections": {
            name: {"cells": each.of, "scored_cells": len(each.cells), "clusters": each.clusters}
            | {"unlabelled": None if each.label is None else int((each.label < 0).sum())}
            for name, each in tissue.sections.items()
        },
        "left_out": tissue.reasons,
        "neighbours": domains.NEAR,
        "voters": domains.NEIGHBOURS,
        "starts": domains.STARTS,
    }


def _rounded_all(values: Any) -> Any:
    """Round all numbers of nested mappings as JSON keeps them."""
    if isinstance(values, dict):
        return {name: _rounded_all(each) for name, each in values.items()}
    return values if isinstance(values, str) else rounded(values)


def _reference(adata: AnnData, cells: np.ndarray) -> np.ndarray:
    """Return the uncorrected components that PCR comparison measures against."""
    variable = adata.var["highly_variable"].to_numpy()
    return principal_components(adata.X[:, variable][cells], 50).embedding


def _targets(adata: AnnData, wanted: list[str], source: str | Path) -> list[str]:
    """Check the columns to predict, and name each once."""
    names = list(dict.fromkeys(wanted))
    for name in names:
        if name not in adata.obs:
            raise InputError(
                f"{source}: obs/{name}, a column of --targets, is missing; there are {', '.join(adata.obs)}"
            )
        classes = adata.obs[name].nunique()
        if classes > MAX_CLASSES:
            raise InputError(
                f"{source}: obs/{name}, a column of --targets, has {classes:,} different values, "
                f"a column of classes was expected ({MAX_CLASSES} at most)"
            )
    return names


def _evidence(
    adata: AnnData,
    cells: np.ndarray,
    batch: np.ndarray,
    label: np.ndarray | None,
    group: np.ndarray,
    columns: list[str],
    seed: int,
) -> Evidence:
    """Sample cells, and prepare what is asked of every embedding of them."""
    strata = batch if label is None else batch * (int(label.max()) + 1) + label
    chosen = stratified_sample(strata, EVIDENCE_CELLS, seed)
    fold = adata.obs["split"].to_numpy()[cells][chosen].astype(np.int64)
    batch, label = batch[chosen], None if label is None else label[chosen]
    questions = {}
    for name in dict.fromkeys([*([] if label is None else ["label"]), *columns]):
        target = adata.obs[name].iloc[cells[chosen]].astype("category").cat.codes.to_numpy().astype(np.int64)
        questions[name] = Question.of(target, batch, fold)
    return Evidence(
        cells=chosen,
        metrics=evidence.metrics(chosen, fold, seed),
        levels=evidence.levels(batch, label, fold, group[chosen], int(group.max()) + 1),
        questions=questions,
    )


def _without_embedding(probing: Evidence, options: Options) -> dict[str, dict[str, dict[str, "Accuracy"]]]:
    """Predict every target from the batch alone, and guess it."""
    return {
        name: question.without_embedding(seed=options.seed, threads=options.threads)
        for name, question in probing.questions.items()
    }


def _predict(
    rows: list[dict[str, Any]],
    planned: list[dict[str, Any]],
    fitted: dict[str, Fitted],
    probing: Evidence,
    alone: dict[str, dict[str, dict[str, "Accuracy"]]],
    options: Options,
    watch: Callable[..., Iterator[Any]],
) -> None:
    """Predict every target from the first seed of every method, and write what was found into its row.

    A fit without random effects borrows those of a fit that has them, of the same seed if there is one.
    """
    ended = [(row, fitted[plan["fit"]]) for row, plan in zip(rows, planned, strict=True) if plan["fit"] is not None]
    ended = [pair for pair in ended if pair[1].embedding is not None]
    lenders = sorted((pair for pair in ended if pair[1].random is not None), key=lambda pair: pair[0]["seed"])
    first = {}
    for row, fit in sorted(ended, key=lambda pair: pair[0]["seed"]):
        first.setdefault((row["method"], row["params_id"]), (row, fit))
    for row, fit in watch(first.values(), "predict", lambda pair: pair[0]["id"]):
        own = fit.random is not None
        lender = next((pair for pair in lenders if pair[0]["seed"] == row["seed"]), lenders[0] if lenders else None)
        effects = fit.random if own else lender and lender[1].random
        embedding = fit.embedding if fit.fixed is None else fit.fixed
        row["prediction"] = {}
        for name, question in probing.questions.items():
            found = question.with_embedding(
                embedding[probing.cells],
                None if effects is None else effects[probing.cells],
                own,
                seed=options.seed,
                threads=options.threads,
            )
            row["prediction"][name] = _accuracies(found) | {
                "batch_explains": "cells" in found
                and explains(alone[name]["cells"]["batch"], found["cells"]["embedding"], question.splits["cells"])
            }
        if effects is not None:
            row["random_effects_of"] = row["id"] if own else lender[0]["id"]


def _accuracies(found: dict[str, dict[str, "Accuracy"]]) -> dict[str, Any]:
    """Write accuracies as plain mappings; what is not a number, as the interval of one split, as None."""

    def plain(interval: dict[str, float]) -> dict[str, float | None]:
        return {end: value if math.isfinite(value) else None for end, value in interval.items()}

    return {
        held_out: {
            features: {"accuracy": plain(asdict(a.accuracy)), "balanced_accuracy": plain(asdict(a.balanced))}
            for features, a in by.items()
        }
        for held_out, by in found.items()
    }


def _describe_evidence(probing: Evidence, alone: dict[str, dict[str, dict[str, "Accuracy"]]]) -> dict[str, Any]:
    """Say what the probes and predictions of the rows are read against."""

    def plain(level: "Level") -> dict[str, Any]:
        values = {"chance": level.chance, "label": level.label}
        found = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        return found | {"left_out": None if level.left_out is None else [rounded(v) for v in level.left_out]}

    return {
        "cells": len(probing.cells),
        "permutations": PERMUTATIONS,
        "levels": {name: plain(level) for name, level in probing.levels.items()},
        "targets": {
            name: {
                "known": len(question.cells),
                "classes": len(np.unique(question.target)),
                "splits": {held_out: len(splits) for held_out, splits in question.splits.items()},
                "reasons": question.reasons,
                "solved_by_batch": "cells" in alone[name] and solves(alone[name]["cells"]["batch"]),
                **_accuracies(alone[name]),
            }
            for name, question in probing.questions.items()
        },
    }


def _describe(adata: AnnData, name: str, cells: np.ndarray, labelled: bool) -> dict[str, Any]:
    # a name for each cell would make the table as long as the data
    has_label = "label" in adata.obs and (labelled or adata.obs["label"].nunique() <= MAX_CLASSES)
    scorable = int(adata.obs["label"].notna().sum()) if labelled else adata.n_obs
    return {
        "name": name,
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "batches": _counts(adata, "batch"),
        "labels": _counts(adata, "label") if has_label else None,
        "unlabelled": int(adata.obs["label"].isna().sum()) if has_label else None,
        "scored_cells": len(cells),
        "subsampled": len(cells) < scorable,
        "coordinates": "spatial" in adata.obsm,
        "simulation": _simulation(adata),
    }


def _simulation(adata: AnnData) -> dict[str, Any] | None:
    """Return the parameters of a simulation, None for other data."""
    truth = adata.uns["unbatch"].get("truth")
    return {name: _plain(value) for name, value in truth["parameters"].items()} if truth else None


def _plain(value: Any) -> Any:
    """Turn numpy's numbers, which h5ad gives back, into those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def _counts(adata: AnnData, column: str) -> dict[str, int]:
    counts = adata.obs[column].value_counts(sort=False)
    return {str(value): int(n) for value, n in counts.items()}


def _row(
    outcome: dict[str, Any],
    dataset: str,
    made: dict[str, Any] | None = None,
    scores: dict[str, float | None] | None = None,
    reasons: dict[str, str] | None = None,
    kinds: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """Make a row of the table: from the outcome what was planned and how it ended, from the fit how it was made."""
    made = made or {}
    method, seed = made.get("method", outcome.get("method")), int(made.get("seed", outcome.get("seed", 0)))
    variant = f".{outcome['params_id']}" if "params_id" in outcome else ""
    batch, n_batch = integration.mean(scores, kinds["batch"]) if scores else (None, 0)
    bio, n_bio = integration.mean(scores, kinds["bio"]) if scores else (None, 0)
    if made.get("output") == "graph":
        # most scores need an embedding: a mean of the others, listed with means of all, would look like a high score
        batch = bio = None
    return {
        "id": outcome.get("id") or f"{dataset}.{method}{variant}.s{seed}",
        "dataset": dataset,
        "method": method,
        "params_id": outcome.get("params_id", "default"),
        "seed": seed,
        "code": outcome.get("code"),
        "status": outcome.get("status", "ok"),
        "exit_code": outcome.get("exit_code", 0),
        "message": outcome.get("message"),
        "attempts": outcome.get("attempts", 1),
        "metrics": scores or {},
        "reasons": reasons or {},
        "batch": batch,
        "n_batch": n_batch,
        "bio": bio,
        "n_bio": n_bio,
        "total": integration.total(batch, bio),
        "wall_s": float(made["wall_s"]) if made else None,
        "peak_mb": float(made["peak_mb"]) if made else None,
        "device": str(made["device"]) if made else None,
        "output": str(made.get("output", "embedding")) if made else None,
        "params": {name: _plain(value) for name, value in made["params"].items()} if made else {},
        "versions": {k: str(v) for k, v in made["versions"].items()} if made else {},
        "notes": [asdict(note) for note in read_notes(str(made.get("notes", "")))],
    }

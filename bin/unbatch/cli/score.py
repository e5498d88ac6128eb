"""`score`: one dataset, many fits, one table of scores."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import InPath, OutPath, Run, log, program, progress, versions
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

SCHEMA = 1
"""Version of scores.json."""


@program("scikit-learn")
@click.argument("dataset", type=InPath)
@click.argument("fits", type=InPath, nargs=-1)
@click.option("-o", "--output", type=OutPath, required=True, help="The table (JSON) to write.")
@click.option("--name", default="dataset", help="Name of the dataset in the table.")
@click.option(
    "--outcomes",
    type=InPath,
    help="JSON list with one entry per planned fit (id, method, params_id, seed, code, status, exit_code, message, "
    "attempts, fit), so that fits that failed or do not apply get their row; without it, a row per fit given.",
)
@click.option("--max-cells", type=click.IntRange(30), default=20_000, help="Score a stratified sample above this.")
@click.option(
    "--batch-silhouette",
    type=click.Choice(["bras", "silhouette_batch"]),
    default="bras",
    help="The silhouette score in the batch mean; both are in the table.",
)
def main(
    run: Run,
    dataset: Path,
    fits: tuple[Path, ...],
    output: Path,
    name: str,
    outcomes: Path | None,
    max_cells: int,
    batch_silhouette: str,
) -> None:
    """Score FITS of DATASET: mixing of batches, conservation of biology, run time and memory."""
    from unbatch.data import io
    from unbatch.metrics import integration

    io.require_place(output, [dataset, *fits])
    files = {path.name: path for path in fits}
    if len(files) < len(fits):
        doubled = next(file for file, n in Counter(path.name for path in fits).items() if n > 1)
        raise InputError(f"{doubled}: two fits have this file name, give each its own")
    planned = _read_outcomes(outcomes, files) if outcomes else [{"fit": file} for file in files]
    if not planned:
        raise InputError("no fit was given: name the fits to score after the dataset")
    adata = _read_dataset(dataset)
    reason = _no_labels(adata)
    labelled = reason is None
    known = integration.metrics(batch_silhouette, labelled)
    wanted = [m for m in known if labelled or not m.needs_label]
    missing = {m.name: reason for m in known if m not in wanted}
    if missing:
        log.warning("no scores of biology: %s; missing are %s", reason, ", ".join(missing))
    cells = _cells_to_score(adata, labelled, max_cells, run.seed)
    fitted = {file: _read_fit(path, adata, cells) for file, path in files.items()}
    batch, label = _codes(adata, "batch", cells), _codes(adata, "label", cells) if labelled else None
    reference = _reference(adata, cells)

    kinds = {kind: [m.name for m in wanted if m.kind == kind] for kind in ("batch", "bio", "other")}
    rows = []
    for row in progress(planned, "score", lambda r: r.get("id") or r["fit"] or "?"):
        if row["fit"] is None:
            rows.append(_row(row, name))
            continue
        embedding, made = fitted[row["fit"]]
        rows.append(_row(row, name, made, *_evaluate(embedding, reference, batch, label, wanted), kinds))
    io.write_json(
        {
            "schema": SCHEMA,
            "dataset": _describe(adata, name, cells, labelled),
            "metrics": {**kinds, "weights": integration.WEIGHTS, "missing": missing},
            "rows": rows,
            "settings": {"seed": run.seed, "max_cells": max_cells, "neighbours": integration.LISI_NEIGHBOURS},
            "versions": versions("scikit-learn"),
        },
        output,
    )


def _evaluate(
    embedding: "np.ndarray",
    reference: "np.ndarray",
    batch: "np.ndarray",
    label: "np.ndarray | None",
    wanted: list[Any],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Compute all scores of one embedding, neighbours once."""
    import numpy as np

    from unbatch.metrics import integration

    embedding = np.ascontiguousarray(embedding, dtype=np.float32)
    # a dimension can be constant in the scored sample though it is not in all cells; PCR divides by its spread
    embedding = embedding[:, np.ptp(embedding, axis=0) > 0]
    neighbours = integration.nearest_neighbours(embedding)
    scene = integration.Scene(embedding, reference, neighbours, batch, label)
    return integration.evaluate(scene, wanted)


def _read_dataset(path: Path) -> "AnnData":
    from unbatch.data import io, schema

    adata = io.read_h5ad(path, ["X", "layers/counts", "obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", path)
    del adata.layers["counts"]
    if adata.obs["batch"].nunique() < 2:
        raise InputError(f"{path}: obs/batch holds one batch, mixing of two or more is what is scored")
    return adata


def _no_labels(adata: "AnnData") -> str | None:
    """Say why nothing can be scored against labels, or None when it can."""
    if "label" not in adata.obs:
        return "obs/label is missing"
    has_label = adata.obs["label"].notna()
    if adata.obs["label"].nunique() < 2:
        return "obs/label holds fewer than two labels"
    if adata.obs.loc[has_label, "batch"].nunique() < 2:
        return "all cells that have a label are of one batch"
    return None


def _read_fit(path: Path, dataset: "AnnData", cells: "np.ndarray") -> tuple["np.ndarray", dict[str, Any]]:
    """Read a fit, check it whole, and keep the embedding of the cells to score and how it was made."""
    from unbatch.data import io, schema

    fit = io.read_h5ad(path, ["obsm", "uns/unbatch"])
    schema.validate(fit, "fit", path, cells_of=dataset)
    made = dict(fit.uns["unbatch"])
    return fit.obsm[f"X_{made['method']}"][cells], made


def _read_outcomes(path: Path, files: dict[str, Path]) -> list[dict[str, Any]]:
    """Read the planned fits, and check that every fit given is one of them."""
    from unbatch.data import io

    try:
        planned = json.loads(io.require_file(path).read_text(encoding="utf-8"))
        named = {row["fit"] for row in planned if row["fit"] is not None}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a JSON list of outcomes that name their fit ({error})") from error
    if named != set(files):
        odd = sorted(named ^ set(files))[0]
        raise InputError(f"{path}: {odd} is {'named there but not given' if odd in named else 'given but not named'}")
    return planned


def _cells_to_score(adata: "AnnData", labelled: bool, max_cells: int, seed: int) -> "np.ndarray":
    """Choose the cells: those with a label where there are labels, a stratified sample if they are too many."""
    import numpy as np

    from unbatch.data.sampling import stratified_sample

    strata = adata.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    cells = np.arange(adata.n_obs)
    if labelled:
        label = adata.obs["label"].cat.codes.to_numpy()
        strata = strata * (int(label.max()) + 1) + label
        cells = cells[label >= 0]
    return cells[stratified_sample(strata[cells], max_cells, seed)]


def _codes(adata: "AnnData", column: str, cells: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.unique(adata.obs[column].cat.codes.to_numpy()[cells], return_inverse=True)[1]


def _reference(adata: "AnnData", cells: "np.ndarray") -> "np.ndarray":
    """Return the uncorrected components that PCR comparison measures against."""
    from unbatch.baselines.cells import principal_components

    variable = adata.var["highly_variable"].to_numpy()
    return principal_components(adata.X[:, variable][cells], 50).embedding


def _describe(adata: "AnnData", name: str, cells: "np.ndarray", labelled: bool) -> dict[str, Any]:
    has_label = "label" in adata.obs
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


def _simulation(adata: "AnnData") -> dict[str, Any] | None:
    """Return the parameters of a simulation, None for other data."""
    truth = adata.uns["unbatch"].get("truth")
    return {name: _plain(value) for name, value in truth["parameters"].items()} if truth else None


def _plain(value: Any) -> Any:
    """Turn numpy's numbers, which h5ad gives back, into those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def _counts(adata: "AnnData", column: str) -> dict[str, int]:
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
    from unbatch.metrics import integration

    made = made or {}
    method, seed = made.get("method", outcome.get("method")), int(made.get("seed", outcome.get("seed", 0)))
    batch, n_batch = integration.mean(scores, kinds["batch"]) if scores else (None, 0)
    bio, n_bio = integration.mean(scores, kinds["bio"]) if scores else (None, 0)
    return {
        "id": outcome.get("id") or f"{dataset}.{method}.s{seed}",
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
        "params": {name: _plain(value) for name, value in made["params"].items()} if made else {},
        "versions": {k: str(v) for k, v in made["versions"].items()} if made else {},
    }

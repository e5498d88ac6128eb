"""`score`: one dataset, many fits, one table of scores."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import InPath, OutPath, Run, program, progress, versions
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.scoring import Fitted


@program("scikit-learn")
@click.argument("dataset", type=InPath)
@click.argument("fits", type=InPath, nargs=-1)
@click.option("-o", "--output", type=OutPath, required=True, help="The table (JSON) to write.")
@click.option("--name", default="dataset", help="Name of the dataset in the table.")
@click.option(
    "--outcomes",
    type=InPath,
    help="JSON list with one entry per planned fit (id, method, params_id, seed, code, status, exit_code, message, "
    "attempts, fit), which gives failed and inapplicable fits a row, too; without it, there is a row per given fit.",
)
@click.option("--max-cells", type=click.IntRange(30), default=20_000, help="Score a stratified sample above this.")
@click.option(
    "--batch-silhouette",
    type=click.Choice(["bras", "silhouette_batch"]),
    default="bras",
    help="The silhouette score in the batch mean; both are in the table.",
)
@click.option("--targets", help="Columns of obs to predict in addition to the label, separated by commas.")
@click.option(
    "--evidence/--no-evidence",
    default=True,
    help="Probe for the batch, predict label and targets, and score spatial domains, as well.",
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
    targets: str | None,
    evidence: bool,
) -> None:
    """Score FITS of DATASET: mixing of batches, conservation of biology, run time and memory."""
    from unbatch import scoring
    from unbatch.data import io

    io.require_place(output, [dataset, *fits])
    files = {path.name: path for path in fits}
    if len(files) < len(fits):
        doubled = next(file for file, n in Counter(path.name for path in fits).items() if n > 1)
        raise InputError(f"{doubled}: two fits have this file name, give each its own")
    if not files and not outcomes:
        raise InputError("no fit was given: name the fits to score after the dataset")
    adata = _read_dataset(dataset)
    planned = _read_outcomes(outcomes, files) if outcomes else _plan(files)
    if not planned:
        raise InputError(f"{outcomes}: the list is empty, expected an entry for each planned fit")
    options = scoring.Options(
        max_cells=max_cells,
        batch_silhouette=batch_silhouette,
        targets=[target.strip() for target in (targets or "").split(",") if target.strip()],
        evidence=evidence,
        space=evidence,
        seed=run.seed,
        threads=run.threads,
    )
    table = scoring.score(
        adata,
        planned,
        lambda file, cells, tissue: _read_fit(files[file], adata, cells, tissue),
        options,
        name=name,
        source=dataset,
        watch=progress,
    )
    io.write_json(table | {"versions": versions("scikit-learn")}, output)


def _read_dataset(path: Path) -> "AnnData":
    from unbatch.data import io, schema

    adata = io.read_h5ad(path, ["X", "layers/counts", "obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", path)
    del adata.layers["counts"]
    return adata


def _read_fit(path: Path, dataset: "AnnData", cells: "np.ndarray", tissue: "np.ndarray | None") -> "Fitted":
    """Read a fit, check it whole, and keep what it has of the cells to score and of those of the tissue."""
    from unbatch.data import fits
    from unbatch.scoring import Fitted

    fit = fits.read(path, dataset)
    return Fitted.of(dict(fit.uns["unbatch"]), fit.obsm, fit.obsp, cells, tissue)


def _read_outcomes(path: Path, files: dict[str, Path]) -> list[dict[str, Any]]:
    """Read the planned fits, and check that every fit given is one of them."""
    from unbatch.data import io

    expected = "a list of outcomes that name their fit"
    planned = io.read_json(path, expected)
    try:
        named = {row["fit"] for row in planned if row["fit"] is not None}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: found something else ({error}), expected {expected}") from error
    if named != set(files):
        odd = sorted(named ^ set(files))[0]
        raise InputError(f"{path}: {odd} is {'named there but not given' if odd in named else 'given but not named'}")
    return planned


def _plan(files: dict[str, Path]) -> list[dict[str, Any]]:
    """Plan a row for each fit; where two are of one method and seed, those of this method go by their file names."""
    from unbatch.data import io

    made = {}
    for file, path in files.items():
        about = io.read_h5ad(path, ["uns/unbatch"]).uns.get("unbatch", {})
        made[file] = str(about.get("method")), str(about.get("seed"))
    doubled = {method for (method, _), n in Counter(made.values()).items() if n > 1}
    return [
        {"fit": file}
        | ({"params_id": file.removesuffix(".h5ad").removesuffix(".fit")} if made[file][0] in doubled else {})
        for file in files
    ]

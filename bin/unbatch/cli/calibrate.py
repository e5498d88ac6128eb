"""`calibrate`: fits to halves of one batch, compared: what each method does where there is no batch effect."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import InPath, OutPath, Run, program, progress, versions
from unbatch.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from unbatch.calibration import Fitted


@program("scikit-learn")
@click.argument("fits", type=InPath, nargs=-1)
@click.option(
    "--dataset",
    "datasets",
    type=InPath,
    multiple=True,
    required=True,
    help="Dataset that `halve` wrote; give it once for each of the three splits.",
)
@click.option("--name", default="dataset", help="Name of the dataset that was split, in the table.")
@click.option(
    "--outcomes",
    type=InPath,
    help="JSON list with one entry per planned fit (dataset, method, params_id, seed, status, message, fit), which "
    "gives failed and inapplicable fits a row, too; without it, names of fits begin with those of their datasets.",
)
@click.option("-o", "--output", type=OutPath, required=True, help="The table (JSON) to write.")
def main(
    run: Run, fits: tuple[Path, ...], datasets: tuple[Path, ...], name: str, outcomes: Path | None, output: Path
) -> None:
    """Compare FITS to the splits of one batch: neighbours displaced, genes called changed, kinds of cells mixed."""
    from threadpoolctl import threadpool_limits

    from unbatch import calibration
    from unbatch.data import io

    io.require_place(output, [*datasets, *fits])
    files = {path.name: path for path in fits}
    if len(files) < len(fits):
        raise InputError("FITS: two files have one name, give each its own")
    if not files and not outcomes:
        raise InputError("no fit was given: name the fits to the splits")
    by_split = _read_datasets(datasets)
    split_of = {path.name.removesuffix(".h5ad"): split for split, (path, _) in by_split.items()}
    planned = _read_outcomes(outcomes, files, split_of) if outcomes else _plan(files, split_of)
    with threadpool_limits(run.threads):
        found = calibration.table(
            {split: adata for split, (_, adata) in by_split.items()},
            planned,
            lambda file, adata, wanted: _read_fit(files[file], adata, wanted),
            name=name,
            seed=run.seed,
            watch=progress,
        )
    io.write_json(found | {"versions": versions("scikit-learn")}, output)


def _read_datasets(paths: tuple[Path, ...]) -> "dict[str, tuple[Path, AnnData]]":
    """Read the dataset of every split, and check that they are splits of the same cells."""
    from unbatch.data import halves, io, schema

    found: dict[str, tuple[Path, AnnData]] = {}
    for path in paths:
        adata = io.read_h5ad(path, ["X", "layers/counts", "uns/unbatch"])
        schema.validate(adata, "dataset", path)
        about = adata.uns["unbatch"].get("halves") or {}
        split = about.get("split")
        if split not in halves.SPLITS or halves.KIND not in adata.obs:
            raise InputError(f"{path}: uns/unbatch/halves/split is {split!r}, expected a dataset that `halve` wrote")
        if split in found:
            raise InputError(f"{path}: it is the split {split!r}, as {found[split][0]} is; expected one file of each")
        found[split] = path, adata
    absent = [split for split in halves.SPLITS if split not in found]
    if absent:
        raise InputError(f"--dataset: no file of the split {' and '.join(absent)}, expected all that `halve` wrote")
    first, adata = found[halves.SPLITS[0]]
    for path, other in found.values():
        schema.validate(other, "dataset", path, cells_of=adata)
        if not other.var_names.equals(adata.var_names):
            raise InputError(f"{path}: var_names are not those of {first}, expected splits of the same cells and genes")
    return found


def _read_outcomes(path: Path, files: dict[str, Path], split_of: dict[str, str]) -> list[dict[str, Any]]:
    """Read the planned fits, and check that every fit given is one of them and of a split."""
    from unbatch.data import io

    expected = "a list of outcomes that name their dataset, method, seed and fit"
    planned = io.read_json(path, expected)
    try:
        rows = [row | {"split": split_of[row["dataset"]]} for row in planned]
        named = {row["fit"] for row in rows if row["fit"] is not None}
        if any(not {"method", "seed"} <= row.keys() for row in rows):
            raise KeyError("method or seed")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: found something else ({error}), expected {expected}") from error
    if named != set(files):
        odd = sorted(named ^ set(files))[0]
        raise InputError(f"{path}: {odd} is {'named there but not given' if odd in named else 'given but not named'}")
    return rows


def _plan(files: dict[str, Path], split_of: dict[str, str]) -> list[dict[str, Any]]:
    """Find of which split each fit is, by the names of the files, and by which method and seed, in the fits."""
    from unbatch.data import io

    planned, seen = [], {}
    for file, path in files.items():
        split = next((split for name, split in split_of.items() if file.startswith(f"{name}.")), None)
        if split is None:
            raise InputError(
                f"{path}: the name begins with that of none of the datasets, expected {next(iter(split_of))}.METHOD."
                "fit.h5ad or the like"
            )
        about = io.read_h5ad(path, ["uns/unbatch"]).uns.get("unbatch", {})
        key = split, str(about.get("method")), int(about.get("seed", 0))
        if key in seen:
            raise InputError(
                f"{path}: {key[1]} with seed {key[2]}, as {seen[key]}; expected one fit of each (--outcomes)"
            )
        seen[key] = path
        planned.append({"split": split, "method": key[1], "params_id": "default", "seed": key[2], "fit": file})
    return planned


def _read_fit(path: Path, dataset: "AnnData", with_expression: bool) -> "Fitted":
    """Read a fit, check it, and take what is compared."""
    import numpy as np

    from unbatch import calibration, scoring
    from unbatch.data import fits, io
    from unbatch.metrics.calibration import excluding_one

    fit = fits.read(path, dataset)
    made = dict(fit.uns["unbatch"])
    cells = np.arange(fit.n_obs)
    taken = scoring.Fitted.of(made, fit.obsm, fit.obsp, cells)
    near = calibration.neighbours(taken.embedding) if taken.near is None else taken.near
    with io.open_hdf5(path) as file:
        slot = next((slot for slot in calibration.EXPRESSION if slot in file), None)
        effect = file.get("uns/unbatch/batch_effect")
        factors = None if effect is None else excluding_one(effect["factor"][:], effect["log_factor_se"][:])
        if slot is None or not with_expression:
            return calibration.Fitted(near, factors=factors)
        values = np.asarray(file[slot][:], dtype=np.float32)
    size = dataset.obs["size_factor"].to_numpy()
    expression = calibration.logarithms(values, calibration.EXPRESSION[slot], size)
    return calibration.Fitted(near, expression, tuple(fit.var_names), slot, factors)

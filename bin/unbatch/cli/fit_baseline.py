"""`fit-baseline`: an outside method, run by its own library."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unbatch import baselines
from unbatch.cli.common import Run, log, program
from unbatch.cli.fits import fit_arguments, read_parameters, write_fit
from unbatch.errors import InputError, NotApplicable

if TYPE_CHECKING:
    from anndata import AnnData

    from unbatch.baselines.cells import Cells


@program()
@fit_arguments
@click.option("--method", type=click.Choice(baselines.names()), required=True, help="The method.")
def main(
    run: Run,
    dataset: Path,
    output: Path,
    model: Path | None,
    params: Path | None,
    max_epochs: int | None,
    method: str,
) -> None:
    """Fit an outside METHOD to DATASET and write its embedding."""
    from unbatch.data import io

    io.require_place(output, [dataset])
    given = read_parameters(params)
    fit = baselines.load(method)
    if max_epochs is not None and "max_epochs" in baselines.parameters(fit):
        given["max_epochs"] = max_epochs
    settings = baselines.merge_parameters(method, fit, given)
    if run.device == "cuda":
        log.warning("%s runs on the CPU; --device cuda changes nothing", method)

    adata, cells = read_cells(dataset)
    start = time.perf_counter()
    result = fit(cells, seed=run.seed, **settings)
    wall_s = time.perf_counter() - start
    if model is not None:
        write_model(model, method, settings, cells, result.weights)
    write_fit(
        output,
        adata,
        result.embedding,
        method=method,
        run=run,
        device="cpu",
        params=settings,
        wall_s=wall_s,
        packages=baselines.packages(method),
    )


def read_cells(path: Path) -> tuple["AnnData", "Cells"]:
    """Read a dataset and bring it into the form that methods take: highly variable genes, codes for names.

    Raises
    ------
    NotApplicable
        If there is only one batch.
    InputError
        If the dataset breaks the contract.
    """
    import numpy as np

    from unbatch.baselines.cells import Cells
    from unbatch.data import io, schema

    adata = io.read_h5ad(path, ["X", "layers/counts", "obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", path)
    batch = adata.obs["batch"].cat.remove_unused_categories()
    if len(batch.cat.categories) < 2:
        raise NotApplicable(f"{path}: obs/batch holds one batch, there is nothing to integrate")
    variable = adata.var["highly_variable"].to_numpy()
    if not variable.any():
        raise InputError(f"{path}: var/highly_variable marks no gene; run preprocess with a larger --n-top-genes")
    label = adata.obs.get("label")
    return adata, Cells(
        X=adata.X[:, variable],
        counts=adata.layers["counts"][:, variable],
        genes=adata.var_names[variable].tolist(),
        batch=batch.cat.codes.to_numpy().astype(np.int64),
        label=None if label is None else label.cat.codes.to_numpy().astype(np.int64),
        coordinates=adata.obsm.get("spatial"),
    )


def write_model(folder: Path, method: str, params: dict, cells: "Cells", weights: dict) -> None:
    """Write the model folder of a method that can embed new cells.

    Raises
    ------
    InputError
        If the method knows only the cells it saw.
    """
    from unbatch.data import io

    if not weights:
        raise InputError(f"--model: {method} embeds only the cells it was fitted to, it has no model to write")
    io.write_model(folder, {"method": method, "params": params, "genes": cells.genes}, weights)

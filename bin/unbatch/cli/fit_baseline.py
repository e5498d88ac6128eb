"""`fit-baseline`: an outside method, run by its own library."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unbatch import baselines
from unbatch.cli.common import Run, log, program
from unbatch.cli.fits import fit_arguments, merge_parameters, read_cells, read_parameters, write_fit
from unbatch.errors import InputError

if TYPE_CHECKING:
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
    settings = merge_parameters(method, baselines.parameters(fit), given)
    if run.device == "cuda":
        log.warning("%s runs on the CPU; --device cuda changes nothing", method)

    adata, cells = read_cells(dataset, baselines.least_batches(method))
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

"""`fit-baseline`: an outside method, run by its own library."""

import functools
import time
from pathlib import Path

import click

from unbatch import baselines
from unbatch.cli.common import Run, log, program
from unbatch.cli.fits import fit_arguments, merge_parameters, read_cells, read_parameters, torch_device, write_fit
from unbatch.errors import InputError


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
    """Fit an outside METHOD to DATASET and write its embedding, or its graph of cells."""
    from unbatch.data import io

    io.require_place(output, [dataset])
    if model is not None:
        io.require_model_place(model)
    given = read_parameters(params)
    fit = baselines.load(method)
    if max_epochs is not None and "max_epochs" in baselines.parameters(fit):
        given["max_epochs"] = max_epochs
    settings = merge_parameters(method, baselines.parameters(fit), given)
    device = "cpu"
    if baselines.uses_device(fit):
        device = torch_device(run)
        fit = functools.partial(fit, device=device)
    elif run.device == "cuda":
        log.warning("%s runs on the CPU; --device cuda changes nothing", method)

    adata, cells = read_cells(dataset, baselines.least_batches(method))
    start = time.perf_counter()
    result = fit(cells, seed=run.seed, **settings)
    wall_s = time.perf_counter() - start
    if model is not None and not result.weights:
        raise InputError(f"--model: {method} embeds only the cells it was fitted to, it has no model to write")
    write_fit(
        output,
        adata,
        result.embedding,
        method=method,
        run=run,
        device=device,
        params=settings,
        wall_s=wall_s,
        packages=baselines.packages(method),
        graph=result.graph,
    )
    if model is not None:
        io.write_model(model, {"method": method, "params": settings, "genes": cells.genes}, result.weights)

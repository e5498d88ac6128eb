"""`fit-baseline`: an outside method, run by its own library."""

import functools
import time
from pathlib import Path
from typing import Any

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
    settings = merge_parameters(method, baselines.parameters(fit), given)
    _require_values(method, settings)
    for name in {"max_epochs", "epochs", "steps"} & settings.keys() if max_epochs else ():
        settings[name] = min(settings[name] or max_epochs, max_epochs)
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


def _require_values(method: str, settings: dict[str, Any]) -> None:
    """Raise InputError where a parameter that is a name is none of those known, or a number is too small."""
    known, defaults = baselines.choices(method), baselines.parameters(baselines.load(method))
    for name, value in settings.items():
        if name in known and value not in known[name]:
            raise InputError(f"{method}: parameter {name} is {value!r}, expected one of {', '.join(known[name])}")
        # of components, neighbours, layers, steps there is one at least
        least, right = (
            (0, "a number of 0 or more") if isinstance(defaults[name], float) else (1, "whole numbers from 1 on")
        )
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(type(each) in (int, float) and each < least for each in numbers):
            raise InputError(f"{method}: parameter {name} is {value!r}, expected {right}")

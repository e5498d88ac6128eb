"""`simulate`: data of several samples with a known batch effect."""

import functools
from pathlib import Path
from typing import Any

import click

from unbatch import contract
from unbatch.cli.common import OutPath, Run, limit_threads_early, log, program, versions
from unbatch.cli.options import parameter_option
from unbatch.data.simulation import PRESETS
from unbatch.data.simulation import preset as preset_of


def _options(function: Any) -> Any:
    """Give the program an option for every parameter of every preset; the default is that of the preset."""
    # numpy, which the presets import, reads the limits once
    limit_threads_early()
    rules = {name: contract.rules(preset_of(name).Parameters) for name in PRESETS}
    options = []
    for name in dict.fromkeys(parameter for each in rules.values() for parameter in each):
        having = {each: rule[name] for each, rule in rules.items() if name in rule}
        first = dict(next(iter(having.values())))
        if len(having) == 1:
            first["description"] = f"[{next(iter(having))}] {first['description']}"
        defaults = [rule["default"] for rule in having.values()]
        if len(set(defaults)) > 1:
            first["default"] = f"{defaults[0]}; donors {defaults[1]}"
        # each preset has limits of its own, which are checked when it is known
        limits = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
        options.append(parameter_option(name, {key: value for key, value in first.items() if key not in limits}))
    return functools.reduce(lambda made, option: option(made), reversed(options), function)


@program("h5py", "scipy")
@click.option("-o", "--output", type=OutPath, required=True, metavar="DATASET.h5ad", help="File to write.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="thesis",
    help="thesis: a layered tissue, batches with other amounts of metagenes. donors: cells of donors nested in two "
    "conditions, each donor a batch. Options marked with one of them go with it alone.",
)
@_options
def main(run: Run, output: Path, preset: str, **options: Any) -> None:
    """Simulate samples with a known batch effect.

    thesis (default): POPARI's generative model with BatchBlend's additive term: 11 metagenes, 9 cell types, 4 layers.
    The truth is kept in obs (cell_type, domain), obsm/X_true, varm/metagenes_true and uns/unbatch/truth. Values are
    continuous unless --noise nb is given; preprocess takes them with --allow-continuous.

    donors: cell types whose genes every donor changes, in part alike in all types, and the condition in some types. The
    truth is kept in obs (donor, condition, cell_type), obsm and varm (names that end in _true) and uns/unbatch/truth.
    """
    import numpy as np

    from unbatch.data import io
    from unbatch.data.simulation.common import draw_expression

    model = preset_of(preset)
    given = {name: value for name, value in options.items() if value is not None}
    parameters = contract.checked(f"simulate --preset {preset}", model.Parameters, given)
    io.require_place(output)
    rng = np.random.default_rng(run.seed)
    truth = model.draw_truth(parameters, rng)
    adata = model.annotated(truth)
    adata.uns["unbatch"] |= {"source": "simulate", "versions": versions("h5py", "scipy")}
    adata.uns["unbatch"]["truth"]["parameters"] = {"preset": preset, **parameters.model_dump(), "seed": run.seed}
    log.info("%d batches of %d cells, %d genes", parameters.batches, parameters.cells, parameters.genes)
    io.write_h5ad(adata, output, X=draw_expression(truth, rng, run.threads))
    log.info("wrote %s", output)

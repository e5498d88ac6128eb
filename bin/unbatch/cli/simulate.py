"""`simulate`: data of several samples with a known batch effect."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from unbatch.cli.common import OutPath, Run, log, program, versions
from unbatch.errors import InputError


@program("h5py", "scipy")
@click.option("-o", "--output", type=OutPath, required=True, metavar="DATASET.h5ad", help="File to write.")
@click.option(
    "--preset",
    type=click.Choice(["thesis", "donors"]),
    default="thesis",
    help="thesis: a layered tissue, batches with other amounts of metagenes. donors: cells of donors nested in two "
    "conditions, each donor a batch. Options marked with one of them go with it alone.",
)
@click.option("--batches", type=int, default=2, show_default="2; donors 8", help="Number of batches (donors).")
@click.option(
    "--cells",
    type=int,
    default=225,
    show_default="225; donors 300",
    help="Cells per batch; in the thesis preset on a square grid (the last row may be short).",
)
@click.option("--genes", type=int, default=100, show_default="100; donors 200", help="Number of genes, 10 or more.")
@click.option("--sigma-beta", type=float, default=2.0, help="[thesis] Batch effect on the metagenes; 0 for none.")
@click.option(
    "--share-beta", type=float, default=0.5, help="[thesis] Share of the metagenes that it hits in each batch."
)
@click.option(
    "--sigma-gene", type=float, default=0.0, help="[thesis] Genes of a batch are multiplied by exp(N(0, this))."
)
@click.option("--types", type=int, default=5, help="[donors] Number of cell types.")
@click.option(
    "--sigma-common", type=float, default=0.3, help="[donors] Batch effect that all types share (sd of logs)."
)
@click.option(
    "--sigma-type", type=float, default=0.25, help="[donors] Batch effect of each type beside it (sd of logs)."
)
@click.option("--sigma-condition", type=float, default=0.5, help="[donors] Effect of the condition (sd of logs).")
@click.option("--share-types", type=float, default=0.4, help="[donors] Share of the types that the condition changes.")
@click.option("--share-genes", type=float, default=0.2, help="[donors] Share of the genes that it changes in these.")
@click.option(
    "--mix",
    type=click.Choice(["same", "shifted"]),
    default="same",
    help="Cell types of the batches: the same mix in all, or another one in every second batch (of a condition).",
)
@click.option(
    "--noise",
    type=click.Choice(["gaussian", "nb"]),
    default="gaussian",
    show_default="gaussian; donors nb",
    help="Continuous values, as in the thesis, or negative binomial counts.",
)
@click.option("--depth", type=float, default=1000.0, help="Mean counts per cell (nb).")
@click.option("--dispersion", type=float, default=0.1, help="Variance m + this * m^2 at mean m (nb).")
@click.option(
    "--sigma-x",
    type=float,
    default=0.1,
    show_default="0.1; donors 0.2",
    help="Spread of the cells of a type: of their amounts, or of their states.",
)
@click.option("--sigma-y", type=float, default=1.0, help="Standard deviation times genes of the noise (gaussian).")
@click.option("--gamma-shape", type=float, default=8.0, help="[thesis] Shape of the gene weights; small is sparse.")
@click.option("--size-scale", type=float, default=1.0, help="[thesis] Spread of the cell sizes (scale of their gamma).")
@click.option("--sigma-size", type=float, default=0.3, help="[donors] Spread of the cell sizes (sd of logs).")
@click.option("--sigma-profile", type=float, default=0.5, help="[donors] How far types lie apart (sd of logs).")
def main(run: Run, output: Path, preset: str, **options: Any) -> None:
    """Simulate samples with a known batch effect.

    thesis (default): POPARI's generative model with BatchBlend's additive term: 11 metagenes, 9 cell types, 4 layers.
    The truth is kept in obs (cell_type, domain), obsm/X_true, varm/metagenes_true and uns/unbatch/truth. Values are
    continuous unless --noise nb is given; preprocess takes them with --allow-continuous.

    donors: cell types whose genes every donor changes, in part alike in all types, and the condition in some types. The
    truth is kept in obs (donor, condition, cell_type), obsm and varm (names that end in _true) and uns/unbatch/truth.
    """
    import numpy as np

    from unbatch.data import donors, io, simulate

    model = donors if preset == "donors" else simulate
    parameters = model.Parameters(**_given(options, preset, {field.name for field in fields(model.Parameters)}))
    io.require_place(output)
    rng = np.random.default_rng(run.seed)
    truth = model.draw_truth(parameters, rng)
    adata = model.annotated(truth)
    adata.uns["unbatch"] |= {"source": "simulate", "versions": versions("h5py", "scipy")}
    adata.uns["unbatch"]["truth"]["parameters"] = {"preset": preset, **asdict(parameters), "seed": run.seed}
    log.info("%d batches of %d cells, %d genes", parameters.batches, parameters.cells, parameters.genes)
    io.write_h5ad(adata, output, X=simulate.draw_expression(truth, rng, run.threads))
    log.info("wrote %s", output)


def _given(options: dict[str, Any], preset: str, known: set[str]) -> dict[str, Any]:
    """Return the options that were given, as the defaults are those of the preset."""
    source = click.get_current_context().get_parameter_source
    given = {name: value for name, value in options.items() if source(name) is not click.core.ParameterSource.DEFAULT}
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in known]
    if foreign:
        raise InputError(
            f"{', '.join(foreign)}: no option of --preset {preset}, expected some of "
            f"{', '.join('--' + name.replace('_', '-') for name in options if name in known)}"
        )
    return given

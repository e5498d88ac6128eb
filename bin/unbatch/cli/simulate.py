"""`simulate`: multi-sample spatial data with a known batch effect."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import OutPath, Run, log, program, versions

if TYPE_CHECKING:
    from anndata import AnnData

    from unbatch.data.simulate import Truth


@program("h5py", "scipy")
@click.option("-o", "--output", type=OutPath, required=True, metavar="DATASET.h5ad", help="File to write.")
@click.option("--batches", type=int, default=2, help="Number of batches.")
@click.option("--cells", type=int, default=225, help="Cells per batch, on a square grid (the last row may be short).")
@click.option("--genes", type=int, default=100, help="Number of genes, 10 or more.")
@click.option("--sigma-beta", type=float, default=2.0, help="Size of the batch effect on the metagenes; 0 for none.")
@click.option("--share-beta", type=float, default=0.5, help="Share of the metagenes that it hits in each batch.")
@click.option(
    "--mix",
    type=click.Choice(["same", "shifted"]),
    default="same",
    help="Cell types of the batches: the same mix in all, or another one in every second batch.",
)
@click.option(
    "--sigma-gene", type=float, default=0.0, help="Every gene of every batch is multiplied by exp(N(0, this))."
)
@click.option(
    "--noise",
    type=click.Choice(["gaussian", "nb"]),
    default="gaussian",
    help="Continuous values, as in the thesis, or negative binomial counts.",
)
@click.option("--depth", type=float, default=1000.0, help="Mean counts per cell (nb).")
@click.option("--dispersion", type=float, default=0.1, help="Variance m + this * m^2 at mean m (nb).")
@click.option("--sigma-x", type=float, default=0.1, help="Spread of the amounts around those of the cell type.")
@click.option("--sigma-y", type=float, default=1.0, help="Standard deviation times genes of the noise (gaussian).")
@click.option("--gamma-shape", type=float, default=8.0, help="Shape of the gene weights; small is sparse.")
@click.option("--size-scale", type=float, default=1.0, help="Spread of the cell sizes (scale of their gamma).")
def main(run: Run, output: Path, **options: Any) -> None:
    """Simulate samples of a layered tissue with a known batch effect.

    POPARI's generative model with BatchBlend's additive term: 11 metagenes, 9 cell types and 4 layers. The truth is
    kept in obs (cell_type, domain), obsm/X_true, varm/metagenes_true and uns/unbatch/truth. The defaults are those of
    the thesis. Values are continuous unless --noise nb is given; preprocess takes them with --allow-continuous.
    """
    import numpy as np

    from unbatch.data import io
    from unbatch.data.simulate import Parameters, draw_expression, draw_truth

    parameters = Parameters(**options)
    io.require_place(output)
    rng = np.random.default_rng(run.seed)
    truth = draw_truth(parameters, rng)
    adata = _annotated(truth, run.seed)
    log.info("%d batches of %d cells, %d genes", parameters.batches, parameters.cells, parameters.genes)
    io.write_h5ad(adata, output, X=draw_expression(truth, rng, run.threads))
    log.info("wrote %s", output)


def _annotated(truth: "Truth", seed: int) -> "AnnData":
    import pandas as pd
    from anndata import AnnData

    from unbatch.data import simulate

    p = truth.parameters
    batches = [f"batch{i + 1}" for i in range(p.batches)]
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical.from_codes(truth.batch, batches),
            "cell_type": pd.Categorical.from_codes(truth.cell_type, simulate.CELL_TYPES),
            "domain": pd.Categorical.from_codes(truth.layer, simulate.LAYERS),
        },
        index=[f"{batch}-cell{i + 1}" for batch in batches for i in range(p.cells)],
    )
    return AnnData(
        obs=obs,
        var=pd.DataFrame(index=[f"gene{i + 1}" for i in range(p.genes)]),
        obsm={"spatial": truth.position, "X_true": truth.amounts.astype("float32")},
        varm={"metagenes_true": truth.metagenes.T},
        uns={
            "unbatch": {
                "source": "simulate",
                "versions": versions("h5py", "scipy"),
                "truth": {
                    "batches": batches,
                    "beta": truth.beta,
                    "gene_factors": truth.gene_factors,
                    "scale": truth.scale,
                    "parameters": {**asdict(p), "seed": seed},
                },
            }
        },
    )

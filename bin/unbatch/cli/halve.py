"""`halve`: one batch of a dataset in halves that are called batches, for `calibrate`."""

from pathlib import Path

import click

from unbatch.cli.common import Folder, InPath, Run, log, program
from unbatch.errors import InputError

ENDING = ".null.{split}.h5ad"
"""End of the names of the datasets."""


@program()
@click.argument("dataset", type=InPath)
@click.option("--batch", help="Name of the batch to split.", show_default="the one with the most cells")
@click.option("--max-cells", type=click.IntRange(60), default=5000, help="Split a stratified sample above this.")
@click.option("-o", "--output", type=Folder, required=True, help="Folder to write the datasets to.")
def main(run: Run, dataset: Path, batch: str | None, max_cells: int, output: Path) -> None:
    """Split a batch of DATASET in two, at random (twice) and in halves of unlike composition.

    There is no batch effect between the halves. Written are NAME.null.again.h5ad, NAME.null.random.h5ad and
    NAME.null.unlike.h5ad, of the same cells and genes. Fit methods to all three, with two seeds or more, and have
    `calibrate` compare the fits.
    """
    from unbatch.data import halves, io, schema

    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: a file has the name of the output folder")
    name = dataset.name.removesuffix(".h5ad")
    places = {split: output / f"{name}{ENDING.format(split=split)}" for split in halves.SPLITS}
    if output.is_dir():
        for path in places.values():
            io.require_place(path, [dataset])
    adata = io.read_h5ad(dataset, ["layers/counts", "obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", dataset, unread=("X",))
    found = halves.split_batch(adata, batch, max_cells=max_cells, seed=run.seed, source=dataset)
    for split, part in found:
        schema.validate(part, "dataset", places[split])
        output.mkdir(parents=True, exist_ok=True)
        io.write_h5ad(part, places[split])
        log.info("%s: %d cells in halves -> %s", split, part.n_obs, places[split])

"""`integrate`: a dataset, its fits and their scores to one file to go on with."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, program, versions
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import Index
    from scipy.sparse import csr_matrix

    from unbatch.integrated import Taken

PACKAGES = ("igraph", "umap-learn")


@program(*PACKAGES)
@click.argument("dataset", type=InPath)
@click.argument("fits", type=InPath, nargs=-1)
@click.option("--scores", required=True, type=InPath, help="Scores of the fits, as `score` wrote them.")
@click.option("--methods", "cards", required=True, type=InPath, help="Cards of the methods, assets/methods.yml.")
@click.option(
    "--use",
    metavar="METHOD",
    help="Method whose neighbours, UMAP and clusters are added.",
    show_default="the one that the scores speak for",
)
@click.option("--zarr", "store", type=Folder, help="Write the same as a zarr store to this folder, too.")
@click.option("--notes", type=OutPath, help="Write which method was chosen and why to this JSON file, too.")
@click.option("-o", "--output", type=OutPath, required=True, help="The file (h5ad) to write.")
def main(
    run: Run,
    dataset: Path,
    fits: tuple[Path, ...],
    scores: Path,
    cards: Path,
    use: str | None,
    store: Path | None,
    notes: Path | None,
    output: Path,
) -> None:
    """Put DATASET and the embeddings of FITS into one file, with neighbours, UMAP and Leiden clusters of one of them.

    FITS are named <id of the row>.h5ad or <id>.fit.h5ad; else they are found by their method and seed.
    """
    from threadpoolctl import threadpool_limits

    from unbatch import integrated
    from unbatch.data import as_zarr, io
    from unbatch.data import fits as fits_data
    from unbatch.data.notes import Notes
    from unbatch.report.read import match_fits
    from unbatch.report.scores import read_cards, read_scores

    inputs = [dataset, *fits, scores, cards]
    io.require_place(output, inputs)
    if notes is not None:
        io.require_place(notes, [*inputs, output])
    if store is not None:
        as_zarr.require_store_place(store, [*inputs, output, *([notes] if notes else [])])
    result = read_scores(scores, read_cards(cards))
    choice = integrated.choose(result, use)
    taken = integrated.take(result, {row: fit.path for row, fit in match_fits([result], fits).items()})
    chosen = next((each for each in taken if each.entry is choice.entry), None)
    if choice.entry is not None and chosen is None:
        raise InputError(
            f"{choice.text} Its fit is not among the files given; one of "
            f"{', '.join(str(row['id']) for row in choice.entry.compared)} was expected"
        )
    adata, copied = _read_dataset(dataset)
    result.require_cells(adata.n_obs, dataset)
    found_out = Notes()
    (found_out.warn if choice.doubtful else found_out.tell)("chosen", choice.text, reason=str(choice.reason))
    integrated.free_columns(adata, found_out)
    for each in taken:
        fit = fits_data.read(each.path, adata)
        copied[each.slot] = (each.path, each.inside)
        values = _found(each, fit)
        if each is chosen:
            with threadpool_limits(run.threads):
                integrated.add_neighbours(adata, each.slot.partition("/")[2], values, run.seed, log.info)
            if _has_corrected(each, fit.var_names, adata):
                copied[f"obsm/{integrated.CORRECTED}"] = (each.path, f"layers/{integrated.CORRECTED}")
    about = {"seed": run.seed, "versions": versions(*PACKAGES)} | ({"use": use} if use else {})
    adata.uns["unbatch"]["integrated"] = integrated.describe(taken, choice, result) | about
    # a store that cannot be written leaves no file that says it is there
    to_store = None if store is None else partial(as_zarr.write_zarr, folder=store)
    io.write_h5ad(adata, output, copied=copied, then=to_store)
    if notes is not None:
        io.write_json({"notes": found_out.as_json()}, notes)
    log.info("Wrote %d cells, %d genes and %d embeddings to %s", adata.n_obs, adata.n_vars, len(taken), output)


def _read_dataset(path: Path) -> tuple["AnnData", dict[str, tuple[Path, str]]]:
    """Read a dataset without its matrices, and list the slots that are to be copied from its file."""
    from unbatch.data import io, schema

    with io.open_hdf5(path) as file:
        large = ["X", "raw", *(f"layers/{name}" for name in file.get("layers", ()))]
        copied = {slot: (path, slot) for slot in large if slot in file}
        absent = next((slot for slot in ("X", "layers/counts") if slot not in file), None)
    if absent:
        raise InputError(f"{path}: {absent} is missing; a dataset that `preprocess` wrote was expected")
    adata = io.read_h5ad(path, ["obsm", "varm", "obsp", "varp", "uns"])
    schema.validate(adata, "dataset", path, unread=("X", "layers/counts"))
    return adata, copied


def _found(taken: "Taken", fit: "AnnData") -> "np.ndarray | csr_matrix":
    """Take the embedding or graph out of a fit."""
    group, _, name = taken.inside.partition("/")
    values: Any = getattr(fit, group).get(name)
    if values is None:
        raise InputError(f"{taken.path}: {taken.inside} is missing; a fit of {taken.entry.method} was expected")
    return values


def _has_corrected(taken: "Taken", genes: "Index", adata: "AnnData") -> bool:
    """Mark the genes of which a fit has corrected expression; False where it has none."""
    from unbatch.data import io
    from unbatch.integrated import CORRECTED

    with io.open_hdf5(taken.path) as file:
        if f"layers/{CORRECTED}" not in file:
            return False
    known = adata.var_names.isin(genes)
    if not adata.var_names[known].equals(genes):
        raise InputError(f"{taken.path}: its genes are not genes of the dataset in the same order")
    adata.var[CORRECTED] = known
    return True

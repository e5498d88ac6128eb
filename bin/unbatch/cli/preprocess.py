"""`preprocess`: from files of counts to the dataset that all fits take."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, program, progress, versions
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from unbatch.data.samples import Sample

PACKAGES = ("h5py", "pandas", "scipy")


def _slot(_ctx: click.Context, _param: click.Parameter, value: str) -> str | None:
    """Turn a choice of --counts-from into a slot of the file; None chooses by itself."""
    if value == "auto":
        return None
    if value.startswith("layer:") and len(value) > len("layer:"):
        return f"layers/{value.removeprefix('layer:')}"
    slots = {"raw": "raw/X", "X": "X"}
    if value not in slots:
        raise click.BadParameter(f"{value!r} is not one of auto, layer:NAME, raw, X.")
    return slots[value]


@program(*PACKAGES)
@click.argument("source", type=InPath, metavar="SHEET.csv|FILE.h5ad")
@click.option("-o", "--output", type=OutPath, required=True, metavar="DATASET.h5ad", help="File to write.")
@click.option("--batch-key", default="sample", help="Column of the cells that has their batch.")
@click.option("--label-key", help="Column of the cells that has their type or domain.")
@click.option(
    "--staged",
    type=Folder,
    help="Folder that has the file of row 1 in 1/, of row 2 in 2/, ..., instead of the paths in the sheet.",
)
@click.option(
    "--counts-from",
    default="auto",
    callback=_slot,
    metavar="auto|layer:NAME|raw|X",
    help="Where the counts are; auto takes layers['counts'], else raw, else X.",
)
@click.option("--allow-continuous", is_flag=True, help="Take values that are not whole numbers.", show_default=False)
@click.option("--min-counts", type=click.FloatRange(0), default=0.0, help="Drop cells with fewer counts.")
@click.option("--min-genes", type=click.IntRange(0), default=0, help="Drop cells with fewer genes.")
@click.option("--min-cells", type=click.IntRange(0), default=0, help="Drop genes found in fewer cells.")
@click.option("--n-top-genes", type=click.IntRange(1), default=2000, help="Number of highly variable genes.")
def main(
    run: Run,
    source: Path,
    output: Path,
    batch_key: str,
    label_key: str | None,
    staged: Path | None,
    counts_from: str | None,
    allow_continuous: bool,
    min_counts: float,
    min_genes: int,
    min_cells: int,
    n_top_genes: int,
) -> None:
    """Check, join, filter and normalise samples.

    SHEET.csv has the columns sample and path, and any others to keep with the cells; a path, relative to the sheet, is
    an h5ad file, a 10x .h5 file or a Space Ranger folder. FILE.h5ad has all samples, told apart by --batch-key.
    """
    import numpy as np
    from anndata import AnnData

    from unbatch.data import io, join, preprocess, samples, schema, sparse

    if label_key == batch_key:
        raise InputError(f"--label-key and --batch-key are both {batch_key}, expected two columns")
    files, obs = _inspect(source, staged, counts_from)
    io.require_place(output, [source, *(file.path for file in files)])
    batch = preprocess.batches(obs, batch_key, source)
    label = preprocess.labels(obs, label_key, source) if label_key else None
    genes = join.shared_genes(files, source)
    # in one file, batches are all that tells its samples apart, and they have the same genes
    one_file = _is_h5ad(source)
    group = np.asarray(batch if one_file else obs["sample"])
    sizes = dict.fromkeys(batch.categories, len(genes)) if one_file else {file.name: len(file.var) for file in files}
    coordinates = join.coordinates(files, group)

    reading = progress(files, "reading", name=lambda file: file.name)
    counts = join.counts(reading, genes, allow_continuous)
    whole = sparse.are_whole(counts)
    if not whole:
        _report_continuous(counts, source)
    cells, found = preprocess.filters(counts, min_counts, min_genes, min_cells)
    losses = preprocess.losses(group, cells, sizes, len(genes))
    _report_losses(losses, found)
    counts = sparse.subset(counts, cells, found)
    obs, batch, group = obs[cells], batch[cells], group[cells]
    preprocess.require_batches(batch, batch_key, source, " left by the filters")
    preprocess.require_expressed(counts, obs.index, group, source)
    if len(batch.categories) == 1:
        log.warning(
            "%s: %s has one batch only (%s): there is nothing to correct, methods that need two are not applicable",
            source,
            batch_key,
            batch.categories[0],
        )

    obs, renamed = preprocess.free_reserved(preprocess.tidy(obs), batch_key, label_key)
    for old, new in renamed.items():
        log.info("column %s of the input is kept as %s", old, new)
    obs["batch"] = batch
    if label is not None:
        label = label[cells].remove_unused_categories()
        obs["label"] = label
        _report_labels(label, label_key)
    size_factor = preprocess.size_factors(counts)
    obs["size_factor"] = size_factor
    obs["split"] = preprocess.folds(batch, label, np.random.default_rng(run.seed))
    X = sparse.log_normalise(counts, size_factor)
    var = preprocess.tidy(files[0].var.loc[genes[found]])
    var["highly_variable"] = preprocess.highly_variable(X, batch, n_top_genes)
    adata = AnnData(X, obs=obs, var=var, layers={"counts": counts})
    if coordinates is not None:
        adata.obsm["spatial"] = coordinates[cells]
    adata.uns["unbatch"] = {
        "schema": schema.VERSION,
        "source": source.name,
        "parameters": _parameters(run.seed),
        "versions": versions(*PACKAGES),
        "counts": "integer" if whole else "continuous",
        "losses": losses,
    }
    if one_file:
        _add_truth(adata, samples.read_truth(files[0]), cells, found)
    schema.validate(adata, "dataset", output)
    io.write_h5ad(adata, output)
    batches = len(batch.categories)
    several = "es" if batches > 1 else ""
    log.info("wrote %s: %d cells, %d genes, %d batch%s", output, *counts.shape, batches, several)


def _is_h5ad(source: Path) -> bool:
    return source.suffix.lower() == ".h5ad"


def _inspect(source: Path, staged: Path | None, counts_from: str | None) -> "tuple[list[Sample], pd.DataFrame]":
    """Read all that is known before the counts are: the samples and the table of their cells."""
    from unbatch.data import io, join, samples
    from unbatch.data.samplesheet import read_samplesheet

    io.require_file(source)
    if _is_h5ad(source):
        if staged:
            raise InputError(f"{source}: --staged goes with a samplesheet, not with one h5ad file")
        files = [samples.inspect(source, source.stem, counts_from)]
        return files, files[0].obs
    rows = read_samplesheet(source, staged)
    files = join.name_genes([samples.inspect(row.path, row.sample, counts_from) for row in rows])
    return files, join.cells(files, rows)


def _report_continuous(counts: "csr_matrix", source: Path) -> None:
    """Say what stands where whole numbers were expected."""
    from unbatch.data import sparse

    made = sparse.logarithm(counts)
    log.info(
        "%s: values are not whole numbers, as --allow-continuous lets pass: 0 to %.4g%s",
        source,
        counts.data.max(initial=0),
        "" if made else ", not recognised as logarithms of counts",
    )
    if made:
        log.warning(
            "%s: these are logarithms of counts (%s), where counts are needed: size factors, log-normalised expression "
            "and any offset will be wrong; --counts-from names another place",
            source,
            made,
        )


def _report_losses(losses: "pd.DataFrame", found: "np.ndarray") -> None:
    for sample, row in losses.iterrows():
        log.info(
            "%s: %d genes, %d of them not in all samples; %d cells, %d of them dropped",
            sample,
            row["genes"],
            row["genes_not_shared"],
            row["cells"],
            row["cells_dropped"],
        )
    if not found.all():
        log.info("%d of %d shared genes dropped, found in too few cells", (~found).sum(), len(found))


def _report_labels(label: "pd.Categorical", key: str) -> None:
    missing = int(label.isna().sum())
    if missing:
        log.info("%d of %d cells have no label in %s; they stay", missing, len(label), key)
    if len(label.categories) == 1:
        log.warning("all labels in %s are %s: nothing can be said about biology", key, label.categories[0])


def _parameters(seed: int) -> dict[str, Any]:
    """Options that decide about the result, for `uns`; h5ad has no place for None."""
    given = click.get_current_context().params
    names = ("batch_key", "label_key", "counts_from", "allow_continuous", "min_counts", "min_genes", "min_cells")
    chosen = {name: given[name] for name in (*names, "n_top_genes")}
    return {"seed": seed, **{name: value for name, value in chosen.items() if value is not None}}


def _add_truth(adata: "AnnData", truth: dict[str, dict[str, Any]], cells: "np.ndarray", genes: "np.ndarray") -> None:
    """Carry along what a simulation says about its data."""
    import numpy as np

    adata.obsm.update({key: value[cells] for key, value in truth["obsm"].items()})
    adata.varm.update({key: value[genes] for key, value in truth["varm"].items()})
    about = truth["uns"].get("truth")
    if about and np.shape(about.get("gene_factors"))[1:] == genes.shape:
        about["gene_factors"] = about["gene_factors"][:, genes]
    adata.uns["unbatch"].update(truth["uns"])

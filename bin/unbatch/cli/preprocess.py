"""`preprocess`: from files of counts to the dataset that all fits take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, program, progress, versions
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from unbatch.data.notes import Notes
    from unbatch.data.samples import Sample
    from unbatch.data.samplesheet import Row

PACKAGES = ("h5py", "pandas", "scipy")

MOST_GENES_LOST, MOST_CELLS_LOST = 0.1, 0.5
"""Shares of a sample's genes and cells above which a loss is warned of: genes are lost unasked, cells by a filter."""

FEWEST_GENES_SHARED = 0.5
"""Share of a sample's genes above which a loss is warned of more loudly."""

MOST_SAMPLES = 10
"""Samples whose losses are in one sentence; the table in the report has all."""


def _slot(_ctx: click.Context, _param: click.Parameter, value: str) -> str | None:
    """Turn a choice of --counts-from into a slot of the file; None chooses by itself."""
    try:
        return _slot_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def _slot_of(value: str, bare: bool = False) -> str | None:
    """Turn a place of counts into a slot; `bare` takes the name of a layer alone, too."""
    slots = {"auto": None, "raw": "raw/X", "raw/X": "raw/X", "X": "X"}
    if value in slots:
        return slots[value]
    for prefix in ("layer:", "layers/"):
        if value.startswith(prefix) and len(value) > len(prefix):
            return f"layers/{value.removeprefix(prefix)}"
    if bare:
        return f"layers/{value}"
    raise ValueError(f"{value!r} is not one of auto, layer:NAME, raw, X")


@program(*PACKAGES)
@click.argument("source", type=InPath, metavar="SHEET.csv|FILE")
@click.option("-o", "--output", type=OutPath, required=True, metavar="DATASET.h5ad", help="File to write.")
@click.option(
    "--batch-key", default="sample", help="Column of the cells that has their batch, or several: donor,technology."
)
@click.option("--label-key", help="Column of the cells that has their type or domain.")
@click.option(
    "--section-key",
    help="Column of the cells that says what has coordinates of its own; only cells of one section are neighbours.",
    show_default="sample of the sheet; of one h5ad section or sample, where they divide batches, else the batch",
)
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
    help="Where the counts are; auto takes the first of layers['counts'], raw and X that holds whole numbers.",
)
@click.option(
    "--gene-names",
    type=click.Choice(["auto", "symbol", "id"]),
    default="auto",
    help="What genes are named by; auto keeps the names of the files where they can be joined by them.",
)
@click.option("--allow-continuous", is_flag=True, help="Take values that are not whole numbers.", show_default=False)
@click.option("--min-counts", type=click.FloatRange(0), default=0.0, help="Drop cells with fewer counts.")
@click.option("--min-genes", type=click.IntRange(0), default=0, help="Drop cells with fewer genes.")
@click.option("--min-cells", type=click.IntRange(0), default=0, help="Drop genes found in fewer cells.")
@click.option("--n-top-genes", type=click.IntRange(1), default=2000, help="Number of highly variable genes.")
@click.option("--notes", type=OutPath, metavar="NOTES.json", help="Also write warnings and losses to this file.")
def main(
    run: Run,
    source: Path,
    output: Path,
    batch_key: str,
    label_key: str | None,
    section_key: str | None,
    staged: Path | None,
    counts_from: str | None,
    gene_names: str,
    allow_continuous: bool,
    min_counts: float,
    min_genes: int,
    min_cells: int,
    n_top_genes: int,
    notes: Path | None,
) -> None:
    """Check, join, filter and normalise samples.

    SHEET.csv has the columns sample and path, and any others to keep with the cells; a path, relative to the sheet, is
    a file or folder of any kind that is read (docs/usage.md): h5ad, h5mu, loom, zarr, 10x, Space Ranger, Xenium,
    MERSCOPE, tables of counts. FILE is one of these that has all samples, told apart by --batch-key.
    """
    import numpy as np

    from unbatch.data import genes as gene_table
    from unbatch.data import io, join, preprocess, samples, schema, sections, sparse
    from unbatch.data.notes import Notes

    if label_key == batch_key:
        raise InputError(f"--label-key and --batch-key are both {batch_key}, expected two columns")
    found_out = Notes()
    one_file = _is_data(source)
    if one_file:
        files = [_inspect_file(source, staged, counts_from)]
        obs = files[0].obs
    else:
        files, obs, keys = _inspect_sheet(source, staged, counts_from, batch_key, label_key, section_key, found_out)
        batch_key, label_key, section_key = keys
    _tell_remarks(files, found_out)
    files = gene_table.name_genes(files, gene_names, source, found_out)
    inputs = [source, *(file.path for file in files)]
    io.require_place(output, inputs)
    if notes is not None:
        io.require_place(notes, [*inputs, output])
    batch = preprocess.batches(obs, batch_key, source, found_out)
    if one_file:
        obs = _with_unique_names(files[0], batch, batch_key, found_out)
    section, section_from = sections.choose_sections(
        obs, section_key, batch, batch_key, source, not one_file, found_out
    )
    label = preprocess.labels(obs, label_key, source, found_out) if label_key else None
    genes = join.shared_genes(files, source)
    # in one file, batches are all that tells its samples apart, and they have the same genes
    group = np.asarray(batch if one_file else obs["sample"])
    sizes = dict.fromkeys(batch.categories, len(genes)) if one_file else {file.name: len(file.var) for file in files}
    coordinates = join.coordinates(files, group, found_out)
    if coordinates is not None:
        sections.warn_of_sections(obs, section, section_from, batch, coordinates, found_out)
    _tell_features(files, found_out)
    _tell_case(files, genes, found_out)

    reading = progress(files, "reading", name=lambda file: file.name)
    counts = join.counts(reading, genes, allow_continuous)
    whole = sparse.are_whole(counts)
    if not whole:
        _tell_continuous(counts, found_out)
    _tell_counts(counts, group, found_out)
    cells, found = preprocess.filters(counts, min_counts, min_genes, min_cells)
    losses = preprocess.losses(group, cells, sizes, len(genes)).assign(genes_dropped=int((~found).sum()))
    for name, values in {
        "not_genes": [sum(file.left_out.values()) for file in files],
        "counts_from": [file.slot for file in files],
        "genes_ambiguous": [_ambiguous(file) for file in files],
        "kind": [file.kind for file in files],
        "file": [file.path.name for file in files],
        "coordinates_from": [file.place if coordinates is not None else "" for file in files],
    }.items():
        losses[name] = values * (len(losses) if one_file else 1)
    _tell_losses(losses, files, genes, found_out)
    counts = sparse.subset(counts, cells, found)
    obs, batch, section, group = obs[cells], batch[cells], section[cells].remove_unused_categories(), group[cells]
    preprocess.require_batches(batch, batch_key, source, " left by the filters")
    preprocess.require_expressed(counts, obs.index, group, source)
    if len(batch.categories) == 1:
        found_out.warn(
            "one-batch",
            f"{batch_key} has one batch only ({batch.categories[0]}): there is nothing to correct, methods that need "
            "two are not applicable.",
        )

    sources = {"batch": batch_key, "label": label_key, "section": section_from}
    odd = preprocess.renamed_columns(obs)
    if odd:
        listed = ", ".join(f"{old} as {new}" for old, new in odd.items())
        found_out.warn("columns-renamed", f"Columns of the input whose names h5ad cannot hold are kept: {listed}.")
    obs, renamed = preprocess.free_reserved(preprocess.tidy(obs), sources)
    if renamed:
        kept = ", ".join(f"{old} as {new}" for old, new in renamed.items())
        found_out.tell("columns-renamed", f"Columns of the input that have names of unbatch are kept: {kept}.")
    obs["batch"] = batch
    obs["section"] = section
    if len(section.categories) != len(batch.categories):
        several = (
            f"{len(section.categories)} sections ({section_from}) in {len(batch.categories)} batches ({batch_key})"
        )
        found_out.tell("sections", f"There are {several}; neighbours are looked for within sections.")
    if label is not None:
        label = label[cells].remove_unused_categories()
        obs["label"] = label
        _tell_labels(label, label_key, found_out)
    var = preprocess.tidy(files[0].var.loc[genes[found]])
    adata = preprocess.assemble(counts, obs, var, n_top_genes=n_top_genes, seed=run.seed)
    if coordinates is not None:
        adata.obsm["spatial"] = coordinates[cells]
    adata.uns["unbatch"] = {
        "schema": schema.VERSION,
        "source": source.name,
        "parameters": _parameters(run.seed)
        | {"section_key": section_from, "batch_key": batch_key}
        | ({"label_key": label_key} if label_key else {}),
        "versions": versions(*PACKAGES),
        "counts": "integer" if whole else "continuous",
        "losses": losses,
        "notes": json.dumps(found_out.as_json(), ensure_ascii=False),
    }
    if one_file:
        _add_truth(adata, samples.read_truth(files[0]), cells, found)
    schema.validate(adata, "dataset", output)
    io.write_h5ad(adata, output)
    if notes is not None:
        io.write_json(_notes_file(adata, losses, found_out), notes)
    batches = len(batch.categories)
    several = "es" if batches > 1 else ""
    log.info("wrote %s: %d cells, %d genes, %d batch%s", output, *counts.shape, batches, several)


def _is_data(source: Path) -> bool:
    """Tell whether the source holds counts itself; anything else is a samplesheet."""
    from unbatch.data import io
    from unbatch.data.samplesheet import is_samplesheet

    if not source.is_dir():
        io.require_file(source)
    return not is_samplesheet(source)


def _inspect_file(source: Path, staged: Path | None, counts_from: str | None) -> "Sample":
    """Read all that is known before the counts are, of one file."""
    from unbatch.data import samples

    if staged:
        raise InputError(f"{source}: --staged goes with a samplesheet, not with one file of counts")
    return samples.inspect(source, source.stem, samples.Wanted(counts_from))


def _inspect_sheet(
    source: Path,
    staged: Path | None,
    counts_from: str | None,
    batch_key: str,
    label_key: str | None,
    section_key: str | None,
    notes: "Notes",
) -> "tuple[list[Sample], pd.DataFrame, tuple[str, str | None, str | None]]":
    """Read all that is known before the counts are: the samples, the table of their cells, and its columns."""
    from unbatch.data import join, samples
    from unbatch.data.samplesheet import read_samplesheet

    rows = read_samplesheet(source, staged)

    def named(place: str) -> bool:
        return any(place in row.places for row in rows)

    # columns of the joined table, where lines of the sheet name another one for each file
    if named("batch_key") and batch_key == "sample":
        batch_key = "batch"
    if named("label_key") and label_key is None:
        label_key = "label"
    if named("section_key") and section_key is None:
        section_key = "section"
    files = [samples.inspect(row.path, row.sample, _wanted(row, counts_from)) for row in rows]
    for file in files:
        samples.require_unique_cells(file)
    keys = {"batch_key": batch_key, "label_key": label_key, "section_key": section_key}
    obs = join.cells(files, rows, {place: key for place, key in keys.items() if key}, notes)
    return files, obs, (batch_key, label_key, section_key)


def _wanted(row: "Row", counts_from: str | None) -> Any:
    from unbatch.data.samples import Wanted

    place = row.places.get("counts_from")
    return Wanted(_slot_of(place, bare=True) if place else counts_from, row.places.get("spatial_key"))


def _with_unique_names(file: "Sample", batch: "pd.Categorical", key: str, notes: "Notes") -> "pd.DataFrame":
    """Return the table of the cells of one file, renamed by batch where batches share names."""
    from dataclasses import replace

    import pandas as pd

    from unbatch.data.samples import require_unique_cells

    if file.obs.index.is_unique:
        return file.obs
    index = pd.Index(pd.Series(batch.astype(str)) + "/" + pd.Series(file.obs.index, dtype=object), dtype=object)
    renamed = replace(file, obs=file.obs.set_axis(index))
    if not index.is_unique:
        require_unique_cells(file)
    shared = int(file.obs.index.duplicated(keep=False).sum())
    notes.warn(
        "cells-renamed",
        f"{shared} cells share their name with a cell of another batch: cells are named BATCH/NAME ({key}).",
        cells=shared,
    )
    return renamed.obs


def _ambiguous(file: "Sample") -> int:
    """Genes of a file that are no longer among its own: without a name of their own."""
    return file.shape[1] - len(file.var) - sum(file.left_out.values())


def _tell_remarks(files: "list[Sample]", notes: "Notes") -> None:
    """Say what the readers found, once for all samples of which it is true."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for file in files:
        for remark in file.remarks:
            said.setdefault((remark.code, remark.text, remark.severity), []).append(file.name)
    for (code, text, severity), names in said.items():
        add = notes.warn if severity == "warning" else notes.tell
        add(code, f"{some(names)}: {text}.", samples=names)


def _tell_case(files: "list[Sample]", genes: "pd.Index", notes: "Notes") -> None:
    from unbatch.data.genes import case_differs

    if len(files) < 2:
        return
    found = case_differs(files, genes)
    if found:
        listed = some((f"{count} of {name}" for name, count in found.items()), MOST_SAMPLES)
        notes.warn(
            "gene-case",
            f"Genes that samples spell in different case are left out: {listed}. If all are of one species, "
            "spell them in one way; symbols of mouse (Actb) and human (ACTB) are not the same genes.",
            samples=found,
        )


def _tell_counts(counts: "csr_matrix", group: "np.ndarray", notes: "Notes") -> None:
    """Say what is odd about the counts: cells that are in two samples, and values that are 0 and 1 only."""
    from unbatch.data import join

    pairs = join.same_cells(counts, group)
    if pairs:
        listed = some(f"{first} and {second} ({count} cells)" for first, second, count in pairs)
        notes.warn(
            "same-cells",
            f"The same cells, with identical counts, are in two samples: {listed}. A copy of a file under "
            "another name is no other batch.",
            pairs=[list(pair) for pair in pairs],
        )
    if counts.nnz > 1000 and counts.data.max() <= 1 and counts.data.min() >= 1:
        notes.warn("binary", "All counts are 0 or 1: they look like presence and absence and not like counts.")


def _tell_features(files: "list[Sample]", notes: "Notes") -> None:
    """Say where the counts are from, and what else than genes the files hold."""
    from unbatch.data.features import counted

    places: dict[str, list[str]] = {}
    for file in files:
        places.setdefault(file.slot, []).append(file.name)
    listed = "; ".join(f"{'the 10x matrix' if slot == 'matrix' else slot} of {some(of)}" for slot, of in places.items())
    # of one tool's files, all have their counts in one place
    add = notes.warn if len(places.keys() - {"matrix"}) > 1 else notes.tell
    add("counts-from", f"Counts are from {listed}.", **{slot: len(of) for slot, of in places.items()})
    several = [file for file in files if file.left_out]
    if several:
        listed = "; ".join(
            f"{counted(file.left_out)} of {file.name} ({file.typed_by})" for file in several[:MOST_SAMPLES]
        )
        more = f"; and those of {len(several) - MOST_SAMPLES} other samples" if len(several) > MOST_SAMPLES else ""
        notes.warn(
            "not-genes",
            f"Features that are no genes are left out: {listed}{more}.",
            samples={file.name: file.left_out for file in several},
        )
    untyped = {file.name: file.untyped for file in files if file.untyped}
    if untyped:
        listed = some((f"{count} of {name}" for name, count in untyped.items()), MOST_SAMPLES)
        notes.warn("untyped-genes", f"Features without a type are taken for genes: {listed}.", samples=untyped)


def _tell_continuous(counts: "csr_matrix", notes: "Notes") -> None:
    """Say what stands where whole numbers were expected."""
    from unbatch.data import sparse

    made = sparse.logarithm(counts)
    most = float(counts.data.max(initial=0))
    notes.tell(
        "continuous",
        f"Values are not whole numbers (accepted by --allow-continuous): 0 to {most:.4g}"
        f"{'' if made else ', not recognised as logarithms of counts'}.",
        most=most,
    )
    if made:
        notes.warn(
            "logarithms",
            f"These are logarithms of counts ({made}), where counts are needed: size factors, log-normalised "
            "expression and any offset will be wrong; --counts-from names another place.",
        )


def _tell_losses(losses: "pd.DataFrame", files: "list[Sample]", genes: "pd.Index", notes: "Notes") -> None:
    """Say what each sample lost, in a sentence that is a warning where it is much."""
    for sample, row in losses.iterrows():
        log.info(
            "%s: %d genes, %d of them not in all samples; %d cells, %d of them dropped",
            sample,
            row["genes"],
            row["genes_not_shared"],
            row["cells"],
            row["cells_dropped"],
        )

    def listed(what: str, lost: str, most: float) -> tuple[str, dict[str, int]]:
        much = losses[losses[lost] > most * losses[what]]
        each = {str(name): int(count) for name, count in much[lost].items()}
        text = (f"{count} of {losses.loc[name, what]} of {name}" for name, count in each.items())
        return some(text, MOST_SAMPLES), each

    text, each = listed("genes", "genes_not_shared", MOST_GENES_LOST)
    few, _ = listed("genes", "genes_not_shared", FEWEST_GENES_SHARED)
    if each:
        worst = max(files, key=lambda file: 1 - len(genes) / len(file.var))
        other = max(files, key=lambda file: (~file.var.index.isin(worst.var.index)).sum())
        absent = worst.var.index[~worst.var.index.isin(genes)][:3]
        theirs = other.var.index[~other.var.index.isin(worst.var.index)][:3]
        against = f", {other.name} has {some(theirs)}" if len(theirs) else ""
        notes.warn(
            "few-genes-shared" if few else "genes-not-shared",
            f"{'MORE THAN HALF OF THE GENES of a sample are' if few else 'Genes that are not in all samples are'} left "
            f"out{', as not all samples have them' if few else ''}: {few if few else text} (such as {some(absent)} of "
            f"{worst.name}{against}); check that all samples name genes in one way, and that none was filtered to "
            "genes of its own choice.",
            samples=each,
            genes=len(genes),
        )
    text, each = listed("cells", "cells_dropped", MOST_CELLS_LOST)
    if each:
        notes.warn("cells-dropped", f"Most cells are dropped by the filters: {text}.", samples=each)
    dropped = int(losses["genes_dropped"].max())
    if dropped:
        text = f"{dropped} of {len(genes)} shared genes dropped, found in fewer cells than --min-cells."
        notes.tell("genes-dropped", text, dropped=dropped, genes=len(genes))
    lossy = losses[(losses["genes_not_shared"] > 0) | (losses["cells_dropped"] > 0)]
    text = (
        f"{name} {row['genes_not_shared']} of {row['genes']} genes and {row['cells_dropped']} of {row['cells']} cells"
        for name, row in lossy.iterrows()
    )
    cells, genes_kept = int((losses["cells"] - losses["cells_dropped"]).sum()), len(genes) - dropped
    notes.tell(
        "kept",
        f"{cells} of {int(losses['cells'].sum())} cells and {genes_kept} genes are kept"
        + (f"; lost are of {some(text, MOST_SAMPLES)}." if len(lossy) else ", nothing is lost."),
        cells=cells,
        genes=genes_kept,
    )


def _tell_labels(label: "pd.Categorical", key: str, notes: "Notes") -> None:
    from unbatch.data.labels import about_labels

    missing = int(label.isna().sum())
    if missing:
        text = f"{missing} of {len(label)} cells have no label in {key}; they stay."
        notes.tell("no-label", text, cells=missing)
    # of the cells that are kept
    doubt = about_labels(label, key)
    if doubt:
        notes.warn(doubt.code, doubt.text, labels=doubt.labels, cells=doubt.cells)


def _notes_file(adata: "AnnData", losses: "pd.DataFrame", notes: "Notes") -> dict[str, Any]:
    """Put together what the pipeline prints: the notes, and what is left of every sample."""
    rows = losses.rename_axis("sample").reset_index().to_dict("records")
    names = [str(name) for name in adata.obs]
    return {"cells": adata.n_obs, "genes": adata.n_vars, "columns": names, "notes": notes.as_json(), "samples": rows}


def _parameters(seed: int) -> dict[str, Any]:
    """Options that decide about the result, for `uns`; h5ad has no place for None."""
    given = click.get_current_context().params
    names = (
        *("batch_key", "label_key", "counts_from", "gene_names", "allow_continuous"),
        *("min_counts", "min_genes", "min_cells"),
    )
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

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

PACKAGES = ("h5py", "pandas", "scipy")

MOST_GENES_LOST, MOST_CELLS_LOST = 0.1, 0.5
"""Shares of a sample's genes and cells above which a loss is warned of: genes are lost unasked, cells by a filter."""

MOST_SAMPLES = 10
"""Samples whose losses are in one sentence; the table in the report has all."""


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
    help="Where the counts are; auto takes layers['counts'], else raw, else X.",
)
@click.option("--allow-continuous", is_flag=True, help="Take values that are not whole numbers.", show_default=False)
@click.option("--min-counts", type=click.FloatRange(0), default=0.0, help="Drop cells with fewer counts.")
@click.option("--min-genes", type=click.IntRange(0), default=0, help="Drop cells with fewer genes.")
@click.option("--min-cells", type=click.IntRange(0), default=0, help="Drop genes found in fewer cells.")
@click.option("--n-top-genes", type=click.IntRange(1), default=2000, help="Number of highly variable genes.")
@click.option(
    "--notes", type=OutPath, metavar="NOTES.json", help="Also write what to know about the data to this file."
)
def main(
    run: Run,
    source: Path,
    output: Path,
    batch_key: str,
    label_key: str | None,
    section_key: str | None,
    staged: Path | None,
    counts_from: str | None,
    allow_continuous: bool,
    min_counts: float,
    min_genes: int,
    min_cells: int,
    n_top_genes: int,
    notes: Path | None,
) -> None:
    """Check, join, filter and normalise samples.

    SHEET.csv has the columns sample and path, and any others to keep with the cells; a path, relative to the sheet, is
    an h5ad file, a 10x .h5 file or a Space Ranger folder. FILE.h5ad has all samples, told apart by --batch-key.
    """
    import numpy as np

    from unbatch.data import io, join, preprocess, samples, schema, sections, sparse
    from unbatch.data.notes import Notes

    if label_key == batch_key:
        raise InputError(f"--label-key and --batch-key are both {batch_key}, expected two columns")
    found_out = Notes()
    files, obs = _inspect(source, staged, counts_from, found_out)
    inputs = [source, *(file.path for file in files)]
    io.require_place(output, inputs)
    if notes is not None:
        io.require_place(notes, inputs)
    batch = preprocess.batches(obs, batch_key, source)
    one_file = _is_h5ad(source)
    section, section_from = sections.choose_sections(obs, section_key, batch, batch_key, source, not one_file)
    label = preprocess.labels(obs, label_key, source) if label_key else None
    genes = join.shared_genes(files, source)
    # in one file, batches are all that tells its samples apart, and they have the same genes
    group = np.asarray(batch if one_file else obs["sample"])
    sizes = dict.fromkeys(batch.categories, len(genes)) if one_file else {file.name: len(file.var) for file in files}
    coordinates = join.coordinates(files, group, found_out)
    if coordinates is not None:
        sections.warn_of_sections(obs, section, section_from, batch, coordinates, found_out)
    _tell_features(files, found_out)

    reading = progress(files, "reading", name=lambda file: file.name)
    counts = join.counts(reading, genes, allow_continuous)
    whole = sparse.are_whole(counts)
    if not whole:
        _tell_continuous(counts, found_out)
    cells, found = preprocess.filters(counts, min_counts, min_genes, min_cells)
    losses = preprocess.losses(group, cells, sizes, len(genes)).assign(genes_dropped=int((~found).sum()))
    for name, values in {
        "not_genes": [sum(file.left_out.values()) for file in files],
        "counts_from": [file.slot for file in files],
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
        "parameters": _parameters(run.seed) | {"section_key": section_from},
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


def _is_h5ad(source: Path) -> bool:
    return source.suffix.lower() == ".h5ad"


def _inspect(
    source: Path, staged: Path | None, counts_from: str | None, notes: "Notes"
) -> "tuple[list[Sample], pd.DataFrame]":
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
    files = join.name_genes([samples.inspect(row.path, row.sample, counts_from) for row in rows], notes)
    return files, join.cells(files, rows, notes)


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
        f"Values are not whole numbers, as --allow-continuous lets pass: 0 to {most:.4g}"
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
    if each:
        worst = max(files, key=lambda file: 1 - len(genes) / len(file.var))
        other = max(files, key=lambda file: (~file.var.index.isin(worst.var.index)).sum())
        absent = worst.var.index[~worst.var.index.isin(genes)][:3]
        theirs = other.var.index[~other.var.index.isin(worst.var.index)][:3]
        against = f", {other.name} has {some(theirs)}" if len(theirs) else ""
        notes.warn(
            "genes-not-shared",
            f"Genes that are not in all samples are left out: {text} (such as {some(absent)} of {worst.name}{against});"
            " check that all samples name genes in one way.",
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
    missing = int(label.isna().sum())
    if missing:
        text = f"{missing} of {len(label)} cells have no label in {key}; they stay."
        notes.tell("no-label", text, cells=missing)
    if len(label.categories) == 1:
        text = f"All labels in {key} are {label.categories[0]}: nothing can be said about biology."
        notes.warn("one-label", text)


def _notes_file(adata: "AnnData", losses: "pd.DataFrame", notes: "Notes") -> dict[str, Any]:
    """Put together what the pipeline prints: the notes, and what is left of every sample."""
    rows = losses.rename_axis("sample").reset_index().to_dict("records")
    return {"cells": adata.n_obs, "genes": adata.n_vars, "notes": notes.as_json(), "samples": rows}


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

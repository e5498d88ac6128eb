"""Text for the methods of a paper, with references."""

from collections.abc import Callable
from typing import Any

from unbatch.report import embedding
from unbatch.report.context import Report
from unbatch.report.names import title
from unbatch.report.scores import UNCORRECTED, Card
from unbatch.report.sections.embeddings import SECTION as EMBEDDINGS
from unbatch.report.sweep import varied
from unbatch.report.text import join, parameter

_SOFTWARE = {
    "scib": (
        "Luecken et al. Benchmarking atlas-level data integration in single-cell genomics. "
        "Nat Methods 19, 41-50 (2022). doi:10.1038/s41592-021-01336-8"
    ),
    "bras": (
        "Rautenstrauch & Ohler. Shortcomings of silhouette in single-cell integration benchmarking. "
        "Nat Biotechnol (2025). doi:10.1038/s41587-025-02743-4"
    ),
    "umap": (
        "McInnes, Healy, Saul & Grossberger. UMAP: Uniform Manifold Approximation and Projection. "
        "J Open Source Softw 3, 861 (2018). doi:10.21105/joss.00861"
    ),
    "nextflow": (
        "Di Tommaso et al. Nextflow enables reproducible computational workflows. "
        "Nat Biotechnol 35, 316-319 (2017). doi:10.1038/nbt.3820"
    ),
    "multiqc": (
        "Ewels, Magnusson, Lundin & Käller. MultiQC: summarize analysis results for multiple tools and samples in a "
        "single report. Bioinformatics 32, 3047-3048 (2016). doi:10.1093/bioinformatics/btw354"
    ),
}


def _source(card: Card) -> str:
    return f"{card.citation}{f' doi:{card.doi}' if card.doi else ''}"


def _batches(data: dict[str, Any]) -> str:
    return f"{len(data['batches'])} batch{'es' if len(data['batches']) > 1 else ''}"


def _sweep(report: Report, cite: Callable[..., str]) -> str:
    """Write what was simulated, in place of a sentence per dataset."""
    swept = varied([result.dataset["simulation"] for result in report.results])
    lists = [f"{name} ({', '.join(parameter(value) for value in values)})" for name, values in swept.items()]
    data = report.results[0].dataset
    card = report.cards.get("popari")
    model = f"{card.label}'s generative model {cite(_source(card))}" if card else "a mixture of metagenes"
    models = {
        "thesis": f"{model} with an additive batch effect",
        "donors": "a log-linear model of cells of donors nested in two conditions, with a batch effect of every donor",
    }
    return (
        f"{len(report.results)} datasets were simulated by {models[data['simulation'].get('preset', 'thesis')]}"
        f"{f', with every combination of {join(lists)}' if lists else ''}; the first has {data['cells']:,} cells with "
        f"{data['genes']:,} genes from {len(data['batches'])} batches."
    )


def paper(report: Report) -> tuple[str, list[str]]:
    """Write a paragraph for a paper's methods, and the numbered references it cites."""
    versions = report.all_versions
    references: list[str] = []

    def cite(*texts: str) -> str:
        for text in texts:
            if text not in references:
                references.append(text)
        return "[" + ",".join(str(references.index(text) + 1) for text in texts) + "]"

    def version(package: str) -> str:
        return f" {versions[package]}" if package in versions else ""

    sentences = [_sweep(report, cite)] if report.sweep else []
    for result in [] if report.sweep else report.results:
        data = result.dataset
        name = f"{result.name}: " if report.several else ""
        labels = f" and {len(data['labels'])} labels" if result.labelled else ""
        sentences.append(
            f"{name}{data['cells']:,} cells with {data['genes']:,} genes from {_batches(data)}{labels} "
            f"were {'analysed' if result.single else 'integrated'}."
        )
    methods = []
    for method in dict.fromkeys(e.method for r in report.results for e in r.scored()):
        card = report.cards[method]
        package = card.package or "unbatch"
        package = f" ({package}{version(package)})"
        name = (
            card.shows and (card.shows if card.shows == UNCORRECTED else f"{card.shows} as a control")
        ) or card.label
        methods.append(f"{name}{package} {cite(_source(card))}" if card.citation else f"{name}{package}")
    seeds = len({row["seed"] for r in report.results for row in r.rows})
    if not methods:
        return "No fit ended with a result: there is nothing to describe.", []
    sentences.append(
        f"Compared were {', '.join(methods)}, each with {seeds} random seed{'s' if seeds > 1 else ''}, by unbatch"
        f"{version('unbatch')}, a Nextflow{version('nextflow')} pipeline {cite(_SOFTWARE['nextflow'])}."
    )
    first = report.results[0]
    batch, bio = (
        [title(n) for n in first.metrics.get(key, []) if any(e.metrics.get(n) for e in first.scored())]
        for key in ("batch", "bio")
    )
    sources = [_SOFTWARE["scib"], *([_SOFTWARE["bras"]] if "BRAS" in batch else [])]
    kinds = [f"{what} by {', '.join(names)}" for what, names in (("batch mixing", batch), ("biology", bio)) if names]
    if kinds:
        sentences.append(
            f"Embeddings were scored with scib-metrics{version('scib-metrics')} {cite(*sources)}: {'; '.join(kinds)}"
            + (f"; the total is {first.formula} of the means." if len(kinds) > 1 else ".")
        )
    if first.dataset.get("subsampled"):
        sentences.append(f"Scores are over a stratified random subsample of {first.dataset['scored_cells']:,} cells.")
    drawn = [len(view.chosen) for view in report.views if view.taken[EMBEDDINGS]]
    if drawn:
        sentences.append(
            f"UMAPs {cite(_SOFTWARE['umap'])} (umap-learn{version('umap-learn')}; {embedding.NEIGHBOURS} neighbours, "
            f"minimum distance {embedding.MIN_DIST:g}, {embedding.EPOCHS} epochs, start from principal components, "
            f"seed {report.seed}) show up to {max(drawn):,} cells, sampled in proportion to batch and label."
        )
    sentences.append(f"The report was made with MultiQC{version('multiqc')} {cite(_SOFTWARE['multiqc'])}.")
    own = (
        f"unbatch{version('unbatch')}: tells batch from biology in single-cell and spatial transcriptomics (software)."
    )
    references.append(own)
    return " ".join(sentences), references

"""What all pages of the report are made with.

MultiQC shows names and content as HTML as they are: what comes from outside is escaped here, by jinja's autoescape
in the templates and by `plain` in titles.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

PREFIX = "unbatch_"
MAX_SECTIONS = 12
"""Tissue sections that are drawn, and batches that are shown one by one; a dataset may have hundreds of batches."""
MAX_COLOURED = 4
"""Sections and methods for which the embedding is drawn as colour."""

PARTS = {
    "summary": ("Summary", "What the scores allow to say of the methods, and what they do not."),
    "data_warnings": ("What to know about the data", "What preprocess warned of, and what each sample lost."),
    "warnings": ("Warnings and failures", "What went wrong, and what weakens the comparison."),
    "sweep": ("Scores over the grid", "Every method at every setting of the simulation."),
    "curves": ("Curves", "How the methods bear a stronger batch effect."),
    "means": ("Table of means", "The numbers behind the maps and curves."),
    "scores": ("Scores", "Every method on every metric."),
    "tradeoff": ("Batch against biology", "What the mixing of batches costs in biology."),
    "evidence": ("Evidence and leakage", "What the batch still is in an embedding, and what the batch alone can do."),
    "umap": ("Embeddings (UMAP)", "What the embeddings look like."),
    "tissue": ("Tissue maps", "Whether an embedding follows the anatomy, and in the same way in every section."),
    "effect": (
        "The batch effect, gene by gene",
        "What differs between the batches, how sure that is, and what was refused.",
    ),
    "genomap": ("Genomaps", "Cells as images, a gene a pixel: as they are, and as if from each batch."),
    "metagenes": (
        "Metagenes",
        "The groups of genes that every cell is a mixture of, and where they are in the tissue.",
    ),
    "training": ("Training", "How the losses of autoencoders went, and which epoch was kept."),
    "truth": ("Truth against estimate", "How much of a simulation's truth a fit finds."),
    "cost": ("Run time and memory", "What a fit costs."),
    "methods": ("Methods and parameters", "What was run, how it is cited, and how it can be repeated."),
}

"""Parts of the report in its order: title and one sentence by key."""


def add_parts(parts: dict[str, tuple[str, str]]) -> None:
    """Add parts that only some methods have, after those about what fits found and before what they cost."""
    last = {name: PARTS.pop(name) for name in ("cost", "methods")}
    PARTS.update(parts)
    PARTS.update(last)


def order() -> dict[str, Any]:
    """Tell MultiQC the order of the parts, as its configuration has it."""
    return {"custom_content": {"order": [f"{PREFIX}{part}" for part in PARTS]}}


_env = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def plain(text: str, length: int = 60) -> str:
    """Make a name harmless where MultiQC would show it as HTML, even after unescaping it, as its menu does."""
    text = re.sub(r"[^\w .,:+()-]", "_", text)
    return text if len(text) <= length else text[: length - 1] + "…"


def make_page(part: str, name: str, content: str, suffix: str = "") -> dict[str, Any]:
    """Make a section of a part of the report.

    Parameters
    ----------
    part
        A key of the parts.
    name
        Title of the section; without it, that of the part.
    content
        HTML.
    suffix
        What tells the section's file from those of the part's other sections.
    """
    parent, about = PARTS[part]
    return {
        "id": f"{PREFIX}{part}{suffix and '_' + suffix}_page",
        "parent_id": f"{PREFIX}{part}",
        "parent_name": parent,
        "parent_description": about,
        "section_name": name or parent,
        "plot_type": "html",
        "data": content,
    }


def render(template: str, **context: Any) -> str:
    """Fill a template; whatever is not marked as safe is escaped."""
    return _env.get_template(f"{template}.html.j2").render(**context)


def numbered_pages(part: str, name: str, contents: dict[str, str], suffix: str) -> list[dict[str, Any]]:
    """Make several sections of a part, numbered as MultiQC would order them by their titles.

    Parameters
    ----------
    part
        A key of the parts.
    name
        What stands before each title.
    contents
        HTML by title; what is empty is left out.
    suffix
        What tells the files from those of other names.
    """
    present = [(title, content) for title, content in contents.items() if content]
    return [
        make_page(part, f"{name}, {place}. {title}", content, f"{suffix}_{place}")
        for place, (title, content) in enumerate(present, 1)
    ]

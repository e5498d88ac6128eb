"""What the report is made of: sections, each with pages, in the order of `unbatch.report.sections`.

MultiQC shows names and content as HTML as they are: what comes from outside is escaped here, by jinja's autoescape in
the templates, and by `unbatch.report.text.plain` in titles and in MultiQC's own plots.
"""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from sys import maxsize
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from unbatch.report.text import plain

if TYPE_CHECKING:
    from unbatch.report.context import Report, View
    from unbatch.report.read import Cells, Dataset, FitFile
    from unbatch.report.scores import Entry

PREFIX = "unbatch_"
MAX_TISSUES = 12
"""Tissue sections that are drawn, and batches that are shown one by one; a dataset may have hundreds of batches."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """A piece of a section, with a title of its own.

    Attributes
    ----------
    title
        Its title; without one, that of the section.
    content
        HTML; what stands above the plot if there is one, which needs a title.
    key
        What tells its file from those of the section's other pages.
    plot
        One of MultiQC's own plots: its ``plot_type``, ``data`` and so on.
    """

    title: str
    content: str
    key: str = ""
    plot: dict[str, Any] | None = None


@dataclass(eq=False)
class Section:
    """A part of the report.

    Attributes
    ----------
    id, title, about
        Its name in files and links, its title and one sentence.
    whole, each
        What makes its pages: once, and for every dataset.
    take
        What it needs of a fit; is called once for every fit that can be drawn, those that rank best first. None where
        it needs nothing of that one. What it returns is found in `View.taken`.
    most, most_in_all, omitted
        Fits of a dataset and of all datasets that are taken, and what the warnings say of those beyond.
    """

    id: str
    title: str
    about: str
    whole: "Callable[[Report], Iterable[Page]] | None" = None
    each: "Callable[[View], Iterable[Page]] | None" = None
    take: "Callable[[View, Entry, FitFile], Any | None] | None" = None
    most: int = maxsize
    most_in_all: int = maxsize
    omitted: str = ""


@dataclass(frozen=True)
class Shown:
    """What pages of a fit may know in addition to it: cells, seed of drawing orders, whether the batch was probed."""

    cells: "Cells"
    seed: int = 0
    evidence: bool = False


@dataclass(frozen=True)
class FitSection:
    """A part of the report about single fits: as `Section`, but `pages` are those of what was read of a fit."""

    id: str
    title: str
    about: str
    pages: Callable[[Any, Shown], Iterable[Page]]


@dataclass(eq=False)
class Sections:
    """What the report shows of the fits of one method, as its file declares it (``sections`` of ``methods/NAME.py``).

    Attributes
    ----------
    read
        Reads a fit; None of one that has nothing to show.
    sections
        The parts of the report, in their order; methods may have parts in common.
    omitted, most, most_in_all
        See `Section`.
    warnings
        Sentences on what was read that belong to the warnings; is also given the labels that occur in one batch only.
    """

    read: "Callable[[FitFile, Dataset], Any | None]"
    sections: tuple[FitSection, ...]
    omitted: str = "Fits whose own sections are not shown"
    most: int = 3
    most_in_all: int = 6
    warnings: Callable[[Any, list[tuple[str, str, int]]], list[str]] = lambda _fit, _confined: []


def multiqc(section: Section | FitSection, page: Page, name: str = "", suffix: str = "") -> dict[str, Any]:
    """Make MultiQC's custom content of a page.

    Parameters
    ----------
    section, page
        Section and page.
    name
        What stands before its title.
    suffix
        What tells its file from that of the same page of others.
    """
    title = ": ".join(part for part in (name, page.title) if part) or section.title
    own = "_".join(part for part in (f"{PREFIX}{section.id}", suffix, page.key) if part)
    content: dict[str, Any] = {"plot_type": "html", "data": page.content}
    if page.plot is not None:
        pconfig = {"id": own, **page.plot.get("pconfig", {})}
        content = {"description": page.content, **page.plot, "pconfig": pconfig}
    return {
        "id": f"{own}_page",
        "parent_id": f"{PREFIX}{section.id}",
        "parent_name": section.title,
        "parent_description": section.about,
        "section_name": plain(title, 160),
        **content,
    }


def order(pages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Tell MultiQC to show the pages in this order, as its configuration has it; it would go by their titles."""
    pages = list(pages)
    return {
        "custom_content": {"order": list(dict.fromkeys(page["parent_id"] for page in pages))},
        "report_section_order": {page["id"]: {"order": place} for place, page in enumerate(pages, 1)},
    }


_env = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **context: Any) -> str:
    """Fill a template of this folder, as in ``"sections/summary"``; whatever is not marked as safe is escaped."""
    return _env.get_template(f"{template}.html.j2").render(**context)


@cache
def style() -> Markup:
    """Return the style sheet of all pages, with the logo in it."""
    logo = base64.b64encode((HERE / "logo.svg").read_bytes()).decode()
    return Markup((HERE / "style.css").read_text(encoding="utf-8").replace("LOGO", f"data:image/svg+xml;base64,{logo}"))

"""Settings of the documentation site, which `make site` builds into build/site.

The root of the sources is the repository: README.md and the pages of docs/ are read as they are, and links between them
are the same on a forge and on the site.
"""

import inspect
import re
import shutil
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from unbatch import __version__  # noqa: E402

project = "unbatch"
copyright = "the authors of unbatch, MIT licence"  # noqa: A001
version = release = __version__

root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CITATIONS.md", "CONTRIBUTING.md", "docs/**.md"]
# folders that are never searched for pages
exclude_patterns = [".*", "build", "results*", "work"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# the anchors of headings that forges make, too
myst_heading_anchors = 4
# tables of parameters are two levels below their section
suppress_warnings = ["myst.header"]
lexers["csv"] = TextLexer()

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
# fields of a dataclass are listed once, under Attributes
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"unbatch {__version__}"
html_favicon = "../bin/unbatch/report/logo.svg"
html_show_sphinx = False
html_copy_source = False

CONTENTS = {
    "Tutorials": ["own-data", "reading-the-report", "another-batch", "adding-a-method"],
    "Guide": ["usage", "methods", "metrics", "report", "output", "positions", "platforms", "reproducibility"],
    "Reference": ["api/index", "api/models", "api/metrics", "api/positions", "api/contract"],
    "Project": ["results/index", "developing", "decisions/index", "CONTRIBUTING", "CHANGELOG", "CITATIONS"],
}
"""Pages in the order of the navigation."""
FOLDERS = {"Tutorials": "docs/tutorials/", "Guide": "docs/", "Reference": "docs/", "Project": "docs/"}


def contents() -> str:
    """Return the navigation, which the first page holds on the site only."""
    trees = []
    for caption, pages in CONTENTS.items():
        paths = [f"/{'' if page.isupper() else FOLDERS[caption]}{page}" for page in pages]
        trees += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *paths, "```", ""]
    return "\n".join(trees)


def of_folder(folder: str) -> str:
    """Return the pages of a folder as a list, and for the navigation below its index."""
    paths = sorted(path.stem for path in (ROOT / folder).glob("*.md") if path.stem != "index")
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *paths, "```", ""])


def read(app: Any, docname: str, source: list[str]) -> None:
    """Add the navigation, and leave the text alone of links to folders, which only a forge can show."""
    here = (ROOT / docname).parent

    def text_alone(link: re.Match[str]) -> str:
        return link[1] if (here / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]*)\]\(([^)\s:#]+)\)", text_alone, source[0])
    if docname == root_doc:
        source[0] += "\n" + contents()
    elif docname in ("docs/results/index", "docs/decisions/index"):
        source[0] += "\n" + of_folder(docname.removesuffix("/index"))


def as_written(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Read docstrings as this project writes them: single backticks are code, and bars are absolute values."""
    literal = False
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            literal = False
        if not literal:
            line = re.sub(r"(?<![`:\w])`([^`]+)`(?![`_])", r"``\1``", line)
            lines[number] = "``".join(
                part if code else part.replace("|", "\\|") for code, part in zip(cycle((False, True)), line.split("``"))
            )
        literal = literal or line.endswith("::")


def named_values(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out constants whose value would fill pages, and what dataclasses make of their fields."""
    return True if what == "class" and not inspect.isroutine(thing) and not isinstance(thing, property) else None


def first_page(app: Any, error: Exception | None) -> None:
    """Make index.html, which a web server shows for a folder, a copy of the first page."""
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    """Connect the above."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", as_written, priority=400)
    app.connect("autodoc-skip-member", named_values)
    app.connect("build-finished", first_page)

#!/usr/bin/env python3
"""Write what the method cards say into the documentation, between its `<!-- cards: ... -->` marks.

`make docs` runs it; with --check it only says whether a file is out of date.
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def short_table(cards: dict) -> str:
    """Name, kind and summary of every method."""
    rows = [f"| {card['label']} | `{name}` | {card['kind']} | {card['summary']} |" for name, card in cards.items()]
    return "\n".join(["| Method | Name | Kind | What it does |", "|---|---|---|---|", *rows])


def _written(value: object) -> str:
    """Write a value as in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _where(card: dict) -> str:
    """Name what brings the package, if it is not there anyway."""
    extra = f"`unbatch[{card['extra']}]`" if card["extra"] else ""
    image = f"`{card['image']}`" if card["image"] else ""
    return ", ".join(part for part in (extra, image) if part) or "–"


def full_table(cards: dict) -> str:
    """Everything a user needs to choose and to set a method."""
    rows = []
    for name, card in cards.items():
        needs = ", ".join(card["needs"]) or "counts, batch"
        settings = ", ".join(f"`{key}: {_written(value)}`" for key, value in card["defaults"].items()) or "none"
        rows.append(
            f"| {card['label']} | `{name}` | {card['kind']} | {card['summary']} | {needs} | {settings} "
            f"| {card['package'] or 'unbatch'} ({card['licence']}) | {_where(card)} |"
        )
    head = "| Method | Name | Kind | What it does | Needs | Parameters | Package (licence) | Extra, image |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


def citations(cards: dict) -> str:
    """One line per method."""
    lines = []
    for card in cards.values():
        doi = f" doi:{card['doi']}" if card["doi"] else ""
        own = "" if card["package"] else "; the code is unbatch's own"
        lines.append(f"- **{card['label']}**: {card['citation']}{doi}{own}")
    return "\n".join(lines)


def fill(page: str, table: str) -> tuple[str, int]:
    """Put a table between the marks of a page; return the page and how many pairs of marks it has."""
    marks = r"(<!-- cards: begin -->\n).*?(<!-- cards: end -->)"
    return re.subn(marks, lambda found: f"{found[1]}{table}\n{found[2]}", page, flags=re.DOTALL)


PAGES = {
    "README.md": short_table,
    "docs/methods.md": full_table,
    "CITATIONS.md": citations,
}


def main() -> int:
    """Rewrite the pages, or check them; return how many were out of date."""
    cards = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))
    stale = 0
    for name, write in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        fresh, found = fill(text, write(cards))
        if found != 1:
            sys.exit(f"{name}: expected one pair of '<!-- cards: begin -->' and '<!-- cards: end -->', found {found}")
        if fresh != text:
            stale += 1
            print(f"{name}: out of date with assets/methods.yml")
            if "--check" not in sys.argv:
                page.write_text(fresh, encoding="utf-8")
    return stale


if __name__ == "__main__":
    count = main()
    sys.exit(count if "--check" in sys.argv else 0)

#!/usr/bin/env python3
"""Write what methods declare and what their cards say to where others read it.

`make docs` runs it: ``assets/parameters.json``, which the workflow checks values against, and the parts of the pages
between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``. With --check it only says whether something is out of date.
"""

import json
import re
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bin"))

from unbatch import contract, methods
from unbatch.data.simulation import PRESETS, preset
from unbatch.methods import Method

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("label", "program", "kind", "summary", "licence", "citation", "run")
"""Fields of every card; `package`, `doi`, `extra` and `image` may be missing, which is the same as null."""


def read_cards() -> dict[str, dict]:
    """Read the cards; end with a sentence and exit code 2 where one lacks a field or a file."""
    cards = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))
    for name, card in cards.items():
        absent = [field for field in NEEDED if not (isinstance(card, dict) and card.get(field))]
        if absent:
            print(f"assets/methods.yml: {name} lacks {', '.join(absent)}", file=sys.stderr)
        if name not in methods.names():
            print(f"assets/methods.yml: {name} has no file bin/unbatch/methods/{name}.py", file=sys.stderr)
        if absent or name not in methods.names():
            sys.exit(2)
        cards[name] = dict.fromkeys(("package", "doi", "extra", "image")) | card
    return cards


CARDS = read_cards()
METHODS = {name: methods.load(name) for name in CARDS}


def one_line() -> str:
    """Name the methods that run by default, and those that run when they are named."""
    usual, asked = ([card["label"] for card in CARDS.values() if card["run"] == run] for run in ("default", "asked"))
    return (
        f"{len(usual)} by default: {', '.join(usual)}; {len(asked)} more on request (`--methods`), as they take "
        f"longer or need further packages: {', '.join(asked)}."
    )


def full_table() -> str:
    """Everything a user needs to choose a method."""
    rows = []
    for name, card in CARDS.items():
        extra = f"`unbatch[{card['extra']}]`" if card["extra"] else ""
        image = f"`{card['image']}`" if card["image"] else ""
        rows.append(
            f"| {card['label']} | `{name}` | {card['kind']} | {card['summary']} | {needs(METHODS[name])} "
            f"| {card['package'] or 'unbatch'} ({card['licence']}) "
            f"| {', '.join(part for part in (extra, image) if part) or '–'} |"
        )
    head = "| Method | Name | Kind | What it does | Needs | Package (licence) | Extra, image |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def needs(method: Method) -> str:
    """Name what must be there in addition to counts."""
    found = ["labels"] * method.needs.labels + ["coordinates"] * method.needs.coordinates
    found += ["whole counts"] * method.needs.integers
    return ", ".join(["one batch or more" if method.needs.batches == 1 else "two batches or more", *found])


def parameters() -> str:
    """All parameters of every method: value, range, default, description."""
    lines = []
    for name, method in METHODS.items():
        lines += [f"#### `{name}`", "", "| Parameter | Takes | Default | Is |", "|---|---|---|---|"]
        for key, rule in contract.rules(method.params).items():
            default = json.dumps(rule["default"]).replace('"', "")
            about = rule["description"].replace("|", "\\|")
            lines.append(f"| `{key}` | {contract.expected(rule)} | `{default}` | {about} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def slots() -> str:
    """List the slots of a fit that methods declare."""
    lines = ["| Method | Slot | Holds |", "|---|---|---|"]
    for name, method in METHODS.items():
        for slot, declared in method.slots.items():
            group, _, key = slot.partition("/")
            where = f"uns['unbatch']['{key}']" if group == "uns" else f"{group}['{key}']"
            lines.append(f"| `{name}` | `{where}` | {declared.about} |")
    return "\n".join(lines)


def citations() -> str:
    """One line per method."""
    lines = []
    for card in CARDS.values():
        doi = f" doi:{card['doi']}" if card["doi"] else ""
        own = "" if card["package"] else "; the code is unbatch's own"
        lines.append(f"- **{card['label']}**: {card['citation']}{doi}{own}")
    return "\n".join(lines)


def fill(page: str, name: str, text: str) -> tuple[str, int]:
    """Put text between the marks of a page; return the page and how many pairs of marks it has."""
    marks = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
    return re.subn(marks, lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.DOTALL)


PAGES = {
    "README.md": {"cards": one_line},
    "docs/methods.md": {"cards": full_table, "parameters": parameters},
    "docs/output.md": {"slots": slots},
    "CITATIONS.md": {"cards": citations},
}


def simulation() -> dict[str, dict]:
    """Describe the parameters of the simulations as the pipeline has them; each preset has defaults of its own."""
    found: dict[str, dict] = {
        "sim_preset": {
            "type": "string",
            "default": PRESETS[0],
            "enum": list(PRESETS),
            "description": "What is simulated: thesis, a layered tissue whose batches add metagenes; donors, cells of "
            "donors nested in two conditions, each donor a batch",
        }
    }
    presets = {name: contract.rules(preset(name).Parameters) for name in PRESETS}
    for name in dict.fromkeys(key for rules in presets.values() for key in rules):
        having = {each: rules[name] for each, rules in presets.items() if name in rules}
        only, first = len(having) == 1, next(iter(having.values()))
        values = [rule["default"] for rule in having.values()]
        defaults = dict.fromkeys(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
        lows = [rule["minimum"] for rule in having.values() if "minimum" in rule]
        rule = {key: first[key] for key in ("type", "enum") if key in first}
        rule |= {"minimum": min(lows)} if len(lows) == len(having) else {}
        rule |= {"maximum": first["maximum"]} if only and "maximum" in first else {}
        about = first["description"][0].upper() + first["description"][1:]
        about = f"{next(iter(having))}: {first['description']}" if only else about
        found[f"sim_{name}"] = rule | {"description": f"{about} ({'; donors '.join(defaults)})"}
    found["sim_seed"] = {"type": "integer", "default": 0, "minimum": 0, "description": "Seed of the simulation"}
    return found


def schema() -> str:
    """Put the parameters of the simulations into the schema of the pipeline's, a line each."""
    text = (ROOT / "nextflow_schema.json").read_text(encoding="utf-8")
    rules = {name: json.dumps(rule, ensure_ascii=False)[1:-1] for name, rule in simulation().items()}
    lines = ",\n".join(f'                "{name}": {{ {rule} }}' for name, rule in rules.items())
    return re.sub(r'( +"sim_\w+": \{.*\},?\n)+', lambda _found: lines + "\n", text, count=1)


def fresh_files() -> dict[str, str]:
    """Every file as it should be."""
    rules = {
        name: {
            "needs": needs(method),
            "model": method.applies,
            "gpu": method.needs.gpu,
            "parameters": contract.rules(method.params),
        }
        for name, method in METHODS.items()
    }
    fresh = {"assets/parameters.json": json.dumps(rules, indent=1, ensure_ascii=False) + "\n"}
    fresh["nextflow_schema.json"] = schema()
    for page, parts in PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, write in parts.items():
            text, found = fill(text, name, write())
            if found != 1:
                sys.exit(
                    f"{page}: expected one pair of '<!-- {name}: begin -->' and '<!-- {name}: end -->', found {found}"
                )
        fresh[page] = text
    return fresh


def main() -> int:
    """Rewrite what is out of date, or only name it; return how many files were."""
    stale = 0
    for name, text in fresh_files().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if "--check" in sys.argv:
            print(f"{name}: out of date with assets/methods.yml or bin/unbatch/methods")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return stale


if __name__ == "__main__":
    count = main()
    sys.exit(count if "--check" in sys.argv else 0)

"""Spatial domains of the embeddings, by two clusterers, with and without a vote of neighbours; and neighbourhoods."""

from collections.abc import Iterable, Iterator
from typing import Any

from unbatch.report.context import View
from unbatch.report.scores import Entry, Spread, number
from unbatch.report.section import MAX_TISSUES, Page, Section, render
from unbatch.report.text import decimals

RULES = {
    "kmeans": "k-means",
    "kmeans_voted": "k-means, vote",
    "mixture": "mixture",
    "mixture_voted": "mixture, vote",
}
SCORES = {"nmi": "NMI", "ari": "ARI", "pas": "PAS ↓", "chaos": "CHAOS ↓"}


def _pages(view: View) -> Iterator[Page]:
    result = view.result
    sections = (result.space or {}).get("sections") or {}
    entries = [entry for entry in result.scored() if any(row.get("space") for row in entry.compared)]
    if not sections or not entries:
        return
    shown = list(sections)[:MAX_TISSUES]
    labelled = any(each["clusters"] >= 2 for each in sections.values())
    parts = [{"title": "", "about": "", "tables": _tables(entries, list(sections), labelled)}]
    if len(sections) > 1:
        parts += [
            {"title": name, "about": _about(sections[name]), "tables": _tables(entries, [name], labelled)}
            for name in shown
        ]
    yield Page(
        "",
        render(
            "sections/space",
            parts=parts,
            labelled=labelled,
            only=_about(next(iter(sections.values()))) if len(sections) == 1 else "",
            sections=len(sections),
            cells=f"{sum(each['scored_cells'] for each in sections.values()):,}",
            unlabelled=sum(each["unlabelled"] or 0 for each in sections.values()),
            left_out=result.space.get("left_out") or {},
            settings=result.space,
            hidden=len(sections) - len(shown) if len(sections) > 1 else 0,
            seeds=max(len(entry.compared) for entry in entries),
            sentence=_moves(entries, list(sections)),
        ),
    )


def _about(section: dict[str, Any]) -> str:
    words = [f"{section['cells']:,} cells"]
    if section["scored_cells"] < section["cells"]:
        words.append(f"{section['scored_cells']:,} of them drawn")
    if section["clusters"] >= 2:
        words.append(f"{section['clusters']} labels, as many clusters")
    else:
        words.append("fewer than two labels or more than 100, therefore no clusters")
    if section["unlabelled"]:
        words.append(f"{section['unlabelled']:,} without a label")
    return ", ".join(words)


def mean(entry: Entry, sections: Iterable[str], rule: str, score: str) -> float | None:
    """Mean of a score over seeds and sections, of those that have it; ``kept`` is a score without a rule."""
    values = []
    for row in entry.compared:
        for name in sections:
            found = (row.get("space") or {}).get(name) or {}
            found = found if not rule else found.get(rule) or {}
            values.append(number(found.get(score)))
    spread = Spread.of(values)
    return spread and spread.mean


def _tables(entries: list[Entry], sections: list[str], labelled: bool) -> list[dict[str, Any]]:
    """Lay out the tables: agreement with labels by rule, and what the domains are like in space."""
    found = []
    for scores in (("nmi", "ari"), ("pas", "chaos")) if labelled else ():
        groups = [{"title": SCORES[score], "columns": list(RULES.values())} for score in scores]
        rows = [
            {
                "label": entry.label,
                "cells": [
                    decimals(mean(entry, sections, rule, score), 4 if score == "chaos" else 3)
                    for score in scores
                    for rule in RULES
                ],
            }
            for entry in entries
        ]
        found.append({"groups": groups, "rows": rows, "folded": scores[0] == "pas"})
    kept = [{"label": entry.label, "cells": [decimals(mean(entry, sections, "", "kept"), 3)]} for entry in entries]
    found.append({"groups": [{"title": "", "columns": ["Neighbours kept"]}], "rows": kept, "folded": labelled})
    return found


def _moves(entries: list[Entry], sections: list[str]) -> str:
    """Say how far the rule moves the ARI of one embedding, and how far embeddings are apart by one rule."""
    real = [entry for entry in entries if entry.kind != "control"]
    table = [[mean(entry, sections, rule, "ari") for rule in RULES] for entry in real]
    table = [row for row in table if None not in row]
    if len(table) < 2:
        return ""
    by_rule = max(max(row) - min(row) for row in table)
    by_method = max(max(column) - min(column) for column in zip(*table, strict=True))
    return (
        f"How clusters are made moves the ARI of one embedding by up to {by_rule:.2f}; the embeddings, controls "
        f"left out, are up to {by_method:.2f} apart in one column."
    )


SECTION = Section(
    "space",
    "Spatial domains",
    "How well clusters of each section agree with its labels, and how much of the tissue's neighbourhoods is kept.",
    each=_pages,
)

"""Null calibration: what each method does to one batch that is called two, next to what another seed does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unbatch.report import draw
from unbatch.report.context import View
from unbatch.report.draw import FAINT, INK
from unbatch.report.scores import Card, number
from unbatch.report.section import Page, Section, render
from unbatch.report.text import NONE, cut, decimals, join, plus_minus, share

SPLITS = {"random": "Halves at random", "unlike": "Halves of unlike composition"}
COLOURS = {"random": "#0072B2", "unlike": "#D55E00"}
MARKS = {"random": "o", "unlike": "^"}

NOTES = {
    "displaced_random": "{names}: halves drawn at random displace more neighbours than another seed does.",
    "displaced_unlike": "{names}: halves of unlike composition displace more neighbours than another seed does.",
    "mixed": "{names}: different {kinds} are mixed where the halves differ in composition.",
    "genes_random": "{names}: in the corrected expression, genes differ between halves that were drawn at random.",
    "genes_unlike": (
        "{names}: in the corrected expression, genes differ between halves of unlike composition, among cells of the "
        "same kind."
    ),
}
"""What a code of `unbatch.calibration.Code` says of the methods that have it."""


@dataclass(frozen=True)
class Line:
    """A method with fits: its label and kind, and its row of calibration.json."""

    label: str
    kind: str
    row: dict[str, Any]

    def of(self, split: str, what: str) -> dict[str, float | None]:
        """Mean and ends of the interval of what a split does; empty where there is none."""
        return self.row["splits"][split].get(what) or {}


def _pages(view: View) -> Iterator[Page]:
    found = view.calibration
    if not found:
        return
    lines = [
        Line(_label(row, view.report.cards), view.report.cards[row["method"]].kind, row)
        for row in found["rows"]
        if row["status"] == "ok" and row["method"] in view.report.cards
    ]
    # the least change comes first; controls last
    lines.sort(key=lambda line: (line.kind == "control", _mean(line, "unlike"), line.label))
    without = [row for row in found["rows"] if row["status"] != "ok" and row["method"] in view.report.cards]
    about = found["dataset"]
    yield Page(
        "",
        render(
            "sections/calibration",
            batch=about["batch"],
            cells=f"{about['cells']:,}",
            drawn=f"{about['cells_of_batch']:,}" if about["cells_of_batch"] > about["cells"] else "",
            kinds=about["kinds"],
            halves=[f"{size:,}" for size in about["halves"]["unlike"]],
            settings=found["settings"] | {"percent": share(found["settings"]["share"])},
            notes=notes(lines, about["kinds"]),
            image=picture(lines) if lines else "",
            described=[f"{line.label}: {_lost(line, 'random')} and {_lost(line, 'unlike')}" for line in lines],
            rows=[_cells(line) for line in lines],
            expression=any(line.row["genes"] for line in lines),
            factors=any(line.row["factors"] for line in lines),
            without=[
                {"label": _label(row, view.report.cards), "status": row["status"], "message": cut(row["message"], 200)}
                for row in without
            ],
        ),
    )


def _label(row: dict[str, Any], cards: dict[str, Card]) -> str:
    label = cards[row["method"]].label
    return label if row["params_id"] == "default" else f"{label} ({row['params_id']})"


def _mean(line: Line, split: str) -> float:
    return number(line.of(split, "lost").get("mean")) or 0.0


def notes(lines: Sequence[Line], kinds: str) -> list[str]:
    """Say which methods do something without cause; controls are left out, as they are made to.

    Parameters
    ----------
    lines
        The methods with fits.
    kinds
        What the halves of unlike composition were made of: ``"labels"`` or ``"clusters"``.
    """
    real = [line for line in lines if line.kind != "control"]
    said = []
    for code, text in NOTES.items():
        names = [f"{cut(line.label, 40)}{_size(line, code)}" for line in real if code in line.row["codes"]]
        if names:
            said.append(text.format(names=join(names), kinds=kinds))
    return said


def _size(line: Line, code: str) -> str:
    """How much is displaced or called, in brackets."""
    what, _, split = code.partition("_")
    if what == "displaced":
        return f" ({share(_mean(line, split))})"
    return f" ({share(line.row['genes'][split]['called'])})" if what == "genes" else ""


def _interval(found: dict[str, Any] | None) -> str:
    """Write a mean and half the width of its interval."""
    mean, high = (number((found or {}).get(key)) for key in ("mean", "high"))
    if mean is None:
        return NONE
    if mean == high == 0:
        return "0"
    # small values of either sign are 0.000
    return plus_minus(
        round(mean, 3) or 0.0, None if high is None else high - mean, lambda value: decimals(value, 3).replace("-", "−")
    )


def _lost(line: Line, split: str) -> str:
    return decimals(number(line.of(split, "lost").get("mean")), 3)


def _cells(line: Line) -> dict[str, Any]:
    row = line.row
    genes, factors = row["genes"] or {}, row["factors"] or {}
    shares = []
    for split in SPLITS:
        found = genes.get(split) or {}
        called, before = number(found.get("called")), number(found.get("uncorrected"))
        shares.append(NONE if called is None else f"{share(called)} ({share(before or 0.0)})")
    kept = row["own_kind"]
    return {
        "label": line.label,
        "noise": [_interval(line.of(split, "noise")) for split in SPLITS],
        "lost": [_interval(line.of(split, "lost")) for split in SPLITS],
        "beyond": [bool(row["splits"][split]["beyond"]) for split in SPLITS],
        "mixing": [decimals(number(row["mixing"][when]), 3) for when in ("before", "after")],
        "kind": [decimals(number(kept["before"]), 3), _interval(kept["change"])],
        "genes": shares,
        "factors": [NONE if number(factors.get(split)) is None else share(factors[split]) for split in SPLITS],
    }


def picture(lines: Sequence[Line]) -> str:
    """Draw what splits displace, a mark for each with its interval, on a bar for what another seed displaces."""
    with draw.figure(9.2, 1.5 + 0.42 * len(lines)) as figure:
        axes = figure.subplots()
        for place, line in enumerate(lines):
            for split, offset in (("random", 0.17), ("unlike", -0.17)):
                noise = number(line.of(split, "noise").get("mean"))
                y = len(lines) - place + offset
                if noise is not None:
                    axes.barh(y, noise, height=0.3, color="#D5DBE1", zorder=1)
                lost = line.of(split, "lost")
                mean, low, high = (number(lost.get(key)) for key in ("mean", "low", "high"))
                if mean is None:
                    continue
                ends = [max(low, 0.0), min(high, 1.0)] if low is not None and high is not None else [mean, mean]
                axes.plot(ends, [y, y], color=COLOURS[split], lw=1.4, zorder=2, solid_capstyle="butt")
                beyond = line.row["splits"][split]["beyond"]
                axes.plot(
                    mean, y, MARKS[split], color=COLOURS[split], markersize=7, zorder=3,
                    markerfacecolor=COLOURS[split] if beyond else "white",
                )  # fmt: skip
        axes.set_yticks([len(lines) - place for place in range(len(lines))], [cut(line.label, 34) for line in lines])
        axes.set_ylim(0.4, len(lines) + 0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#EEF1F4", zorder=0)
        axes.set_axisbelow(True)
        axes.set_xlabel("Share of the nearest neighbours that are lost", color=INK)
        handles = [axes.plot([], [], MARKS[split], color=COLOURS[split], markersize=7)[0] for split in SPLITS]
        handles.append(axes.barh(0, 0, color="#D5DBE1", edgecolor=FAINT))
        labels = [*(title.lower() for title in SPLITS.values()), "another seed"]
        axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
        return draw.svg(figure)


SECTION = Section(
    "calibration",
    "Null calibration",
    "What each method does to the halves of one batch, between which there is no batch effect.",
    each=_pages,
)

"""What the mixing of batches costs in biology: a scatter plot with bars over seeds and lines of equal total."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from unbatch.report import draw
from unbatch.report.context import View
from unbatch.report.draw import FAINT, INK, KIND_COLOURS, KIND_MARKS
from unbatch.report.scores import Entry
from unbatch.report.section import Page, Section, render
from unbatch.report.text import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = {"correction": "correction", "reference": "reference (no correction)", "control": "control"}


def _pages(view: View) -> Iterator[Page]:
    entries = [entry for entry in view.result.scored() if entry.batch and entry.bio]
    if entries:
        image = scatter(entries, view.result.weights)
        hollow = any(not entry.complete for entry in entries)
        yield Page("", render("sections/tradeoff", entries=entries, hollow=hollow, image=image))


def scatter(entries: Sequence[Entry], weights: dict[str, float]) -> str:
    """Draw biology against batch score with a label at every method and ranges over seeds.

    Parameters
    ----------
    entries
        Methods with both scores.
    weights
        Weights of ``batch`` and ``bio`` in the total, for lines of equal total.
    """
    from adjustText import adjust_text

    with draw.figure(9.2, 6.0) as figure:
        axes = figure.subplots()
        spans = [
            (min(getattr(e, k).low for e in entries), max(getattr(e, k).high for e in entries))
            for k in ("batch", "bio")
        ]
        for (low, high), set_limits in zip(spans, (axes.set_xlim, axes.set_ylim), strict=True):
            pad = max((high - low) * 0.16, 0.04)
            set_limits(low - pad, high + pad)
        _total_lines(axes, weights)
        texts = []
        for entry in entries:
            colour, x, y = KIND_COLOURS.get(entry.kind, INK), entry.batch, entry.bio
            axes.errorbar(
                x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]], yerr=[[y.mean - y.low], [y.high - y.mean]],
                fmt=KIND_MARKS.get(entry.kind, "o"), color=colour if entry.complete else "white", ecolor=colour,
                markeredgecolor=colour, markersize=8, elinewidth=1.2, zorder=3,
            )  # fmt: skip
            texts.append(
                axes.text(x.mean, y.mean, cut(entry.label, 34), color=colour, ha="center", va="center", zorder=4)
            )
        axes.set_xlabel("Batch score (batches mix better →)")
        axes.set_ylabel("Biology score (labels kept better →)")
        kinds = [kind for kind in KIND_MARKS if any(e.kind == kind for e in entries)]
        handles = [
            axes.plot([], [], KIND_MARKS[k], color=KIND_COLOURS[k], markersize=8, label=_KINDS[k])[0] for k in kinds
        ]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        # the layout must be final when labels are placed
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        adjust_text(
            texts, objects=_boxes(axes, entries), ax=axes, expand=(1.12, 1.35), max_move=None, iter_lim=500,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.8},
        )  # fmt: skip
        return draw.svg(figure)


def _boxes(axes: "Axes", entries: Sequence[Entry]) -> list[Bbox]:
    """Boxes around marks and bars, which labels must not cover; in data's coordinates, with margins in pixels."""
    low, middle, high = (
        axes.transData.transform([[getattr(e.batch, end), getattr(e.bio, end)] for e in entries])
        for end in ("low", "mean", "high")
    )
    boxes = []
    for (x0, y0), (x, y), (x1, y1) in zip(low, middle, high, strict=True):
        boxes += [[(x0 - 8, y - 6), (x1 + 8, y + 6)], [(x - 6, y0 - 8), (x + 6, y1 + 8)]]
    return [Bbox(axes.transData.inverted().transform(box)) for box in boxes]


def _total_lines(axes: "Axes", weights: dict[str, float]) -> None:
    """Draw lines of equal total, by which the eye can rank."""
    batch, bio = weights["batch"], weights["bio"]
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    levels = MaxNLocator(7, steps=[1, 2, 2.5, 5]).tick_values(batch * x0 + bio * y0, batch * x1 + bio * y1)
    for level in levels:
        axes.plot([x0, x1], [(level - batch * x) / bio for x in (x0, x1)], color="#DDE3E8", lw=1, zorder=0)
        # written where the line leaves the frame, right or at the bottom
        right = (level - batch * x1) / bio
        if y0 <= right <= y1:
            axes.annotate(
                f"{level:.2g}", (x1, right), xytext=(3, 0), textcoords="offset points", va="center", color=FAINT, size=9
            )
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)


SECTION = Section(
    "tradeoff", "Batch against biology", "Mixing of batches against conservation of biology.", each=_pages
)

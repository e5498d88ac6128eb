"""Figures: arrays in, image files as data addresses out. The same input gives the same bytes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from unbatch.report.scores import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito 2008, tell apart with any colour vision; yellow last, as it is weak on white
OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
MISSING = "#C8C8C8"
INK, FAINT = "#1F2933", "#9AA5B1"
KIND_COLOURS = {"correction": "#0072B2", "reference": "#8A5A00", "control": "#6B7785"}
KIND_MARKS = {"correction": "o", "reference": "s", "control": "D"}

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "unbatch",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Legend:
    """Categories with the colours that they have in every figure; names are as given, escape them for HTML."""

    names: list[str]
    colours: list[str]
    numbered: bool = False


def legend(names: Sequence[str], numbered: bool = False) -> Legend:
    """Give categories colours.

    Okabe-Ito for up to 8; for more matplotlib's tab20, its saturated half first, then tab20b and tab20c, repeated
    beyond these 54.

    Parameters
    ----------
    names
        Categories, in the order of their codes.
    numbered
        Number categories above 8, to be written into the figure as well, since colours alone can't be told apart.
    """
    if len(names) <= len(OKABE_ITO):
        return Legend(list(names), OKABE_ITO[: len(names)])
    # without their greys, which mean that there is no category
    tab20 = [colour for place, colour in enumerate(mpl.colormaps["tab20"].colors) if place not in (14, 15)]
    rest = [*mpl.colormaps["tab20b"].colors, *mpl.colormaps["tab20c"].colors[:16]]
    many = [mpl.colors.to_hex(colour) for colour in (*tab20[::2], *tab20[1::2], *rest)]
    return Legend(list(names), [many[i % len(many)] for i in range(len(names))], numbered)


def section_colours(names: Sequence[str], batches: Sequence[Sequence[int]]) -> list[str]:
    """Give each section the colour of its batch, and a grey one where it holds several.

    Parameters
    ----------
    names
        Of the batches.
    batches
        Codes of the batches that have cells in each section.
    """
    colours = legend(names).colours
    return [colours[own[0]] if len(own) == 1 else FAINT for own in batches]


def palette(colours: Legend) -> np.ndarray:
    """Return the colours as a table for codes; the last row, which -1 picks, is that of cells without a category."""
    return np.array([mpl.colors.to_rgba(colour) for colour in [*colours.colours, MISSING]])


def cells(
    positions: np.ndarray,
    codes: np.ndarray,
    colours: Legend,
    seed: int,
    pixels: int = 560,
) -> str:
    """Draw cells coloured by category, in shuffled order, on axes of equal scale.

    Parameters
    ----------
    positions
        n x 2.
    codes
        Category of every cell; -1 for none, drawn first and grey.
    colours
        Of the categories.
    seed
        Of the drawing order.
    pixels
        Side of the square picture.
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    order = np.concatenate([order[codes[order] < 0], order[codes[order] >= 0]])
    figure, axes = _square(pixels)
    # as much ink for 100 cells as for 10,000, within what can be seen
    side = np.clip(280 / np.sqrt(len(codes)), 2.2, 7.0) / 2
    axes.scatter(*positions[order].T, s=side**2, c=palette(colours)[codes[order]], linewidths=0, antialiased=False)
    _equal(axes, positions)
    if colours.numbered:
        for code in np.unique(codes[codes >= 0]):
            axes.annotate(
                str(code + 1),
                _densest(positions[codes == code]),
                xytext=(4, 4),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold",
                path_effects=[withStroke(linewidth=2.2, foreground="white")],
            )
    return png(figure, palette(colours))


def _densest(positions: np.ndarray) -> np.ndarray:
    """Position amid most others: unlike the median, never between two groups."""
    from sklearn.neighbors import NearestNeighbors

    k = max(int(np.sqrt(len(positions))), 1)
    distances, indices = NearestNeighbors(n_neighbors=k).fit(positions).kneighbors(positions)
    return positions[indices[np.argmin(distances[:, -1])]].mean(axis=0)


def tissue(
    positions: np.ndarray,
    colours: np.ndarray,
    extent: np.ndarray,
    known: np.ndarray | None = None,
    pixels: int = 480,
) -> str:
    """Draw a tissue section, y downwards.

    Parameters
    ----------
    positions
        n x 2.
    colours
        n x 3 or n x 4.
    extent
        Width and height of the largest section, so that all are drawn to one scale.
    known
        The colours that can occur, if they are few.
    pixels
        Width of the picture.
    """
    from sklearn.neighbors import NearestNeighbors

    width, height = np.maximum(extent, 1e-9)
    ratio = np.clip(height / width, 0.3, 3)
    figure, axes = _square(pixels, pixels * ratio)
    middle = (positions.min(axis=0) + positions.max(axis=0)) / 2
    half = max(width, height / ratio) * 0.53
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] + half * ratio, middle[1] - half * ratio)
    pitch = 0.0
    if len(positions) > 1:
        distances, _ = NearestNeighbors(n_neighbors=2).fit(positions).kneighbors(positions)
        pitch = float(np.median(distances[:, 1]))
    # cells at random places lie closer in places than on the whole
    pitch = max(pitch, 0.6 * float(np.sqrt(np.prod(np.ptp(positions, axis=0)) / len(positions))))
    # a spot as wide as the distance to the next, in points
    side = np.clip(pitch / (2 * half) * pixels / figure.dpi * 72 * 1.12, 1.2, 9)
    axes.scatter(*positions.T, s=side**2, c=colours, linewidths=0, antialiased=False)
    return png(figure, known)


def trade_off(entries: Sequence[Entry], weights: dict[str, float]) -> str:
    """Draw biology against batch score with a label at every method and ranges over seeds.

    Parameters
    ----------
    entries
        Methods; those without one of the two scores are left out.
    weights
        Of ``batch`` and ``bio`` in the total, for lines of equal total.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 6.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        shown = [e for e in entries if e.batch and e.bio]
        x, y = (np.array([getattr(e, key).mean for e in shown]) for key in ("batch", "bio"))
        pad = [max(np.ptp(v) * 0.16, 0.04) for v in (x, y)]
        lows = [min(getattr(e, key).low for e in shown) for key in ("batch", "bio")]
        highs = [max(getattr(e, key).high for e in shown) for key in ("batch", "bio")]
        axes.set_xlim(lows[0] - pad[0], highs[0] + pad[0])
        axes.set_ylim(lows[1] - pad[1], highs[1] + pad[1])
        _total_lines(axes, weights)
        for entry in shown:
            colour = KIND_COLOURS.get(entry.kind, INK)
            axes.errorbar(
                entry.batch.mean,
                entry.bio.mean,
                xerr=[[entry.batch.mean - entry.batch.low], [entry.batch.high - entry.batch.mean]],
                yerr=[[entry.bio.mean - entry.bio.low], [entry.bio.high - entry.bio.mean]],
                fmt=KIND_MARKS.get(entry.kind, "o"),
                color=colour if entry.complete else "white",
                ecolor=colour,
                markeredgecolor=colour,
                markersize=8,
                elinewidth=1.2,
                zorder=3,
            )
        axes.set_xlabel("Batch score (batches mix better →)")
        axes.set_ylabel("Biology score (labels kept better →)")
        labels = [e.label if len(e.label) <= 34 else e.label[:33] + "…" for e in shown]
        bars = np.array([[[e.batch.low, e.bio.low], [e.batch.high, e.bio.high]] for e in shown])
        _place_labels(axes, np.column_stack([x, y]), bars, labels, [KIND_COLOURS.get(e.kind, INK) for e in shown])
        kinds = [k for k in KIND_MARKS if any(e.kind == k for e in shown)]
        names = {"correction": "correction", "reference": "reference (no correction)", "control": "control"}
        handles = [
            axes.plot([], [], KIND_MARKS[k], color=KIND_COLOURS[k], markersize=8, label=names[k])[0] for k in kinds
        ]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        return svg(figure)


def _total_lines(axes: "Axes", weights: dict[str, float]) -> None:
    """Lines of equal total, so that the eye can rank."""
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


def _place_labels(axes: "Axes", points: np.ndarray, bars: np.ndarray, labels: list[str], colours: list[str]) -> None:
    """Write labels beside points so that they cover neither points nor each other; a line leads to those far off.

    Greedy: every label takes, of a fan of places around its point, the one that covers least.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    pixel = axes.transData.transform(points)
    scale = figure.dpi / 72
    taken = [np.array([x, y, x, y]) + np.array([-6, -6, 6, 6]) * scale for x, y in pixel]
    for (x, y), ends in zip(pixel, axes.transData.transform(bars.reshape(-1, 2)).reshape(-1, 4), strict=True):
        taken += [
            np.array([ends[0] - 6, y - 4, ends[2] + 6, y + 4]),
            np.array([x - 4, ends[1] - 6, x + 4, ends[3] + 6]),
        ]
    angles = np.deg2rad([0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 202, 338, 68, 112, 248, 292])
    for index in np.argsort(-pixel[:, 1], kind="stable"):
        text = axes.annotate(
            labels[index], points[index], xytext=(0, 0), textcoords="offset points", color=colours[index], size=11,
            ha="center", va="center", zorder=4,
        )  # fmt: skip
        box = text.get_window_extent(renderer)
        width, height = box.width, box.height
        best = None
        for step, distance in enumerate((11, 20, 32, 48, 68, 92)):
            for turn, angle in enumerate(angles):
                dx = np.cos(angle) * (distance * scale + width / 2)
                dy = np.sin(angle) * (distance * scale + height / 2)
                x, y = pixel[index] + (dx, dy)
                place = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                cost = sum(_shared_area(place, other) for other in taken) / (width * height)
                inside = place[0] > frame.x0 and place[2] < frame.x1 and place[1] > frame.y0 and place[3] < frame.y1
                cost = cost * 100 + (0 if inside else 50) + step + turn * 0.05
                if best is None or cost < best[0]:
                    best = (cost, dx / scale, dy / scale, place, distance)
        _, dx, dy, place, distance = best
        text.set_position((dx, dy))
        taken.append(place)
        if distance > 20:
            axes.annotate(
                "", points[index], xytext=(dx, dy), textcoords="offset points", zorder=2,
                arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.8, "shrinkA": height / scale / 2, "shrinkB": 5},
            )  # fmt: skip


def _shared_area(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(sides[0] * sides[1]) if np.all(sides > 0) else 0.0


def cost(entries: Sequence[Entry]) -> str:
    """Draw wall time and peak memory of every fit, a dot per seed, on logarithmic axes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.1 + 0.34 * len(entries)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key, label, write, steps in (
            (panels[0], "wall_s", "Run time of a fit", _seconds, _TIMES),
            (panels[1], "peak_mb", "Peak memory of a fit", _megabytes, _SIZES),
        ):
            for place, entry in enumerate(entries):
                values = [row[key] for row in entry.rows if row.get(key)]
                failed = [row[key] for row in entry.rows if row.get(key) and row["status"] != "ok"]
                colour = KIND_COLOURS.get(entry.kind, INK)
                axes.axhline(place, color="#EEF1F4", lw=1, zorder=0)
                axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.75, ms=7, mew=0)
                axes.plot(failed, [place] * len(failed), "X", color="#B42318", ms=9, mew=0)
                if values:
                    axes.annotate(
                        write(float(np.median(values)), None), (max(values), place), xytext=(8, 0),
                        textcoords="offset points", va="center", size=9.5,
                    )  # fmt: skip
            axes.set_xscale("log")
            axes.set_title(label, fontsize=11.5, loc="left")
            low, high = axes.get_xlim()
            low, high = low / 1.3, high * (high / low) ** 0.22 * 1.4
            axes.xaxis.set_major_locator(FixedLocator(_round_values(low, high, steps)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(write))
            axes.set_xlim(low, high)
        panels[0].set_yticks(
            range(len(entries)), [e.label if len(e.label) < 30 else e.label[:29] + "…" for e in entries]
        )
        panels[0].set_ylim(len(entries) - 0.4, -0.6)
        return svg(figure)


_TIMES = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 108000, 360000]
_SIZES = [float(2**power) for power in range(4, 24)]


def _round_values(low: float, high: float, values: list[float]) -> list[float]:
    """Choose at most six of the values that people read easily."""
    inside = [value for value in values if low <= value <= high]
    return inside[:: -(-len(inside) // 6)] if inside else []


def _seconds(value: float, _position: object) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if value >= size:
            return f"{value / size:.2g} {unit}"
    return f"{value:.2g} s"


def _megabytes(value: float, _position: object) -> str:
    return f"{value / 1024:.2g} GB" if value >= 1024 else f"{value:.3g} MB"


def shades(values: Sequence[float | None], lower_is_better: bool = False) -> list[tuple[str, str] | None]:
    """Colour a column of a table by viridis, from its worst to its best value.

    Returns
    -------
    list
        Background and text colour of every value; None where there is none.
    """
    present = [v for v in values if v is not None]
    low, high = (min(present), max(present)) if present else (0, 0)
    colours: list[tuple[str, str] | None] = []
    for value in values:
        if value is None:
            colours.append(None)
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        rgba = mpl.colormaps["viridis"](1 - share if lower_is_better else share)
        bright = np.dot(rgba[:3], [0.299, 0.587, 0.114])
        colours.append((mpl.colors.to_hex(rgba), "#000000" if bright > 0.5 else "#FFFFFF"))
    return colours


def _square(width: float, height: float | None = None) -> tuple[Figure, "Axes"]:
    figure = Figure(figsize=(width / 200, (height or width) / 200), dpi=200)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


def _equal(axes: "Axes", positions: np.ndarray) -> None:
    low, high = positions.min(axis=0), positions.max(axis=0)
    half = max(*(high - low), 1e-9) * 0.55
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)


def png(figure: Figure, colours: np.ndarray | None = None) -> str:
    """Return a figure as a PNG with a palette, a third of the size of the usual one.

    Parameters
    ----------
    figure
        The figure.
    colours
        All its colours but greys, at most 200; without them the 256 that suit best.
    """
    from PIL import Image

    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    out = io.BytesIO()
    if colours is None:
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    else:
        # a palette that Pillow chooses would shift the colours of rare categories away from the legend's
        greys = np.repeat(np.linspace(0, 1, 16)[:, None], 3, axis=1)
        exact = Image.new("P", (1, 1))
        table = np.vstack([np.unique(colours[:, :3], axis=0), greys])
        exact.putpalette(np.round(255 * table).astype(np.uint8).tobytes())
        image = image.quantize(palette=exact, dither=Image.Dither.NONE)
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def svg(figure: Figure) -> str:
    """Return a figure as an SVG that holds no date."""
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()

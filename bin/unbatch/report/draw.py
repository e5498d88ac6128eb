"""Drawing: style, colours, pictures of cells and tissue, image files as data addresses.

The same input gives the same bytes.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

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


@contextmanager
def figure(width: float, height: float, dpi: int = 100, **style: object) -> Iterator[Figure]:
    """Make an empty figure of a size in inches, in the style of the report; draw and encode it in the block."""
    with mpl.rc_context(STYLE | style):
        made = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        FigureCanvasAgg(made)
        yield made


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
        Names of the batches.
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
        Colours of the categories.
    seed
        Seed of the drawing order.
    pixels
        Side of the square picture.
    """
    figure, axes = _dots(positions, palette(colours)[codes], codes >= 0, seed, pixels)
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


def measured(
    positions: np.ndarray, values: np.ndarray, limits: tuple[float, float], seed: int, pixels: int = 560
) -> str:
    """Draw cells coloured by a number with viridis, otherwise as `cells`.

    Parameters
    ----------
    positions
        n x 2.
    values
        Number of every cell; NaN is drawn first and grey.
    limits
        Values at the ends of the scale; those beyond have the colours of the ends.
    seed, pixels
        As in `cells`.
    """
    low, high = limits
    known = np.isfinite(values)
    colours = mpl.colormaps["viridis"](np.clip((np.where(known, values, low) - low) / ((high - low) or 1), 0, 1))
    colours[~known] = mpl.colors.to_rgba(MISSING)
    figure, _ = _dots(positions, colours, known, seed, pixels)
    return png(figure)


def _dots(
    positions: np.ndarray, colours: np.ndarray, known: np.ndarray, seed: int, pixels: int
) -> "tuple[Figure, Axes]":
    """Draw a dot for every cell in shuffled order, those that are not known first."""
    order = np.random.default_rng(seed).permutation(len(colours))
    order = np.concatenate([order[~known[order]], order[known[order]]])
    figure, axes = _square(pixels)
    # as much ink for 100 cells as for 10,000, within what can be seen
    side = np.clip(280 / np.sqrt(len(colours)), 2.2, 7.0) / 2
    axes.scatter(*positions[order].T, s=side**2, c=colours[order], linewidths=0, antialiased=False)
    _equal(axes, positions)
    return figure, axes


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
        Width and height of the largest section; all are drawn to its scale.
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
        bright = np.dot(rgba[:3], [0.299, 0.587, 0.114]) > 0.5
        colours.append((mpl.colors.to_hex(rgba), "#000000" if bright else "#FFFFFF"))
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
    """Return a figure of `figure` as an SVG that holds no date."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()

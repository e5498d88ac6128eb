"""How the report writes numbers, lists and names."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

SPACE = "\u00a0"
"""A space at which no line ends, as between a sign and a number."""

NONE = "–"
"""What stands for a value that is not there."""


def join(words: Iterable[str]) -> str:
    """Write a list as in ``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def first(words: Iterable[str], most: int, separator: str = ", ") -> str:
    """Write the first words of a list, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more


def cut(text: str, length: int) -> str:
    """Shorten a text; an ellipsis shows that it was."""
    text = str(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def plain(text: str, length: int = 60) -> str:
    """Make a name harmless where MultiQC or Plotly would show it as HTML, even after unescaping it."""
    return cut(re.sub(r"[^\w .,:+()…-]", "_", text), length)


def distinct(names: Iterable[str]) -> list[str]:
    """Make names harmless and tell those apart that become the same."""
    found: list[str] = []
    for name in names:
        own, number = plain(name), 1
        while own in found:
            number += 1
            own = f"{plain(name)} ({number})"
        found.append(own)
    return found


def parameter(value: Any) -> str:
    """Write the value of a parameter."""
    if hasattr(value, "tolist"):
        # of numpy
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(parameter(item) for item in value)
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def setting(values: dict[str, Any]) -> str:
    """Write parameters with their values, as in ``sigma_beta 0.3, mix same``."""
    return ", ".join(f"{name} {parameter(value)}" for name, value in values.items())


def decimals(value: float | None, digits: int = 2) -> str:
    """Write a number with so many decimals, a dash for none."""
    return NONE if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def short(value: float) -> str:
    """Write a number of any size in four characters or so: ``0.12``, ``12.3``, ``123``, ``12k``."""
    value = 0.0 if abs(value) < 0.005 else value
    if abs(value) >= 10000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def amount(value: float, digits: int = 3) -> str:
    """Write a number of counts: ``0.123``, ``12.3``, ``1,230``; a dash for none."""
    if not np.isfinite(value):
        return NONE
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.{digits}g}"


def share(value: float) -> str:
    """Write a share: ``12%``, ``0.4%``, ``< 0.1%``."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return f"<{SPACE}0.1%"
    return f"{percent:.{1 if 0 < percent < 9.95 else 0}f}%"


def times(ratio: float) -> str:
    """Write a factor: ``× 1.4``, ``÷ 1.4``, ``× 1``."""
    if not np.isfinite(ratio) or ratio <= 0:
        return NONE
    size = max(ratio, 1 / ratio)
    written = "more than 99" if size > 99 else f"{size:.0f}" if size >= 9.95 else f"{size:.2g}"
    return f"{'÷' if ratio < 1 and written != '1' else '×'}{SPACE}{written}"


def signed(value: float) -> str:
    """Write a change with its sign, two decimals or, where it is small, two digits."""
    size = f"{abs(value):.2f}" if abs(value) >= 0.0995 else f"{abs(value):.2g}"
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{size}"


def plus_minus(
    value: float,
    half: float | None,
    write: Callable[[float], str] = decimals,
    write_half: Callable[[float], str] | None = None,
) -> str:
    """Write a number and half the width of its interval, where there is one, as `write_half` does or else `write`."""
    known = half is not None and np.isfinite(half)
    return f"{write(value)} ± {(write_half or write)(half)}" if known else write(value)

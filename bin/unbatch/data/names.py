"""One thing, one name: what a file spells in several ways, and the words that stand for nothing.

Batches, labels and sections are settled by `settle`; names of genes use the same words, blanks and numbers
(`unbatch.data.genes`). What is certain is mended, what is not is reported for a warning.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from unbatch.data.notes import Notes
from unbatch.text import some

What = Literal["batch", "label", "section"]

_WORDS_OF_MISSING = (
    "na n/a n.a. n.a nan nat none null nil <na> <nan> <none> #n/a #na #null! #value! #ref! #name? #div/0! "
    "- -- --- – — . ? missing pd.na np.nan"
)
MISSING = frozenset(["", "not available", "not applicable", "no data", *_WORDS_OF_MISSING.split()])
"""Words, in lower case, that programs and people write where there is no value."""

NO_LABEL = MISSING | frozenset(
    [
        "unknown", "unassigned", "unlabeled", "unlabelled", "unclassified", "undefined", "unannotated",
        "not assigned", "not annotated", "not determined", "no label", "n.d.", "nd", "tbd",
    ]
)  # fmt: skip
"""Words, in lower case, that mean that a cell has no label."""

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))

_WHOLE = re.compile(r"([+-]?)(\d+)(\.0+)?")

_BYTES = re.compile(r"b(['\"])(.*)\1")

_SHORTEST = 3
"""Letters that names have at least that are one but for their case: a and A can be two clusters."""


@dataclass(frozen=True)
class Settled:
    """Names of cells as they are used.

    Attributes
    ----------
    chosen
        Name of every cell, missing where it has none; shape (cells,).
    words
        Cells by word that stood for a missing value, as spelt; those without any value are not counted.
    renamed
        Mended spellings: what was found, and its name.
    cells
        Cells by mended spelling.
    alike
        Groups of names that may be one, and were left.
    """

    chosen: pd.Categorical
    words: dict[str, int] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)
    alike: list[list[str]] = field(default_factory=list)


def is_missing(text: str, words: frozenset[str] = MISSING) -> bool:
    """Tell whether a text stands for a missing value, whatever its case and blanks."""
    return tidy_text(text).lower() in words


def tidy_text(text: str) -> str:
    """Text in Unicode's composed form, without invisible characters, with single blanks and none at the ends."""
    if text.isascii() and "  " not in text and text.strip() == text and text.isprintable():
        return text
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split())


def spelling(value: Any) -> str | None:
    """Write a value of a table as text: whole numbers without a fraction; None for a missing one."""
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None
        return str(int(value)) if abs(value) < 1e15 and value == int(value) else str(value)
    return str(value)


def settle(values: pd.Series, what: What) -> Settled:
    """Give every cell the name of its batch, label or section.

    Parameters
    ----------
    values
        Column of the cells.
    what
        What the column names. Labels have more words for a missing value, and are one whatever their case.

    Returns
    -------
    Settled
        Names in the column's own order, or that of appearance. Certain, and mended: blanks at the ends and doubled,
        invisible characters, Unicode's forms, bytes written as text, ``1`` and ``1.0``; of labels also case.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, found = np.asarray(values.cat.codes), list(values.cat.categories)
    else:
        codes, found = pd.factorize(values)
    spelt = [spelling(value) for value in found]
    sizes = np.bincount(codes[codes >= 0], minlength=len(spelt))
    absent = NO_LABEL if what == "label" else MISSING
    names = [None if text is None or is_missing(text, absent) else tidy_text(text) for text in spelt]
    words: dict[str, int] = {}
    for text, name, size in zip(spelt, names, sizes, strict=True):
        if text is not None and name is None and text.strip() and size:
            words[text] = words.get(text, 0) + int(size)
    used = {name for name, size in zip(names, sizes, strict=True) if name is not None and size}
    renamed = _numbers(_unwrapped(used))
    names = [None if name is None else renamed.get(name, name) for name in names]
    weight: dict[str, int] = {}
    for name, size in zip(names, sizes, strict=True):
        if name is not None and size:
            weight[name] = weight.get(name, 0) + int(size)
    if what == "label":
        same = _by_case(weight)
        names = [None if name is None else same.get(name, name) for name in names]
    final = list(dict.fromkeys(name for name, size in zip(names, sizes, strict=True) if name is not None and size))
    place = {name: code for code, name in enumerate(final)}
    recoded = np.array(
        [*(-1 if name is None or not size else place[name] for name, size in zip(names, sizes, strict=True)), -1]
    )
    changed = {
        text: (name, int(size))
        for text, name, size in zip(spelt, names, sizes, strict=True)
        if text is not None and name is not None and name != text and size
    }
    return Settled(
        pd.Categorical.from_codes(recoded[codes], pd.Index(final, dtype=object)),
        words,
        {text: name for text, (name, _) in changed.items()},
        {text: size for text, (_, size) in changed.items()},
        _alike(final),
    )


def combine(columns: dict[str, pd.Categorical]) -> pd.Categorical:
    """Join names of several columns: each combination that occurs is a name, missing where one of them is.

    Raises
    ------
    ValueError
        If two combinations would have one name.
    """
    table = pd.DataFrame({name: values.codes for name, values in columns.items()})
    lost = (table < 0).any(axis=1).to_numpy()
    codes, found = pd.factorize(pd.MultiIndex.from_frame(table))
    names = [
        " | ".join(str(values.categories[code]) for values, code in zip(columns.values(), row, strict=True))
        for row in found
        if min(row) >= 0
    ]
    if len(set(names)) < len(names):
        raise ValueError("two combinations have one name")
    kept = np.cumsum([min(row) >= 0 for row in found]) - 1
    return pd.Categorical.from_codes(np.where(lost, -1, kept[codes]), pd.Index(names, dtype=object))


def tell(found: Settled, key: str, what: What, notes: Notes) -> None:
    """Say what was mended in a column, and what was not."""
    if found.words and what == "label":
        listed = some(f"{count} {word!r}" for word, count in found.words.items())
        notes.warn(
            "missing-words",
            f"{sum(found.words.values())} cells have a word for a missing {what} in {key} ({listed}) and count as "
            f"without; if it is a {what}, write it in another way.",
            column=key,
            what=what,
            words=found.words,
        )
    if found.renamed:
        listed = some(f"{old!r} is {new!r} ({found.cells[old]} cells)" for old, new in found.renamed.items())
        notes.warn(
            "names-mended",
            f"Names in {key} that are one but for blanks, case or the form of a number are joined: {listed}.",
            column=key,
            what=what,
            renamed=found.renamed,
            cells=found.cells,
        )
    if found.alike:
        listed = some(" and ".join(map(repr, group)) for group in found.alike)
        notes.warn(
            "names-alike",
            f"Names in {key} look alike and count as different: {listed}; if they are one {what}, spell them in one "
            "way.",
            column=key,
            what=what,
            groups=found.alike,
        )
    if what == "batch" and any(name.lower() in NO_LABEL for name in found.chosen.categories):
        listed = some(repr(name) for name in found.chosen.categories if name.lower() in NO_LABEL)
        notes.warn(
            "unknown-batch",
            f"{key} has a batch named {listed}: if these cells are of several batches, leave them out.",
            column=key,
        )


def text_index(names: Iterable[Any]) -> pd.Index:
    """Names of cells or genes as text: bytes decoded, blanks at the ends and a whole number's ``.0`` gone."""
    index = pd.Index(names)
    if index.dtype.kind in "iu":
        return index.astype(str).astype(object)
    text = pd.Index([spelling(value) or "" for value in index] if index.dtype.kind not in "T" else index, dtype=object)
    # nan has no spelling; a vectorised test first, as most names need nothing
    joined = "".join(text)
    if joined.isascii() and joined.isprintable() and " " not in joined and "b'" not in joined:
        cleaned = text
    else:
        cleaned = pd.Index([tidy_text(_unbytes(name)) for name in text], dtype=object)
    if len(cleaned) and index.dtype.kind in "OT" and all(name.endswith(".0") for name in cleaned[:50]):
        numbers = [_WHOLE.fullmatch(name) for name in cleaned]
        if all(numbers):
            cleaned = pd.Index([found[1] + found[2] for found in numbers if found], dtype=object)
    return cleaned


def _unbytes(name: str) -> str:
    found = _BYTES.fullmatch(name)
    return found[2] if found else name


def _unwrapped(names: set[str]) -> dict[str, str]:
    """Bytes that were written as text, as ``b'T cell'``, where all names are."""
    if not names or not all(_BYTES.fullmatch(name) for name in names):
        return {name: name for name in names}
    return {name: tidy_text(_unbytes(name)) for name in names}


def _numbers(names: dict[str, str]) -> dict[str, str]:
    """Join ``1.0`` with ``1`` where both are there, or where all names are whole numbers; only what changes."""
    found = {name: _WHOLE.fullmatch(text) for name, text in names.items()}
    plain = set(names.values())
    all_whole = all(found.values()) and any(match and not match[3] for match in found.values())
    result = {}
    for name, text in names.items():
        match = found[name]
        short = match[1] + match[2] if match else text
        chosen = short if match and match[3] and (all_whole or short in plain) else text
        if chosen != name:
            result[name] = chosen
    return result


def _by_case(weight: dict[str, int]) -> dict[str, str]:
    """Names that differ in case alone, and the most frequent spelling of each."""
    groups: dict[str, list[str]] = {}
    for name in weight:
        if sum(char.isalpha() for char in name) >= _SHORTEST:
            groups.setdefault(name.casefold(), []).append(name)
    return {
        name: max(group, key=lambda each: (weight[each], -group.index(each)))
        for group in groups.values()
        if len(group) > 1
        for name in group
    }


def _alike(names: list[str], most: int = 5000) -> list[list[str]]:
    """Group names that differ in case, in what joins their words, in a plural or in zeros before a number."""
    if len(names) > most:
        return []
    groups: dict[str, list[str]] = {}
    for name in names:
        key = re.sub(r"(?<=\w)[\s_.\-]+(?=\w)", " ", name.casefold())
        # T cell and Tcell, T_1 and T1; not L1-2 and L12
        key = re.sub(r"(?<=[^\W\d]) (?=\w)|(?<=\w) (?=[^\W\d])", "", key.replace("_", " "))
        key = re.sub(r"(?<=[^\W\d]{3})s\b", "", key)
        key = re.sub(r"(?<!\d)0+(?=\d)", "", key)
        groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]

"""Reading a samplesheet: which sample is in which file, and what else is known about it."""

import codecs
import csv
import io as text_io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from unbatch.errors import InputError

_FORBIDDEN = frozenset("/\\'\"` ")

_SEPARATORS = ",;\t|"

_QUOTES = (("“", "”"), ("„", "“"), ("‘", "’"), ("«", "»"), ("'", "'"), ('"', '"'))

PLACES = ("counts_from", "label_key", "batch_key", "section_key", "spatial_key")
"""Columns that say where the parts of a sample's file are; they are not copied to the cells."""

_ALIASES = {"counts_layer": "counts_from"}


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a samplesheet.

    Attributes
    ----------
    sample
        Name of the sample.
    path
        Its file or folder.
    extra
        The other columns; an empty text means that the value is missing.
    places
        Where parts of its file are, by the names of `PLACES`; without those that the sheet leaves empty.
    """

    sample: str
    path: Path
    extra: dict[str, str]
    places: dict[str, str]


_START = 65536
"""Bytes of a file that tell whether it is a samplesheet."""

_NUMBER = re.compile(r"[+-]?\d+\.?\d*(?:[eE][+-]?\d+)?")

_FILE = re.compile(r".*\.(?:h5ad|h5|hdf5|h5mu|loom|zarr|csv|tsv|txt|gz|zip|mtx)", re.IGNORECASE)


def is_samplesheet(source: Path) -> bool:
    """Tell a samplesheet from a file of counts; the workflow has the same rule (``isSheet`` of functions/run.nf).

    Returns
    -------
    bool
        True for a file named ``.csv``, ``.tsv`` or ``.txt`` whose header has the columns sample and path, and for one
        with a wrong header where below it are names of files, or mostly no numbers, as a table of counts has.
    """
    if not source.is_file() or source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    with source.open("rb") as file:
        content = file.read(_START)
    text = codecs.getincrementaldecoder(_encoding(content))(errors="replace").decode(content)
    whole = len(content) < _START
    lines = [line for line in _separated(text)[2].splitlines() if line.strip(' \t,;|"')]
    # a line that the limit cut says nothing, and no sheet has such a long header; tables may start with comments
    lines = [line for line in (lines if whole else lines[:-1]) if not line.startswith("#")]
    if not lines:
        return whole
    sep = _separator(lines[0]) if any(sep in lines[0] for sep in _SEPARATORS) else " "
    head, *below = [next(csv.reader([line], delimiter=sep, skipinitialspace=True), []) for line in lines[:5]]
    if {"sample", "path"} <= {_unquoted(cell).lower() for cell in head}:
        return True
    cells = [_unquoted(cell) for line in below for cell in line[1:]]
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells)
    return any(_FILE.fullmatch(cell) for cell in cells) or not cells or numbers < 0.5 * len(cells)


def read_samplesheet(sheet: Path, staged: Path | None = None) -> list[Row]:
    """Read a samplesheet with the columns ``sample`` and ``path`` and any others, as spreadsheets write it.

    Parameters
    ----------
    sheet
        UTF-8 text, or UTF-16 with its mark, with a header line; columns are separated by commas, semicolons, tabs or |.
        Blank lines, empty columns at the end, blanks around cells and quotes around them mean nothing.
    staged
        A folder in which the only entry of ``1/`` is the file of the first row, that of ``2/`` of the second one, and
        so on. None takes the column ``path``, in which relative paths start at the folder of the sheet and ``~`` is the
        home folder.

    Returns
    -------
    list of Row
        In the order of the sheet; nothing is known yet about their files.

    Raises
    ------
    InputError
        If the sheet is not such a text, a sample's name is empty, used twice or not safe as part of a file name, or two
        samples have one file.
    """
    lines = _lines(sheet)
    header = _header(sheet, lines[0][1], [cells for _, cells in lines[1:]])
    rows: list[Row] = []
    places: dict[str, str] = {}
    samples: set[str] = set()
    for number, (line, found) in enumerate(lines[1:], 1):
        where = f"{sheet}: line {line}"
        cells = _fitted(found, header, where)
        values = {name: _unquoted(cell) for name, cell in zip(header, cells, strict=True) if name}
        sample, path = values.pop("sample"), values.pop("path")
        _check_name(sample, where)
        if sample in samples:
            raise InputError(f"{where}: sample {sample} is there twice, expected one line for each sample")
        samples.add(sample)
        if not path:
            raise InputError(f"{where}: path is empty, expected the file of sample {sample}")
        location = _staged(staged / str(number), sample) if staged else _located(sheet, path)
        # no file has such a name, and resolving it would be an error
        place = path if "\0" in path else os.path.realpath(location)
        if place in places:
            raise InputError(
                f"{where}: sample {sample} has the file of sample {places[place]} ({path}), expected a file for each "
                "sample; one file with several samples is given in place of a sheet"
            )
        places[place] = sample
        named = {_ALIASES.get(name, name): value for name, value in values.items()}
        rows.append(
            Row(
                sample,
                location,
                {name: value for name, value in named.items() if name not in PLACES},
                {name: value for name, value in named.items() if name in PLACES and value},
            )
        )
    if not rows:
        raise InputError(f"{sheet}: there is no sample below the header {','.join(header)}")
    return rows


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _decoded(sheet: Path) -> str:
    content = sheet.read_bytes()
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{sheet}: not a UTF-8 text (byte {error.start}), expected a CSV samplesheet; save it as CSV UTF-8"
        ) from error


def _separated(text: str) -> tuple[int, str, str]:
    """Lines before the header that state the separator, the separator, and the text below those lines."""
    stated = re.match(r"sep=(.)\r?\n", text)
    body = text[stated.end() :] if stated else text
    if stated:
        return 1, stated[1], body
    return 0, _separator(next((line for line in body.splitlines() if line.strip(' \t,;|"')), "")), body


def _separator(header: str) -> str:
    """Return what separates the columns sample and path, else what a header has most of."""
    heads = {sep: {_unquoted(cell).lower() for cell in header.split(sep)} for sep in _SEPARATORS}
    return max(_SEPARATORS, key=lambda sep: (len({"sample", "path"} & heads[sep]), header.count(sep), sep == ","))


def _lines(sheet: Path) -> list[tuple[int, list[str]]]:
    """Lines that are not blank, with their numbers, split by what separates the header's sample and path."""
    skipped, sep, body = _separated(_decoded(sheet))
    # a blank behind a quote means nothing, where csv takes it for text
    body = re.sub(rf'" +(?={re.escape(sep)}|\r?$)', '"', body, flags=re.MULTILINE)
    reader = csv.reader(text_io.StringIO(body, newline=""), delimiter=sep, strict=True, skipinitialspace=True)
    try:
        lines = [(reader.line_num + skipped, line) for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise InputError(f"{sheet}: not a valid CSV file, line {reader.line_num + skipped}: {error}") from error
    if not lines:
        raise InputError(f"{sheet}: the samplesheet is empty, expected a header line with sample,path")
    return lines


def _header(sheet: Path, cells: list[str], below: list[list[str]]) -> list[str]:
    """Names of the columns, an empty text for those that are empty throughout."""
    header = [_unquoted(cell) for cell in cells]
    header = [name.lower() if name.lower() in ("sample", "path", *PLACES, *_ALIASES) else name for name in header]
    for name in ("sample", "path"):
        if name not in header:
            raise InputError(
                f"{sheet}: the column {name} is missing, found {','.join(header)}; expected the header sample,path"
            )
    for position, name in enumerate(header, 1):
        if not name and not any(line[position - 1].strip() for line in below if len(line) >= position):
            continue
        if not name or "/" in name or name == "_index" or not name.isprintable():
            raise InputError(
                f"{sheet}: column {position} is named {name!r}, expected a name of printable characters without /"
            )
        if header.count(name) > 1:
            raise InputError(f"{sheet}: the column {name} is there {header.count(name)} times, expected once")
    if {"counts_from", "counts_layer"} <= set(header):
        raise InputError(f"{sheet}: the columns counts_from and counts_layer say the same, expected one of them")
    return header


def _fitted(cells: list[str], header: list[str], where: str) -> list[str]:
    """Bring a line to the length of the header where that is sure: cells that are left out at its end are empty."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    last = max(header.index("sample"), header.index("path"))
    if len(cells) > len(header) or len(cells) <= last:
        named = [name for name in header if name]
        raise InputError(f"{where} has {len(cells)} columns, the header has {len(header)} ({','.join(named)})")
    return [*cells, *[""] * (len(header) - len(cells))]


def _unquoted(cell: str) -> str:
    """Text of a cell without blanks at its ends and quotes around it."""
    cell = cell.strip().strip("\ufeff\u200b").strip()
    for start, end in _QUOTES:
        if len(cell) > 1 and cell.startswith(start) and cell.endswith(end):
            return cell[1:-1].strip()
    return cell


def _located(sheet: Path, path: str) -> Path:
    if path.startswith("file://"):
        path = re.sub(r"^file://(localhost)?", "", path)
    if "://" in path:
        raise InputError(
            f"{sheet}: {path} is a URL, which the pipeline (nextflow run) fetches and this program does not; "
            "expected a file on this machine"
        )
    if path.startswith("~"):
        return Path(os.path.expanduser(path))  # noqa: PTH111 - of a name without a home folder it leaves the text
    return sheet.parent / path


def _check_name(sample: str, where: str) -> None:
    """Refuse names that are not safe in a path or on a command line, or that nobody can see."""
    if not sample:
        raise InputError(f"{where}: sample is empty, expected a name")
    bad = sorted({char for char in sample if char in _FORBIDDEN or not char.isprintable()})
    if bad or sample[0] in "-.":
        found = f"contains {' '.join(map(repr, bad))}" if bad else f"starts with {sample[0]}"
        raise InputError(
            f"{where}: sample {sample!r} {found}; allowed are printable characters without spaces, quotes, / and \\, "
            "and - and . not at the start"
        )


def _staged(folder: Path, sample: str) -> Path:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(entries) != 1:
        raise InputError(f"{folder}: expected one entry, the file of sample {sample}, found {len(entries)}")
    return entries[0]

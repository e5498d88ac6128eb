"""Reading a samplesheet: which sample is in which file, and what else is known about it."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from unbatch.errors import InputError

_FORBIDDEN = frozenset("/\\'\"` ")


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
    """

    sample: str
    path: Path
    extra: dict[str, str]


def read_samplesheet(sheet: Path, staged: Path | None = None) -> list[Row]:
    """Read a CSV samplesheet with the columns ``sample`` and ``path`` and any others.

    Parameters
    ----------
    sheet
        UTF-8 text, with a header line; blank lines are skipped.
    staged
        A folder in which the only entry of ``1/`` is the file of the first row, that of ``2/`` of the second one, and
        so on. None takes the column ``path``, in which relative paths start at the folder of the sheet.

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
    try:
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except UnicodeDecodeError as error:
        raise InputError(f"{sheet}: not a UTF-8 text (byte {error.start}), expected a CSV samplesheet") from error
    except csv.Error as error:
        raise InputError(f"{sheet}: not a valid CSV file, line {reader.line_num}: {error}") from error
    if not lines:
        raise InputError(f"{sheet}: the samplesheet is empty, expected a header line with sample,path")
    header = _header(sheet, lines[0][1])
    rows: list[Row] = []
    places: dict[str, str] = {}
    for number, (line, cells) in enumerate(lines[1:], 1):
        where = f"{sheet}: line {line}"
        if len(cells) != len(header):
            raise InputError(f"{where} has {len(cells)} columns, the header has {len(header)} ({','.join(header)})")
        values = dict(zip(header, cells, strict=True))
        sample, path = values.pop("sample"), values.pop("path").strip()
        _check_name(sample, where)
        if sample in {row.sample for row in rows}:
            raise InputError(f"{where}: sample {sample} is there twice, expected one line for each sample")
        if not path:
            raise InputError(f"{where}: path is empty, expected the file of sample {sample}")
        location = _staged(staged / str(number), sample) if staged else sheet.parent / path
        # no file has such a name, and resolving it would be an error
        place = path if "\0" in path else os.path.realpath(location)
        if place in places:
            raise InputError(
                f"{where}: sample {sample} has the file of sample {places[place]} ({path}), expected a file for each "
                "sample; one file with several samples is given in place of a sheet"
            )
        places[place] = sample
        rows.append(Row(sample, location, {key: value.strip() for key, value in values.items()}))
    if not rows:
        raise InputError(f"{sheet}: there is no sample below the header {','.join(header)}")
    return rows


def _header(sheet: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in ("sample", "path"):
        if name not in header:
            raise InputError(
                f"{sheet}: the column {name} is missing, found {','.join(header)}; expected the header sample,path"
            )
    for position, name in enumerate(header, 1):
        if not name or "/" in name or name == "_index" or not name.isprintable():
            raise InputError(
                f"{sheet}: column {position} is named {name!r}, expected a name of printable characters without /"
            )
        if header.count(name) > 1:
            raise InputError(f"{sheet}: the column {name} is there {header.count(name)} times, expected once")
    return header


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

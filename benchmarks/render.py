"""docs/results/ from what was measured (results/*.csv), what was aimed at (targets.yml) and a few sentences (pages/).

    python benchmarks/render.py            # write docs/results/, which is what `make results` does
    python benchmarks/render.py --check    # exit 1, and name the pages, where docs/results/ is something else

A page is a file of pages/, Markdown with calls of the functions in `Page`. For every dataset, method, seed and metric
the newest row counts.
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2 import TemplateError as Template
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from record import FIELDS, ROOT

STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "sd": statistics.stdev,
}
"""Over seeds."""
Statistic = Literal["mean", "median", "min", "max", "sd"]
OPERATORS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    ">=": ("at least", lambda value, target: value >= target),
    "<=": ("at most", lambda value, target: value <= target),
    ">": ("above", lambda value, target: value > target),
    "<": ("below", lambda value, target: value < target),
    "=": ("", lambda value, target: value == target),
}


class BadInput(ValueError):
    """A file of results, targets or pages is not what it should be."""


@dataclass(frozen=True)
class Row:
    """One measured value, as in the file."""

    benchmark: str
    dataset: str
    method: str
    seed: str
    metric: str
    value: str
    commit: str
    date: str
    machine: str
    command: str

    @property
    def number(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds that the value is of: none, one, or all of a range that it is the mean of."""
        ends = [int(end) for end in self.seed.split("-") if end]
        return frozenset(range(ends[0], ends[-1] + 1)) if ends else frozenset()


@dataclass(frozen=True)
class Value:
    """A number with the decimals that it is known to, and the rows that it is from."""

    number: float
    decimals: int
    rows: tuple[Row, ...]

    def text(self, digits: int = 3) -> str:
        """Write the number with so many decimals, or with as many as are known."""
        return f"{self.number:,.{min(digits, self.decimals)}f}"


# --------------------------------------------------------------------------------------------------------------- values


def read(folder: Path) -> list[Row]:
    """Read all files of results.

    Raises
    ------
    BadInput
        If a file has other columns than `FIELDS`, or a value that is no number.
    """
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if tuple(lines.fieldnames or ()) != FIELDS:
                raise BadInput(f"{path.name}: columns are {lines.fieldnames}, expected {', '.join(FIELDS)}")
            for number, line in enumerate(lines, 2):
                try:
                    row = Row(**line)
                    row.number, row.seeds  # noqa: B018
                except (TypeError, ValueError) as error:
                    raise BadInput(f"{path.name}, row {number}: {error}") from error
                if row.benchmark != path.stem:
                    raise BadInput(f"{path.name}, row {number}: benchmark is {row.benchmark!r}, expected {path.stem}")
                rows.append(row)
    return rows


def newest(rows: Iterable[Row]) -> list[Row]:
    """Keep the newest row of every benchmark, dataset, method, seed and metric, in the order of their first appearance.

    A mean over seeds gives way to rows of single seeds once each of its seeds has a newer one; until then, it
    replaces all rows of some of its seeds.
    """
    groups: dict[tuple[str, ...], dict[str, tuple[tuple[str, int], Row]]] = {}
    for position, row in enumerate(rows):
        age = (row.date, position)
        found = groups.setdefault((row.benchmark, row.dataset, row.method, row.metric), {})
        if row.seed not in found or found[row.seed][0] <= age:
            found[row.seed] = age, row
    kept = []
    for found in groups.values():
        # the mean over the most seeds first, and of equal ones the newest
        means = sorted(
            (each for each in found.values() if len(each[1].seeds) > 1), key=lambda each: each[0], reverse=True
        )
        for age, row in sorted(means, key=lambda each: -len(each[1].seeds)):
            newer = (each[1].seeds for each in found.values() if len(each[1].seeds) == 1 and each[0] > age)
            if row.seed in found and row.seeds <= frozenset().union(*newer):
                del found[row.seed]
            elif row.seed in found:
                for name, (_, other) in list(found.items()):
                    if name != row.seed and other.seeds & row.seeds:
                        del found[name]
        kept += [row for _, row in found.values()]
    return kept


class Results:
    """The newest rows, and which benchmarks have been looked at."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = newest(rows)
        self.seen: set[str] = set()
        self._index: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            self._index.setdefault((row.benchmark, row.dataset, row.method, row.metric), []).append(row)

    @cached_property
    def benchmarks(self) -> set[str]:
        """Names of all benchmarks."""
        return {row.benchmark for row in self.rows}

    def of(self, benchmark: str) -> list[Row]:
        """Give all rows of a benchmark."""
        self.seen.add(benchmark)
        return [row for row in self.rows if row.benchmark == benchmark]

    def value(
        self, benchmark: str, dataset: str, method: str, metric: str, statistic: str = "mean", seeds: str = ""
    ) -> Value | None:
        """Find the value over seeds, by default all; None where nothing was measured.

        Where the rows are means over seeds, other statistics are rows of their own, of the metric ``"total (sd)"``.
        """
        self.seen.add(benchmark)
        wanted = Row("", "", "", seeds, "", "", "", "", "", "").seeds

        def rows(metric: str) -> list[Row]:
            found = self._index.get((benchmark, dataset, method, metric), [])
            return [row for row in found if not wanted or (row.seeds and row.seeds <= wanted)]

        found = rows(metric)
        of_means = rows(f"{metric} ({statistic})")
        # rows of single seeds, which have no such row, may have come later
        if of_means and (len(found) < 2 or of_means[-1].date > max(row.date for row in found)):
            found, statistic = of_means, "mean"
        if statistic != "mean" and any(len(row.seeds) > 1 for row in found):
            return None
        if statistic == "sd" and len(found) < 2:
            return None
        if not found:
            return None
        number = STATISTICS[statistic]([row.number for row in found])
        # the mean of counts is not one
        known = max(map(decimals, found)) or (3 if len(found) > 1 and number != round(number) else 0)
        return Value(number, known, tuple(found))


def decimals(row: Row) -> int:
    """How many decimals a value is written with."""
    mantissa, _, exponent = row.value.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


# -------------------------------------------------------------------------------------------------------------- targets


class Strict(BaseModel):
    """What a file may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Where(Strict):
    """Where a value is.

    `dataset` and `method` may be patterns (``factors *``) or lists of these: all that fit any of them are meant.
    """

    benchmark: str
    dataset: str | list[str]
    method: str | list[str]
    metric: str
    seeds: str = ""
    statistic: Statistic = "mean"


class Against(Strict):
    """What a value is compared with: all that is not said is as in `find`."""

    by: Literal["difference", "ratio"]
    benchmark: str | None = None
    dataset: str | None = None
    method: str | None = None
    metric: str | None = None
    statistic: Statistic | None = None


class Target(Strict):
    """A claim, and what must be measured for it to hold. Where `find` fits several values, it must hold for each."""

    claim: str
    page: str
    operator: Literal[">=", "<=", ">", "<", "="]
    target: float
    unit: str = ""
    digits: int = 3
    source: str
    find: Where
    against: Against | None = None

    @property
    def wanted(self) -> str:
        """The target in words."""
        text = f"{self.target:,.6f}".rstrip("0").rstrip(".")
        return " ".join(filter(None, [OPERATORS[self.operator][0], text, self.unit]))

    def values(self, results: Results) -> list[Value]:
        """Find the value of each dataset and method."""
        find, found = self.find, []
        places = dict.fromkeys(
            (row.dataset, row.method)
            for row in results.of(find.benchmark)
            if _fits(row.dataset, find.dataset) and _fits(row.method, find.method)
        )
        for dataset, method in places:
            place = find.model_dump() | {"dataset": dataset, "method": method}
            value = results.value(**place)
            if self.against and value:
                other = results.value(**place | self.against.model_dump(exclude={"by"}, exclude_none=True))
                value = compared(value, other, self.against.by) if other else None
            if value:
                found.append(value)
        return found

    def outcome(self, results: Results) -> tuple[Value | None, bool | None]:
        """Find the value, the worst one of several, and whether the target is met; None if not measured."""
        found = self.values(results)
        if not found:
            return None, None
        if self.operator == "=":
            worst = max(found, key=lambda value: abs(value.number - self.target))
        else:
            worst = (min if self.operator.startswith(">") else max)(found, key=lambda value: value.number)
        return worst, OPERATORS[self.operator][1](worst.number, self.target)


def _fits(name: str, patterns: str | list[str]) -> bool:
    return any(fnmatchcase(name, each) for each in ([patterns] if isinstance(patterns, str) else patterns))


def compared(one: Value, other: Value, by: str) -> Value | None:
    """Give the difference or the ratio of two values."""
    rows = one.rows + other.rows
    if by == "difference":
        return Value(one.number - other.number, max(one.decimals, other.decimals), rows)
    return Value(one.number / other.number, 3, rows) if other.number else None


def targets(path: Path) -> list[Target]:
    """Read and check the file of targets.

    Raises
    ------
    BadInput
        If it is not a list of targets.
    """
    try:
        return TypeAdapter(list[Target]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path.name}: {place or 'file'}: {first['msg']}, found {first['input']!r}") from error


# ---------------------------------------------------------------------------------------------------------------- pages


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; the first column is text, the others are aligned as given in their heads (`name:` is text)."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (heads, *rows)]
    rule = ["---", *("---" if head.endswith(":") else "---:" for head in heads[1:])]
    lines[0] = [head.removesuffix(":") for head in lines[0]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


class Page:
    """What a page can call."""

    def __init__(self, results: Results, aims: Sequence[Target]) -> None:
        self._results, self._aims = results, aims

    def table(
        self,
        benchmark: str,
        columns: Sequence[Sequence[Any]],
        *,
        rows: str = "method",
        dataset: str = "*",
        method: str = "*",
        head: str | None = None,
        sort: str | None = None,
        last: Sequence[str] = (),
    ) -> str:
        """Write a table of a benchmark.

        Parameters
        ----------
        benchmark
            Name of its file.
        columns
            Head, metric, decimals (3) and statistic over seeds (mean) of each. In place of the metric a mapping can
            stand, with ``metric`` and what the column is of: ``method`` where rows are datasets, ``dataset`` or
            ``seeds``.
        rows
            What has a row each: ``method`` or ``dataset``.
        dataset, method
            Pattern of those in the table. What is no row must be one, or be named by each column.
        head
            Head of the first column.
        sort
            Metric by which rows are sorted, largest first; by default they are in the order of the file.
        last
            Rows that come after the others, in this order.
        """
        found = [
            row
            for row in self._results.of(benchmark)
            if fnmatchcase(row.dataset, dataset) and fnmatchcase(row.method, method)
        ]
        if not found:
            raise BadInput(f"{benchmark}: a page asks for dataset {dataset!r}, method {method!r}, which has no rows")
        names = list(dict.fromkeys(getattr(row, rows) for row in found))
        other = "dataset" if rows == "method" else "method"
        fixed = list(dict.fromkeys(getattr(row, other) for row in found))

        def value(name: str, metric: str | dict[str, str], statistic: str = "mean") -> Value | None:
            place = dict(metric) if isinstance(metric, dict) else {"metric": metric}
            if other not in place:
                if len(fixed) > 1:
                    raise BadInput(f"{benchmark}: a page names no {other} of its columns, there are {', '.join(fixed)}")
                place[other] = fixed[0]
            return self._results.value(**{"benchmark": benchmark, rows: name, "statistic": statistic} | place)

        if sort:
            order = {name: value(name, sort) for name in names}
            names.sort(key=lambda name: -each.number if (each := order[name]) else float("inf"))
        names = [name for name in names if name not in last] + [name for name in last if name in names]
        lines = []
        for name in names:
            cells = []
            for _, metric, *more in columns:
                digits, statistic = [*more, 3, "mean"][:2] if len(more) != 1 else [more[0], "mean"]
                each = value(name, metric, statistic)
                cells.append(each.text(digits) if each else "")
            if any(cells):
                lines.append([name, *cells])
        return markdown([head or rows, *(column[0] for column in columns)], lines)

    def value(self, benchmark: str, dataset: str, method: str, metric: str, digits: int = 3, **more: str) -> str:
        """Write one value, for a sentence."""
        found = self._results.value(benchmark, dataset, method, metric, **more)
        if not found:
            raise BadInput(f"{benchmark}: a page asks for {metric} of {method} on {dataset}, which was not measured")
        return found.text(digits)

    def repeat(self, *benchmarks: str, dataset: str = "*") -> str:
        """Say how to measure again what these benchmarks hold, and when and where it was measured."""
        rows = [row for name in benchmarks for row in self._results.of(name) if fnmatchcase(row.dataset, dataset)]
        if not rows:
            raise BadInput(f"{', '.join(benchmarks)}: a page asks for what has no rows")
        commands = "\n".join(dict.fromkeys(row.command for row in rows))
        days = dict(sorted({(row.machine, row.commit): row.date for row in rows}.items(), key=lambda run: run[1]))
        said = "; ".join(
            ", ".join(f"`{commit}` ({day})" for (where, commit), day in days.items() if where == machine)
            + f" on {machine}"
            for machine in dict.fromkeys(where for where, _ in days)
        )
        return f"Measured at {said}. To repeat:\n\n```bash\n{commands}\n```"

    def datasets(self, benchmark: str) -> list[str]:
        """Name the datasets of a benchmark, for a table of each."""
        return list(dict.fromkeys(row.dataset for row in self._results.of(benchmark)))

    def measured(self, benchmark: str) -> bool:
        """Say whether a benchmark has rows, for a section that is left out until it has."""
        return bool(self._results.of(benchmark))

    def targets(self, page: str | None = None) -> str:
        """Write the table of claims, of all pages or of one."""
        lines = []
        for aim in self._aims:
            if page not in (None, aim.page):
                continue
            value, met = aim.outcome(self._results)
            said = {True: "yes", False: "**no**", None: "not measured"}[met]
            found = f"{value.text(aim.digits)} {aim.unit}".strip() if value else ""
            line = [aim.claim if page else f"[{aim.claim}]({aim.page}.md)", aim.wanted, found, said, aim.source]
            # a page says elsewhere how to repeat it
            lines.append(line if page else [*line, f"`{value.rows[-1].command}`" if value else ""])
        heads = ["claim", "target:", "value", "met:", "source of the target:"]
        return markdown(heads if page else [*heads, "command:"], lines)

    def count(self, met: bool | None) -> int:
        """Count the claims that are met, not met, or not measured (None)."""
        return sum(aim.outcome(self._results)[1] is met for aim in self._aims)


def title(path: Path) -> str:
    """First heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.M)
    if not found:
        raise BadInput(f"{path.name}: no heading, expected a line that begins with '# '")
    return found[1]


def rendered(folder: Path) -> dict[str, str]:
    """Write all pages.

    Parameters
    ----------
    folder
        Folder with ``results/``, ``targets.yml`` and ``pages/``.

    Returns
    -------
    dict
        Text by name of the file.

    Raises
    ------
    BadInput
        If a file is not what it should be, a page asks for what was not measured, or results are on no page.
    """
    results, aims = Results(read(folder / "results")), targets(folder / "targets.yml")
    sources = sorted((folder / "pages").glob("*.md"))
    names = {path.stem: title(path) for path in sources}
    if strange := {aim.page for aim in aims} - names.keys():
        raise BadInput(f"targets.yml: page is {sorted(strange)[0]!r}, there are {', '.join(names)}")
    page = Page(results, aims)
    offered = {
        name: getattr(page, name) for name in ("table", "value", "repeat", "measured", "datasets", "targets", "count")
    }
    environment = Environment(
        loader=FileSystemLoader(folder / "pages"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    texts = {}
    for path in sources:
        try:
            texts[path.name] = environment.get_template(path.name).render(**offered, pages=names)
        except (Template, TypeError, ValueError) as error:
            raise BadInput(f"{path.name}: {error}") from error
    if unseen := results.benchmarks - results.seen:
        raise BadInput(f"results/{sorted(unseen)[0]}.csv is on no page, expected it on one of {', '.join(texts)}")
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--source", type=Path, default=ROOT / "benchmarks", help="results/, targets.yml and pages/")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args(arguments)
    try:
        texts = rendered(given.source)
    except BadInput as error:
        print(f"render: {error}", file=sys.stderr)
        return 2
    there = {path.name: path.read_text(encoding="utf-8") for path in given.out.glob("*.md")}
    stale = sorted(name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name))
    if given.check:
        for name in stale:
            print(f"{given.out.name}/{name} is not what `make results` writes", file=sys.stderr)
        return int(bool(stale))
    given.out.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in texts:
            (given.out / name).write_text(texts[name], encoding="utf-8")
        else:
            (given.out / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What went wrong, and what weakens the comparison."""

from collections.abc import Iterator

from unbatch import methods as registry
from unbatch.report.context import Report, View
from unbatch.report.scores import Failure, Result, failures
from unbatch.report.section import Page, Section, Sections, render
from unbatch.report.sections import leakage
from unbatch.report.text import cut, first, join
from unbatch.report.verdict import remarks


def _pages(report: Report) -> Iterator[Page]:
    datasets = [
        {
            "name": view.result.name,
            "fits": len(view.result.rows),
            "failures": failures([view.result]),
            "fit_notes": fit_notes(view.result),
            "data_warnings": _of_data(view),
            "remarks": _remarks(view),
        }
        for view in report.views
    ]
    yield Page("", render("sections/warnings", several=report.several, datasets=datasets))


def gather(view: View) -> list[str]:
    """List all warnings of a dataset as sentences: fits that failed, the data, the other fits, the comparison."""
    failed = [_of_failure(each) for each in failures([view.result]) if each.status == "failed"]
    return [*failed, *_of_data(view), *fit_notes(view.result), *_remarks(view)]


def _of_failure(failure: Failure) -> str:
    seeds = join(map(str, failure.seeds))
    return f"{failure.label} failed (seed {seeds}): {cut(failure.message, 200)}"


def _of_data(view: View) -> list[str]:
    return [note.text for note in view.dataset.about.warnings] if view.dataset else []


def fit_notes(result: Result) -> list[str]:
    """List what fits warned of, each text once with the methods and seeds that it is about."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in result.scored():
        for row in entry.rows:
            for note in row.get("notes") or []:
                if note.get("severity") == "warning":
                    seeds = found.setdefault(str(note.get("text", "")), {}).setdefault(entry.label, [])
                    seeds.append(str(row["seed"]))
    said = []
    for text, by_method in found.items():
        fits = sum(map(len, by_method.values()))
        who = first((cut(label, 40) for label in by_method), 8)
        seeds = list(dict.fromkeys(seed for several in by_method.values() for seed in several))
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{fits} fits"
        said.append(f"{who} ({which}): {text.removesuffix('.')}.")
    return said


def _remarks(view: View) -> list[str]:
    confined = view.cells.confined() if view.dataset else []
    found = leakage.warnings(view.result) + remarks(view.result, confined) + _without_gpu(view)
    for own, taken in view.taken.items() if confined else ():
        if isinstance(own, Sections):
            found += [f"{entry.label}, {said}" for entry, fit in taken for said in own.warnings(fit, confined)]
    found += [f"UMAPs are not coloured by {cut(name, 40)}: {text}." for name, text in view.undrawn.items()]
    return found + [f"{what}, as they are too many: {count}." for what, count in view.omitted.items()]


def _without_gpu(view: View) -> list[str]:
    """Say which fits ran on the CPU, of a run that asked for a GPU."""
    asked = view.report.parameters.get("parameters") or {}
    if not (asked.get("gpu") or asked.get("device") == "cuda"):
        return []
    able = {name for name in registry.names() if registry.load(name).needs.gpu}
    rows = [row for row in view.result.rows if row["method"] in able and row.get("device") == "cpu"]
    names = ", ".join(sorted({row["method"] for row in rows}))
    many = f"{len(rows)} fit{'s' if len(rows) > 1 else ''}"
    return [f"A GPU was asked for and none was there: {many} ran on the CPU ({names})."] if rows else []


SECTION = Section("warnings", "Warnings and failures", "What went wrong, and what weakens the comparison.", _pages)

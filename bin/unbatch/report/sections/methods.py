"""What was run, how it is cited, and how it can be repeated."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from unbatch import methods as registry
from unbatch.report.context import Report
from unbatch.report.names import info
from unbatch.report.scores import Result, number
from unbatch.report.section import Page, Section, render
from unbatch.report.sections.paper import paper
from unbatch.report.text import parameter
from unbatch.text import some

_ENTERING = {"batch": "batch", "bio": "biology", "other": "no mean", "evidence": "no mean"}


def _pages(report: Report) -> Iterator[Page]:
    yield Page("Methods compared", render("sections/methods", methods=_methods(report)), "compared")
    metrics = {
        name: {**vars(info(name)), "enters": _ENTERING[key]}
        for result in report.results
        for key in _ENTERING
        for name in result.metrics.get(key, [])
    }
    yield Page("Metrics", render("sections/metrics", metrics=list(metrics.values()), count=len(metrics)), "metrics")
    text, references = paper(report)
    yield Page("Text for a paper", render("sections/paper", text=text, references=references), "paper")
    parts = _parameter_parts(report)
    if parts:
        yield Page("Parameters of this run", render("sections/parameters", parts=parts), "parameters")


def _methods(report: Report) -> list[dict[str, Any]]:
    used = dict.fromkeys((e.method, e.params_id) for r in report.results for e in r.entries)
    of_fits = {key: params for view in report.views for key, params in view.params.items()}
    of_fits |= parameters_of_fits(report.results)
    versions, order = report.all_versions, list(report.cards)
    found = []
    for method, params_id in sorted(used, key=lambda key: order.index(key[0])):
        card = report.cards[method]
        params = of_fits.get((method, params_id)) or _defaults(method)
        found.append(
            {
                "label": card.label if params_id == "default" else f"{card.label} ({params_id})",
                "kind": card.kind,
                "summary": card.summary,
                "package": f"{card.package} {versions.get(card.package, '')}".strip() if card.package else "unbatch",
                "params": [(key, parameter(value)) for key, value in params.items()],
                "licence": card.licence,
            }
        )
    return found


def _defaults(method: str) -> dict[str, Any]:
    """Parameters of a method that is not changed; none of one that is not known here."""
    return registry.load(method).params().model_dump() if method in registry.names() else {}


def parameters_of_fits(results: Iterable[Result]) -> dict[tuple[str, str], dict[str, Any]]:
    """Parameters of the fits by method and parameter set; one that each fit chose by itself has its range.

    Parameters
    ----------
    results
        Scores of all datasets.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        for entry in result.scored():
            found[entry.method, entry.params_id] += [row["params"] for row in entry.compared if row.get("params")]
    return {
        key: {name: _over_fits([each.get(name) for each in several]) for name in several[0]}
        for key, several in found.items()
        if several
    }


def _over_fits(values: list[Any]) -> Any:
    different = [value for place, value in enumerate(values) if value not in values[:place]]
    if len(different) == 1:
        return different[0]
    if all(number(value) is not None for value in different):
        return f"{parameter(min(different))} to {parameter(max(different))}, by fit"
    return f"{some(map(parameter, different), 5)}, by fit"


def _parameter_parts(report: Report) -> list[dict[str, Any]]:
    """Run parameters: what is nested becomes a table of its own."""
    top = [(str(k), parameter(v)) for k, v in report.parameters.items() if not isinstance(v, dict)]
    parts = [{"title": "This run", "entries": top}] if top else []
    parts += [
        {
            "title": str(key).replace("_", " ").capitalize(),
            "entries": [(str(k), parameter(v)) for k, v in value.items()],
        }
        for key, value in report.parameters.items()
        if isinstance(value, dict) and value
    ]
    differ = any(result.settings != report.results[0].settings for result in report.results)
    settings = {f"{r.name}: {k}" if differ else k: v for r in report.results for k, v in r.settings.items()}
    if settings:
        parts.append({"title": "Settings of the scores", "entries": [(k, parameter(v)) for k, v in settings.items()]})
    return parts


SECTION = Section(
    "methods",
    "Methods and parameters",
    "What was run, how it is cited, and how it can be repeated.",
    _pages,
)

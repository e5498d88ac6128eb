"""The report: what is read, what is taken of it within the limits of the sections, and the pages made of that."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unbatch import methods as registry
from unbatch.errors import InputError
from unbatch.report import read
from unbatch.report.context import Report, View, sections_of, take
from unbatch.report.scores import read_cards, read_scores
from unbatch.report.section import FitSection, Section, Sections, Shown, multiqc
from unbatch.report.sections import FITS, SECTIONS, SWEEP
from unbatch.report.sweep import collect
from unbatch.report.text import cut


def read_report(
    scores: Sequence[Path],
    cards: Path,
    datasets: Sequence[Path] = (),
    fits: Sequence[Path] = (),
    *,
    calibrations: Sequence[Path] = (),
    sweep: bool = False,
    **more: Any,
) -> Report:
    """Read all that a report shows.

    Parameters
    ----------
    scores
        Files of scores, one per dataset.
    cards
        Cards of the methods.
    datasets, fits
        What to draw; files of fits are called by the id of their row.
    calibrations
        Files of null calibrations, of datasets that were scored.
    sweep
        Whether the scores are those of a sweep over simulations.
    more
        Further fields of the report.

    Raises
    ------
    InputError
        If a file is not what it should be, or files do not belong together.
    """
    by_name = read_cards(cards)
    results = [read_scores(path, by_name) for path in scores]
    twice = next((name for name, count in Counter(result.name for result in results).items() if count > 1), None)
    if twice:
        raise InputError(f"SCORES: two files are about the dataset {twice!r}; give one scores.json per dataset")
    if sweep and (datasets or fits):
        raise InputError("--sweep: the report on a sweep draws no cells, leave --dataset and --fit out")
    if more.get("colour_by") and not datasets:
        raise InputError("--colour-by: no cells are drawn without --dataset, leave it out")
    report = Report(results, by_name, sweep=collect(results) if sweep else None, **more)
    calibration_of = read.read_calibrations(calibrations, results)
    dataset_of, fit_of = read.match_datasets(results, datasets), read.match_fits(results, fits)
    budget: Counter[Section | Sections] = Counter()
    for result in results:
        view = View(report, result, calibration=calibration_of.get(result.name))
        report.views.append(view)
        if result.name in dataset_of:
            view.dataset = read.read_dataset(dataset_of[result.name], result)
            # before anything is laid out, which takes long
            for name in report.colour_by:
                try:
                    view.dataset.colours(name)
                except InputError as error:
                    if name not in view.dataset.data.obs:
                        raise
                    # a column that cannot be drawn is no reason to lose the report
                    view.undrawn[name] = str(error)
            take(view, fit_of, SECTIONS, budget)
    return report


def build(report: Report) -> list[dict[str, Any]]:
    """Make the pages of a report, in their order, as MultiQC's custom content."""
    pages: list[dict[str, Any]] = []
    for section in SWEEP if report.sweep else SECTIONS:
        if section is FITS:
            pages += _of_fits(report)
            continue
        pages += [multiqc(section, page) for page in (section.whole(report) if section.whole else ())]
        for number, view in enumerate(report.views if section.each else ()):
            pages += [multiqc(section, page, view.name, str(number)) for page in section.each(view)]
    return pages


def _of_fits(report: Report) -> list[dict[str, Any]]:
    """Pages that the methods of the fits declare, by section, in the order of the methods."""
    used = {entry.method for view in report.views for entry in view.entries}
    declared = [sections_of(name) for name in registry.names() if name in used]
    by_section: dict[str, list[tuple[FitSection, Sections]]] = {}
    for own in dict.fromkeys(each for each in declared if each):
        for section in own.sections:
            by_section.setdefault(section.id, []).append((section, own))
    pages = []
    for section, own in (pair for pairs in by_section.values() for pair in pairs):
        for number, view in enumerate(report.views):
            for entry, fit in view.taken[own]:
                shown = Shown(view.cells, report.seed, bool(view.result.evidence))
                name = ": ".join(part for part in (view.name, cut(entry.label, 60)) if part)
                suffix = f"{number}_{view.entries.index(entry)}"
                pages += [multiqc(section, page, name, suffix) for page in section.pages(fit, shown)]
    return pages

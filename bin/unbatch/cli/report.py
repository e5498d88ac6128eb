"""`report`: scores and fits to files that MultiQC shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, program, versions
from unbatch.data.io import replacing, require_file, require_place, write_json
from unbatch.errors import InputError

if TYPE_CHECKING:
    from unbatch.report.inputs import Cells
    from unbatch.report.model import Drawing
    from unbatch.report.scores import Result
    from unbatch.report.section import Budget, FitShown

MAX_PANELS, MAX_PANELS_IN_ALL = 16, 48
"""Embeddings that are drawn of a dataset and of all; a sweep may have hundreds, and every one costs time and size."""

MAX_SECOND = 3
"""Fits whose second embedding is drawn with the first."""

PACKAGES = ("jinja2", "matplotlib", "multiqc", "umap-learn")


@program(*PACKAGES)
@click.argument("scores", nargs=-1, required=True, type=InPath)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    type=InPath,
    help="Dataset that was scored, once per scores.json; without it nothing is drawn of its cells.",
)
@click.option("--fit", "fits", multiple=True, type=InPath, help="Fit to draw, named <id of the row>.h5ad; repeat it.")
@click.option("--methods", required=True, type=InPath, help="Cards of the methods, assets/methods.yml.")
@click.option("--parameters", type=InPath, help="JSON of the run: parameters, command line and so on.")
@click.option(
    "--sweep",
    type=OutPath,
    metavar="TABLE.csv",
    help="The scores are those of a sweep over simulations: report on its grid, and write its means to this table.",
)
@click.option(
    "--max-cells", type=click.IntRange(10), default=10_000, help="Most cells in a UMAP; above, a stratified subsample."
)
@click.option("-o", "--output", required=True, type=Folder, help="Folder to write *_mqc.json files to.")
def main(
    run: Run,
    scores: tuple[Path, ...],
    datasets: tuple[Path, ...],
    fits: tuple[Path, ...],
    methods: Path,
    parameters: Path | None,
    sweep: Path | None,
    max_cells: int,
    output: Path,
) -> None:
    """Write the pages of the report of SCORES.json (one per dataset), for MultiQC to put together.

    Then: multiqc DIR --config assets/multiqc_config.yml --config DIR/multiqc_order.yml --filename multiqc_report.html
    """
    import yaml

    from unbatch.report.scores import read_cards, read_scores

    cards = read_cards(methods)
    results = [read_scores(path, cards) for path in scores]
    names = [result.name for result in results]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"SCORES: two files are about the dataset {twice!r}; give one scores.json per dataset")
    about_run = _read_parameters(parameters)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: a file has the name of the output folder")
    for path in (*datasets, *fits):
        require_file(path)
    if sweep and (datasets or fits):
        raise InputError("--sweep: the report on a sweep draws no cells, leave --dataset and --fit out")

    from unbatch.report.inputs import match_datasets, match_fits
    from unbatch.report.model import Report, parameters_of_fits
    from unbatch.report.page import PREFIX, order
    from unbatch.report.pages import build
    from unbatch.report.section import Budget
    from unbatch.report.sweep_pages import build_sweep

    dataset_of = match_datasets(results, datasets)
    fit_of = match_fits(results, fits)
    report = Report(results, cards, parameters=about_run, versions=versions(*PACKAGES), sweep=sweep is not None)
    report.fit_params = parameters_of_fits(results)
    left, budget = MAX_PANELS_IN_ALL, Budget()
    for result in results:
        if result.name in dataset_of:
            drawing, params = _draw(result, dataset_of[result.name], fit_of, min(left, MAX_PANELS), max_cells, run)
            left -= len(drawing.umaps)
            shown, omitted = _fits(result, dataset_of[result.name], fit_of, drawing.cells, budget)
            drawing = replace(drawing, fits=shown, omitted_fits=omitted)
            report.drawings[result.name] = drawing
            report.fit_params = params | report.fit_params
    if sweep:
        require_place(sweep, scores)
        pages, table = build_sweep(report)
        with replacing(sweep) as temporary:
            temporary.write_text(table, encoding="utf-8")
    else:
        pages = build(report)

    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob(f"{PREFIX}*_mqc.json"):
        stale.unlink()
    for name, page in pages.items():
        write_json(page, output / name)
    with replacing(output / "multiqc_order.yml") as order_file:
        order_file.write_text(yaml.safe_dump(order()), encoding="utf-8")
    log.info("Wrote %d pages to %s", len(pages), output)


def _read_parameters(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(require_file(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object of parameters, found a {type(content).__name__}")
    return content


def _draw(
    result: "Result", dataset: Path, fits: dict[str, Path], most: int, max_cells: int, run: Run
) -> tuple["Drawing", dict[tuple[str, str], dict[str, Any]]]:
    """Lay out the cells of a dataset for every method with a fit."""
    from joblib import Parallel, delayed

    from unbatch.data.sampling import stratified_sample
    from unbatch.report import embedding
    from unbatch.report.dataset import read_about
    from unbatch.report.inputs import drawable, read_cells, read_embedding, read_second, second_slot
    from unbatch.report.model import Drawing
    from unbatch.report.page import MAX_COLOURED
    from unbatch.report.scores import UNCORRECTED

    cells = read_cells(dataset)
    if len(cells.names) != result.dataset["cells"]:
        raise InputError(
            f"{dataset}: holds {len(cells.names)} cells, but the scores of {result.name!r} are of "
            f"{result.dataset['cells']}"
        )
    chosen = stratified_sample(cells.strata, max_cells, run.seed)
    shown = drawable(result, fits)
    shown, omitted = shown[:most], len(shown[most:])
    # the best and None side by side, then the next
    coloured = [entry for entry, _ in shown if entry.kind != "control"][: MAX_COLOURED - 1]
    coloured[1:1] = [entry for entry, _ in shown if entry.shows == UNCORRECTED]
    hues, inputs, params = [], [], {}
    for entry, path in shown:
        full, params[entry.method, entry.params_id] = read_embedding(path, cells)
        inputs.append(full[chosen])
        if cells.positions is not None and entry in coloured:
            hues.append((entry, embedding.component_colours(full)))
    with_second = [(entry, path) for entry, path in shown if second_slot(path)][:MAX_SECOND]
    inputs += [read_second(path, cells)[chosen] for _, path in with_second]
    hues.sort(key=lambda hue: coloured.index(hue[0]))
    log.info("Laying out %d embeddings of %d cells", len(inputs), len(chosen))
    # every process compiles UMAP anew, some 15 s: only where the layouts take much longer
    workers = min(run.threads, len(inputs)) if len(chosen) * len(inputs) >= 60_000 else 1
    layouts = Parallel(n_jobs=max(workers, 1))(delayed(embedding.umap)(each, run.seed) for each in inputs)
    umaps = [(entry, layout) for (entry, _), layout in zip(shown, layouts[: len(shown)], strict=True)]
    random = [(entry, layout) for (entry, _), layout in zip(with_second, layouts[len(shown) :], strict=True)]
    return Drawing(cells, chosen, umaps, hues, run.seed, omitted, random=random, about=read_about(dataset)), params


def _fits(
    result: "Result", dataset: Path, fits: dict[str, Path], cells: "Cells", budget: "Budget"
) -> "tuple[list[FitShown], dict[str, int]]":
    """Read the fits of methods that have sections of their own, the best-ranked ones where they are many.

    Also counts those that are left out, by what is missed of them.
    """
    from unbatch import methods
    from unbatch.report.inputs import drawable
    from unbatch.report.page import add_parts
    from unbatch.report.section import FitShown

    shown: list[FitShown] = []
    omitted: dict[str, int] = {}
    left: dict[str, int] = {}
    for entry, path in drawable(result, fits):
        sections = methods.load(entry.method).sections() if entry.method in methods.names() else None
        if sections is None:
            continue
        if left.setdefault(sections.omitted, budget.left(sections)) == 0:
            omitted[sections.omitted] = omitted.get(sections.omitted, 0) + 1
            continue
        fit = sections.read(path, dataset, cells)
        if fit is not None:
            add_parts(sections.parts)
            shown.append(FitShown(entry, fit, sections))
            budget.take(sections)
            left[sections.omitted] -= 1
    return shown, omitted

"""`report`: scores and fits to files that MultiQC shows."""

from pathlib import Path

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, program, versions
from unbatch.data.io import read_mapping, replacing, require_file, require_place, write_json
from unbatch.errors import InputError

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
@click.option(
    "--calibration",
    "calibrations",
    multiple=True,
    type=InPath,
    help="Null calibration of a dataset that was scored, as `calibrate` wrote it; repeat it.",
)
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
@click.option("--colour-by", metavar="COLUMNS", help="Columns of obs to colour UMAPs by as well, separated by commas.")
@click.option("-o", "--output", required=True, type=Folder, help="Folder to write *_mqc.json files to.")
def main(
    run: Run,
    scores: tuple[Path, ...],
    datasets: tuple[Path, ...],
    fits: tuple[Path, ...],
    calibrations: tuple[Path, ...],
    methods: Path,
    parameters: Path | None,
    sweep: Path | None,
    max_cells: int,
    colour_by: str | None,
    output: Path,
) -> None:
    """Write the pages of the report of SCORES.json (one per dataset), for MultiQC to put together.

    Then: multiqc DIR --config assets/multiqc_config.yml --config DIR/multiqc_order.yml --filename multiqc_report.html
    """
    import yaml

    from unbatch.report.build import build, read_report
    from unbatch.report.section import PREFIX, order
    from unbatch.report.sweep import table

    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: a file has the name of the output folder")
    for path in (*scores, *datasets, *fits, *calibrations):
        require_file(path)
    if sweep:
        require_place(sweep, scores)
    report = read_report(
        scores,
        methods,
        datasets,
        fits,
        calibrations=calibrations,
        sweep=sweep is not None,
        parameters=read_mapping(parameters, "parameters of a run") if parameters else {},
        versions=versions(*PACKAGES),
        seed=run.seed,
        threads=run.threads,
        max_cells=max_cells,
        colour_by=tuple(dict.fromkeys(name.strip() for name in (colour_by or "").split(",") if name.strip())),
    )
    pages = build(report)
    if sweep:
        with replacing(sweep) as temporary:
            temporary.write_text(table(report.sweep), encoding="utf-8")
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob(f"{PREFIX}*_mqc.json"):
        stale.unlink()
    for page in pages:
        write_json(page, output / f"{page['id']}_mqc.json")
    with replacing(output / "multiqc_order.yml") as order_file:
        order_file.write_text(yaml.safe_dump(order(pages), sort_keys=False), encoding="utf-8")
    log.info("Wrote %d pages to %s", len(pages), output)

"""Every method at every setting of the simulation, as MultiQC's own heat maps."""

from collections.abc import Iterator

import numpy as np

from unbatch.metrics.uncertainty import over_seeds
from unbatch.report.context import Report
from unbatch.report.section import Page, Section, render
from unbatch.report.sweep import SCORES, limits
from unbatch.report.text import distinct, parameter, setting

_VIRIDIS = [[0, "#440154"], [0.25, "#3b528b"], [0.5, "#21918c"], [0.75, "#5ec962"], [1, "#fde725"]]


def _pages(report: Report) -> Iterator[Page]:
    sweep = report.sweep
    found = {name: over_seeds(values)[0] for name, values in sweep.values.items()}
    low, high = limits(list(found.values()))
    methods = distinct(line.label for line in sweep.lines)
    several = len(sweep.y.values) > 1
    rows = [
        f"{method}, {sweep.y.name} {parameter(value)}" if several else method
        for method in methods
        for value in sweep.y.values
    ]
    columns = [f"{sweep.x.name} {parameter(value)}" for value in sweep.x.values]
    seeds = f"{len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed"
    caption = render("sections/sweep/maps", seeds=seeds)
    for number, panel in enumerate(sweep.panels):
        for name in ("total", "batch", "bio"):
            values = found[name][:, number].reshape(-1, len(columns))
            title = f"{setting(panel)}: {SCORES[name]}" if panel else SCORES[name]
            plot = {
                "plot_type": "heatmap",
                "data": [[round(float(v), 4) if np.isfinite(v) else None for v in row] for row in values],
                "xcats": columns,
                "ycats": rows,
                "pconfig": {
                    "title": SCORES[name],
                    "xlab": sweep.x.name,
                    "ylab": "Method",
                    "zlab": SCORES[name],
                    "min": low,
                    "max": high,
                    "colstops": _VIRIDIS,
                    "square": False,
                    "display_values": True,
                    "angled_xticks": False,
                    "cluster_rows": False,
                    "cluster_cols": False,
                    "xcats_samples": False,
                    "ycats_samples": False,
                    "series_label": False,
                    "height": 160 + 24 * len(rows),
                },
            }
            yield Page(title, caption, f"{number}_{name}", plot)
            caption = ""


SECTION = Section("sweep", "Scores over the grid", "Every method at every setting of the simulation.", _pages)

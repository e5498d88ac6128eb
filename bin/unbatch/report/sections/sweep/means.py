"""The numbers behind maps and curves: a table, and all of them as a file."""

import base64
from collections.abc import Iterator

import numpy as np
from markupsafe import escape

from unbatch.metrics.uncertainty import over_seeds
from unbatch.report.context import Report
from unbatch.report.section import Page, Section, render
from unbatch.report.sweep import INTERVAL, SCORES, table
from unbatch.report.text import setting


def _pages(report: Report) -> Iterator[Page]:
    sweep = report.sweep
    address = "data:text/csv;base64," + base64.b64encode(table(sweep).encode()).decode()
    yield Page("All means as a file", render("sections/sweep/means", address=address, interval=INTERVAL), "file")
    found = {name: over_seeds(sweep.values[name]) for name in ("total", "batch", "bio")}
    shades = {"total": "Purples", "batch": "Blues", "bio": "Greens"}
    headers, data = {}, {}
    for name, shade in shades.items():
        for i, line in enumerate(sweep.lines):
            headers[f"{name}_{i}"] = {
                "title": str(escape(line.label)) + ("" if name == "total" else f" ({SCORES[name].split()[0].lower()})"),
                "description": f"{SCORES[name]}, mean over seeds",
                "min": 0,
                "max": 1,
                "format": "{:,.3f}",
                "scale": shade,
                "hidden": name != "total",
            }
    for panel, y, x in np.ndindex(*sweep.values["total"].shape[1:4]):
        row = {
            f"{name}_{i}": float(found[name][0][i, panel, y, x])
            for name in found
            for i in range(len(sweep.lines))
            if np.isfinite(found[name][0][i, panel, y, x])
        }
        data[str(escape(setting(sweep.setting(panel, y, x)) or "all"))] = row
    used = {key for row in data.values() for key in row}
    if used:
        plot = {
            "plot_type": "table",
            "pconfig": {
                "title": "Means of the sweep",
                "col1_header": "Setting",
                "sort_rows": False,
                "no_violin": True,
            },
            "headers": {key: header for key, header in headers.items() if key in used},
            "data": data,
        }
        about = "A row per setting, mean total over seeds. “Configure columns” has batch and biology."
        yield Page("Totals", about, "table", plot)


SECTION = Section("means", "Table of means", "The numbers behind the maps and curves.", _pages)

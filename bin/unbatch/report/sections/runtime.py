"""What a fit costs: run time and memory, as MultiQC's own box plot."""

from collections.abc import Iterator
from typing import Any

from unbatch.report.context import View
from unbatch.report.scores import number
from unbatch.report.section import Page, Section, render
from unbatch.report.text import distinct

_MEASURES = {"wall_s": ("Run time", "seconds"), "peak_mb": ("Peak memory", "MB")}
_WITHOUT = ", without result"


def _pages(view: View) -> Iterator[Page]:
    result = view.result
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in result.entries:
        for row in entry.rows:
            rows.setdefault(entry.label + ("" if row["status"] == "ok" else _WITHOUT), []).append(row)
    known = {
        key: [[value for row in group if (value := number(row.get(key)))] for group in rows.values()]
        for key in _MEASURES
    }
    data = {
        key: {name: values for name, values in zip(distinct(rows), groups, strict=True) if values}
        for key, groups in known.items()
    }
    measures = {key: text for key, text in _MEASURES.items() if data[key]}
    if not measures:
        return
    content = render(
        "sections/runtime",
        devices=sorted({str(row["device"]) for row in result.rows if row.get("device")}),
        failed=any(name.endswith(_WITHOUT) for name in rows),
        retried=sum((row.get("attempts") or 1) > 1 for row in result.rows),
        fits=len(result.rows),
    )
    labels = [{"name": title, "xlab": f"{title} ({unit})"} for title, unit in measures.values()]
    plot = {
        "plot_type": "box",
        "data": [data[key] for key in measures],
        "pconfig": {
            "title": "Cost of a fit",
            "xlab": labels[0]["xlab"],
            "sort_samples": False,
            "boxpoints": "all",
            "xlog": True,
            "series_label": False,
            "data_labels": labels,
        },
    }
    yield Page("Each fit", content, "box", plot)


SECTION = Section("cost", "Run time and memory", "Run time and memory of each fit.", each=_pages)

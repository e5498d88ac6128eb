"""Files of MultiQC's custom content, one per section of the report."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from unbatch import methods as registry
from unbatch.metrics.uncertainty import interval
from unbatch.report import dataset, embedding, evidence, figures
from unbatch.report.inputs import Cells
from unbatch.report.model import Drawing, Report
from unbatch.report.names import info, written
from unbatch.report.page import MAX_COLOURED, MAX_SECTIONS, PREFIX, make_page, plain, render
from unbatch.report.paper import paper, weights
from unbatch.report.scores import Entry, Result, Spread, scale
from unbatch.report.section import Shown
from unbatch.report.verdict import describe, judge, remarks, troubles, verdict


def build(report: Report) -> dict[str, dict[str, Any]]:
    """Make the pages.

    Returns
    -------
    dict
        Content of the JSON files, by file name.
    """
    pages = [_summary(report), *_data(report), _warnings(report)]
    for number, result in enumerate(report.results):
        where = f"{plain(result.name)}: " if report.several else ""
        pages += [page for page in _scores(result, number, where) if page]
        pages += [page for page in (_trade_off(result, number, where), _cost(result, number, where)) if page]
        pages += evidence.pages(result, number, where)
        drawing = report.drawings.get(result.name)
        if drawing:
            pages += _umaps(drawing, number, where)
            pages += _tissue(drawing, number, where)
            pages += _of_methods(drawing, number, where, evidence=bool(result.evidence))
    pages += methods_pages(report)
    return {f"{page['id']}_mqc.json": page for page in pages}


def style() -> str:
    """Return the style sheet of all pages, with the logo in it."""
    here = Path(__file__).parent
    logo = base64.b64encode((here / "logo.svg").read_bytes()).decode()
    return Markup((here / "style.css").read_text(encoding="utf-8").replace("LOGO", f"data:image/svg+xml;base64,{logo}"))


def _summary(report: Report) -> dict[str, Any]:
    datasets = []
    for result in report.results:
        data, drawing = result.dataset, report.drawings.get(result.name)
        best = judge(result).best
        bounds = [e for e in result.scored() if e.uncorrected and e.total]
        bound = max(bounds, key=lambda e: e.total.mean, default=None)
        facts = [
            (f"{data['cells']:,}", "cells"),
            (f"{data['genes']:,}", "genes"),
            (f"{len(data['batches']):,}", "batch" if result.single else "batches"),
            (f"{len(data['labels']):,}" if result.labelled else "none", "labels"),
            (f"{len(result.entries)}", "methods"),
            (f"{len({row['seed'] for row in result.rows})}", "seeds"),
        ]
        datasets.append(
            {
                "name": result.name,
                "sentences": verdict(result),
                "best": best and best.label,
                "best_total": describe(best.total) if best else "",
                "bound_total": f"{bound.label}: {bound.total.mean:.2f}" if bound else "",
                "troubles": sum(len(t.seeds) for t in troubles(result)),
                "facts": facts,
                "data_warnings": len(drawing.about.warnings) if drawing else 0,
                "subsampled": (
                    f"Scores are over {data['scored_cells']:,} of the {data['cells']:,} cells: a random subsample in "
                    "which batches and labels keep their shares. Every method is scored on the same cells."
                    if data.get("subsampled")
                    else ""
                ),
            }
        )
    content = render(
        "summary",
        style=style(),
        several=report.several,
        datasets=datasets,
        weights=weights(report.results[0]),
        **{
            key: any(getattr(entry, key) for result in report.results for entry in result.entries)
            for key in ("batch", "bio", "total")
        },
    )
    return make_page("summary", "", content)


def _data(report: Report) -> list[dict[str, Any]]:
    """Pages on how each dataset was made."""
    found = []
    for number, result in enumerate(report.results):
        drawing = report.drawings.get(result.name)
        where = f"{plain(result.name)}: " if report.several else ""
        found.append(dataset.page(drawing.about, number, where) if drawing else None)
    return [page for page in found if page]


def _warnings(report: Report) -> dict[str, Any]:
    datasets = []
    for result in report.results:
        drawing = report.drawings.get(result.name)
        datasets.append(
            {
                "name": result.name,
                "fits": len(result.rows),
                "troubles": [
                    {**vars(t), "memory": f"{t.peak_mb:,.0f} MB" if t.peak_mb else ""} for t in troubles(result)
                ],
                "remarks": evidence.warnings(result)
                + remarks(result, drawing.cells.confined() if drawing else [])
                + _confounded(drawing)
                + _omissions(drawing),
            }
        )
    return make_page("warnings", "", render("warnings", several=report.several, datasets=datasets))


def _confounded(drawing: Drawing | None) -> list[str]:
    found = drawing.cells.confined() if drawing else []
    several = drawing.fits if found else []
    return [f"{each.entry.label}, {said}" for each in several for said in each.sections.warnings(each.fit, found)]


def _omissions(drawing: Drawing | None) -> list[str]:
    if drawing is None:
        return []
    counts = {"Embeddings that are not drawn": drawing.omitted, **drawing.omitted_fits}
    return [f"{what}, as they are too many: {count}." for what, count in counts.items() if count]


_CONTROLS = (
    "Controls: not ranked, they show what no correction, no biology and, by a cheat, the labels themselves look like"
)


def _scores(result: Result, number: int, where: str) -> list[dict[str, Any] | None]:
    scored = result.scored()
    if not scored:
        return []
    names = {key: list(result.metrics.get(key, [])) for key in ("batch", "bio", "other")}
    names = {
        key: [name for name in group if any(entry.metrics.get(name) for entry in scored)]
        for key, group in names.items()
    }
    cells = {entry.label: _cells(entry, scored, names) for entry in scored}
    rows, last = [], None
    for entry in result.entries:
        part = _part(entry)
        rows.append(
            {
                "label": entry.label,
                "library": entry.library,
                "tag": _tag(entry),
                "rank": entry.rank,
                "part": part if part != last and part else "",
                "note": _outcome(entry),
                "cells": cells.get(entry.label, {}),
                "complete": entry.complete,
                "halves": {key: _half(entry, key) for key in ("batch", "bio", "total")},
                **{key: getattr(entry, key) for key in ("batch", "bio", "total")},
            }
        )
        last = part
    titles = {"batch": "Batch mixing", "bio": "Biology kept"}
    groups = [_columns(titles[key], names[key]) for key in ("batch", "bio") if names[key]]
    other = [
        _columns("For batches", [n for n in names["other"] if "batch" in n or n == "bras"]),
        _columns("For labels", [n for n in names["other"] if "batch" not in n and n != "bras"]),
    ]
    aggregates = [
        {"name": key, "title": text}
        for key, text in (("batch", "Batch"), ("bio", "Biology"), ("total", "Total"))
        if any(getattr(entry, key) for entry in scored)
    ]
    seeds = max(len(entry.compared) for entry in scored)
    content = render(
        "scores",
        caption=f"Methods in order of their total ({weights(result)})"
        + (f"; every number is the mean over up to {seeds} seeds." if seeds > 1 else "; one seed per method.")
        + " Ranks are the order of these means, which may be chance; the Summary says what can be told apart."
        if any(entry.total for entry in scored)
        else "Methods in order of their biology score; with one batch there is no total and no rank."
        if result.single
        else "Methods in order of their batch score; without a biology score there is no total and no rank.",
        groups=groups,
        rows=rows,
        aggregates=aggregates,
        other=[group for group in other if group["columns"]],
        seeds=seeds,
        sure=any(half is not None for row in rows for half in row["halves"].values()),
    )
    return [
        make_page("scores", f"{where}Overview", content, str(number)),
        _table(scored, names, number, where),
        _scaled(result, number, where),
    ]


def _half(entry: Entry, score: str) -> float | None:
    """Half the width of the interval of a mean over cells and seeds, None where there is none."""
    sample = entry.sample(score)
    found = None if sample is None else interval(sample)
    return found.high - found.mean if found and found.low <= found.high else None


def _tag(entry: Entry) -> str:
    """Say what must be known of a method beside its scores."""
    if entry.supervised:
        return "has seen the labels"
    return "no correction" if entry.kind == "reference" else ""


def _outcome(entry: Entry) -> str | None:
    if entry.status == "ok":
        return None
    return "failed, see Warnings and failures" if entry.status == "failed" else f"not applicable: {entry.note}"


def _part(entry: Entry) -> str:
    if entry.status != "ok":
        return "No scores"
    if entry.kind == "control":
        return _CONTROLS
    return "" if entry.complete else entry.note[:1].upper() + entry.note[1:]


def _columns(group: str, names: list[str]) -> dict[str, Any]:
    return {"title": group, "columns": [{"name": name, **vars(info(name))} for name in names]}


def _cells(entry: Entry, scored: list[Entry], names: dict[str, list[str]]) -> dict[str, dict[str, str] | None]:
    cells: dict[str, dict[str, str] | None] = {}
    for name in (name for group in names.values() for name in group):
        values = [e.metrics[name].mean if e.metrics.get(name) else None for e in scored]
        shade = figures.shades(values, info(name).better == "lower")[scored.index(entry)]
        if shade:
            text = _short(entry.metrics[name].mean)
            cells[name] = {"text": text, "background": shade[0], "ink": shade[1]}
        else:
            cells[name] = None
    return cells


def _short(value: float) -> str:
    value = 0.0 if abs(value) < 0.005 else value
    if abs(value) >= 10000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(scored: list[Entry], names: dict[str, list[str]], number: int, where: str) -> dict[str, Any]:
    """MultiQC's own table: sorts, hides columns, exports."""
    headers: dict[str, dict[str, Any]] = {
        "rank": {"title": "Rank", "description": "By total; controls have none", "scale": False, "format": "{:,.0f}"}
    }
    shades = {"total": "Purples", "batch": "Blues", "bio": "Greens"}
    for key, text in (("total", "Total"), ("batch", "Batch"), ("bio", "Biology")):
        headers[key] = {"title": text, "description": f"{text} score, mean over seeds", "min": 0, "max": 1}
        headers[key] |= {"format": "{:,.3f}", "scale": shades[key]}
        headers[f"{key}_sd"] = {"title": "± sd", "description": f"Standard deviation of {text.lower()} over seeds"}
        headers[f"{key}_sd"] |= {"format": "{:,.3f}", "scale": False, "hidden": key != "total"}
    headers["library"] = {"title": "Library", "description": "What fitted it, and its version", "scale": False}
    headers["seeds"] = {"title": "Seeds", "description": "Seeds the means are over", "scale": False}
    headers["seeds"] |= {"format": "{:,.0f}"}
    for group, shade in (("batch", "Blues"), ("bio", "Greens"), ("other", "Greys")):
        for name in names[group]:
            about = info(name)
            headers[name] = {"title": about.title, "description": about.about, "format": "{:,.3f}", "scale": shade}
            headers[name] |= {"hidden": True} | ({"min": 0, "max": 1} if group != "other" else {})
    data = {}
    for entry in scored:
        row: dict[str, float | str] = {"seeds": len(entry.compared), "library": str(escape(entry.library))}
        if entry.rank:
            row["rank"] = entry.rank
        for key in shades:
            spread: Spread | None = getattr(entry, key)
            if spread:
                row[key] = spread.mean
                if spread.sd is not None:
                    row[f"{key}_sd"] = spread.sd
        row |= {name: spread.mean for name, spread in entry.metrics.items() if spread}
        aside = " (control)" if entry.kind == "control" else "" if entry.complete else " (fewer metrics)"
        data[str(escape(entry.label + aside))] = row
    used = {key for row in data.values() for key in row}
    page = make_page("scores", f"{where}Sortable table", "", f"{number}_table")
    page |= {
        "plot_type": "table",
        "description": "Click a column's head to sort. “Configure columns” has every metric; “Export as CSV” gives a "
        "file, under Data.",
        "pconfig": {
            "id": f"{PREFIX}scores_{number}_table",
            "title": "Integration scores",
            "col1_header": "Method",
            "sort_rows": False,
            "no_violin": True,
        },
        "headers": {key: header for key, header in headers.items() if key in used},
        "data": data,
    }
    return page


def _scaled(result: Result, number: int, where: str) -> dict[str, Any] | None:
    """Raw and scaled scores beside each other."""
    scaled = scale(result)
    if not scaled:
        return None
    headers: dict[str, dict[str, Any]] = {}
    shades = {"total": "Purples", "batch": "Blues", "bio": "Greens"}
    for key, text in (("total", "Total"), ("batch", "Batch"), ("bio", "Biology")):
        headers[f"{key}_scaled"] = {"title": f"{text}, scaled", "description": f"{text} score between the controls"}
        headers[f"{key}_scaled"] |= {"format": "{:,.3f}", "scale": shades[key]}
        headers[key] = {"title": f"{text}, raw", "description": f"{text} score as it is", "min": 0, "max": 1}
        headers[key] |= {"format": "{:,.3f}", "scale": shades[key]}
    for name in next(iter(scaled.values())).metrics:
        headers[f"{name}_scaled"] = {"title": f"{info(name).title}, scaled", "description": info(name).about}
        headers[f"{name}_scaled"] |= {"format": "{:,.3f}", "scale": "Greys", "hidden": True}
    data = {}
    for entry in result.scored():
        own = scaled[entry.label]
        row = {f"{key}_scaled": getattr(own, key) for key in shades} | {
            key: spread.mean for key in shades if (spread := getattr(entry, key))
        }
        row |= {f"{name}_scaled": value for name, value in own.metrics.items()}
        aside = " (control)" if entry.kind == "control" else "" if entry.complete else " (fewer metrics)"
        data[str(escape(entry.label + aside))] = {key: value for key, value in row.items() if value is not None}
    controls = ", ".join(str(escape(entry.label)) for entry in result.scored("control"))
    page = make_page("scores", f"{where}Scaled between controls", "", f"{number}_scaled")
    return page | {
        "plot_type": "table",
        "description": f"Every metric, 0 at the lowest and 1 at the highest of the controls ({controls}), averaged: "
        "where a score lies on this data. Values beyond 0 and 1 lie outside the means of the controls, which may be "
        "chance: no interval is shown. Empty: the controls do not differ in it, or it does not apply to the method.",
        "pconfig": {
            "id": f"{PREFIX}scores_{number}_scaled_table",
            "title": "Scores between controls",
            "col1_header": "Method",
            "sort_rows": False,
            "no_violin": True,
        },
        "headers": {key: head for key, head in headers.items() if any(key in row for row in data.values())},
        "data": data,
    }


def _trade_off(result: Result, number: int, where: str) -> dict[str, Any] | None:
    shown = [e for e in result.scored() if e.batch and e.bio]
    if not shown:
        return None
    spoken = "; ".join(f"{e.label}: batch {e.batch.mean:.2f}, biology {e.bio.mean:.2f}" for e in shown)
    hollow = " Hollow marks: means over fewer metrics." if any(not e.complete for e in shown) else ""
    content = render(
        "figure",
        caption="Good is top right: batches mix and labels stay apart. Top left keeps biology but leaves the batches "
        "apart; bottom right mixes everything, biology included. Grey lines join points of equal total (numbers at the "
        f"right). Bars: lowest to highest seed.{hollow}",
        image=figures.trade_off(shown, result.weights),
        alt=f"Biology score against batch score. {spoken}.",
    )
    return make_page("tradeoff", where.removesuffix(": "), content, str(number))


def _cost(result: Result, number: int, where: str) -> dict[str, Any] | None:
    entries = [e for e in result.entries if any(row.get("wall_s") or row.get("peak_mb") for row in e.rows)]
    if not entries:
        return None
    devices = sorted({str(row["device"]) for row in result.rows if row.get("device")})
    retried = [row for row in result.rows if (row.get("attempts") or 1) > 1]
    caption = (
        "A dot per seed, scales logarithmic, median written beside. Measured around the fit alone; on a machine that "
        f"does other work, times are longer. Computed on {' and '.join(devices) or 'a device that is not recorded'}."
    )
    if any(row["status"] != "ok" for entry in entries for row in entry.rows):
        caption += " Red crosses: fits that did not end with a result."
    caption += (
        f" {len(retried)} of {len(result.rows)} fits needed more than one attempt."
        if retried
        else " No fit needed a second attempt."
    )
    content = render("figure", caption=caption, image=figures.cost(entries), alt="Run time and memory of every fit.")
    return make_page("cost", where.removesuffix(": "), content, str(number))


def _umaps(drawing: Drawing, number: int, where: str) -> list[dict[str, Any]]:
    if not drawing.umaps:
        return []
    cells, chosen = drawing.cells, drawing.chosen
    about = (
        f"{len(chosen):,} cells"
        if len(chosen) == len(cells.names)
        else f"{len(chosen):,} of {len(cells.names):,} cells"
    )
    pages = [
        _grid(
            "umap",
            f"{where}By batch",
            "Good: within every group the colours mix. Bad: the same group appears once per batch. Methods in order of "
            f"rank, {about}, drawn in random order so that no group lies on top. In a UMAP, who is next to whom can be "
            "read, but not distances between groups or sizes of groups.",
            figures.legend(cells.batches),
            [(entry.label, _place(entry), layout, cells.batch[chosen]) for entry, layout in drawing.umaps],
            drawing,
            f"{number}_batch",
            "batch",
        )
    ]
    if cells.label is not None:
        labels = figures.legend(cells.labels, numbered=len(cells.labels) > len(figures.OKABE_ITO))
        numbers = " Numbers stand where their label is densest." if labels.numbered else ""
        pages.append(
            _grid(
                "umap",
                f"{where}By label",
                "Good: labels form groups that stay apart. Bad: labels run into each other." + numbers,
                labels,
                [(entry.label, _place(entry), layout, cells.label[chosen]) for entry, layout in drawing.umaps],
                drawing,
                f"{number}_label",
                "label",
            )
        )
    if drawing.random:
        pages += _effects(drawing, number, where)
    return pages


def _effects(drawing: Drawing, number: int, where: str) -> list[dict[str, Any]]:
    """Pages of fixed effects beside random ones, in colours of batch and label."""
    cells, chosen = drawing.cells, drawing.chosen
    fixed = {id(entry): layout for entry, layout in drawing.umaps}
    layouts = []
    for entry, layout in drawing.random:
        # the rank is that of the fixed effects alone
        seed = f"seed {entry.compared[0]['seed']}"
        layouts += [(f"{entry.label}: fixed", seed, fixed[id(entry)]), (f"{entry.label}: random", seed, layout)]
    caption = (
        "Fixed effects are what the batches share, random effects what is a batch's own. Good: batches mix in fixed "
        "effects and stand apart in random ones, where batches that were treated alike are neighbours. Random effects "
        "are told the batch: that they stand apart is no finding, and what can be predicted with them no evidence of "
        "biology."
    )
    by_batch = [(*panel, cells.batch[chosen]) for panel in layouts]
    name = f"{where}Fixed and random effects"
    batches = figures.legend(cells.batches)
    pages = [
        _grid("umap", f"{name}, by batch", caption, batches, by_batch, drawing, f"{number}_effects_batch", "batch")
    ]
    if cells.label is not None:
        labels = figures.legend(cells.labels, numbered=len(cells.labels) > len(figures.OKABE_ITO))
        caption = (
            "Good: labels stay apart in the fixed effects. In the random ones they show where the effect of a batch "
            "differs between labels."
        )
        by_label = [(*panel, cells.label[chosen]) for panel in layouts]
        pages.append(
            _grid("umap", f"{name}, by label", caption, labels, by_label, drawing, f"{number}_effects_label", "label")
        )
    return pages


def _grid(
    part: str,
    name: str,
    caption: str,
    legend: figures.Legend,
    panels: Sequence[tuple[str, str, np.ndarray, np.ndarray]],
    drawing: Drawing,
    suffix: str,
    what: str,
) -> dict[str, Any]:
    missing = "unlabelled" if any((codes < 0).any() for *_, codes in panels) else None
    content = render(
        "grid",
        caption=caption,
        legend=legend,
        missing=missing,
        parts=[
            {
                "title": "",
                "note": "",
                "folded": False,
                "panels": [
                    {
                        "title": title,
                        "note": note,
                        "colour": "",
                        "image": figures.cells(layout, codes, legend, drawing.seed),
                        "alt": f"UMAP of {title}, cells coloured by {what}",
                    }
                    for title, note, layout, codes in panels
                ],
            }
        ],
    )
    return make_page(part, name, content, suffix)


def _place(entry: Entry) -> str:
    if entry.rank:
        return f"rank {entry.rank}, seed {entry.compared[0]['seed']}"
    return f"{entry.kind if entry.kind == 'control' else 'not ranked'}, seed {entry.compared[0]['seed']}"


def _tissue(drawing: Drawing, number: int, where: str) -> list[dict[str, Any]]:
    cells = drawing.cells
    if cells.positions is None:
        return []
    batches = cells.batches_of_sections()
    sections = embedding.sections(cells.positions, batches, cells.section, MAX_SECTIONS)
    colours = figures.section_colours(cells.batches, batches)
    directions = f" {sections.directions}"
    if len(sections.shown) < len(cells.sections):
        directions += f" Shown are {len(sections.shown)} of {len(cells.sections)} sections."
    pages = []
    if cells.label is not None:
        legend = figures.legend(cells.labels, numbered=len(cells.labels) > len(figures.OKABE_ITO))
        table = figures.palette(legend)
        content = render(
            "grid",
            caption="The labels on the tissue, one map per section; the dot before its name has the colour of its "
            f"batch in the UMAPs.{directions}",
            legend=legend,
            missing="unlabelled" if (cells.label < 0).any() else None,
            parts=[
                {
                    "title": "",
                    "note": "",
                    "folded": False,
                    "panels": [
                        {
                            "title": cells.sections[code],
                            "note": f"{_section_note(cells, batches[code], code)}{len(sections.members[code]):,} cells",
                            "colour": colours[code],
                            "image": figures.tissue(
                                sections.positions[sections.members[code]],
                                table[cells.label[sections.members[code]]],
                                sections.extent,
                                table,
                            ),
                            "alt": f"Tissue map of section {cells.sections[code]}, cells coloured by label",
                        }
                        for code in sections.shown
                    ],
                }
            ],
        )
        pages.append(make_page("tissue", f"{where}By label", content, f"{number}_label"))
    if drawing.hues:
        content = render(
            "grid",
            caption="The first three principal components of each embedding as red, green and blue: cells that an "
            "embedding holds for similar have similar colours. Good: layers and regions show, and have the same "
            "colours in every section. Bad: a section has colours of its own (batch effect left), or colours are noise "
            f"(biology lost). Colours of different methods can't be compared.{directions}",
            legend=None,
            missing=None,
            parts=[
                {
                    "title": entry.label,
                    "note": _place(entry),
                    "folded": place > 1,
                    "panels": [
                        {
                            "title": cells.sections[code],
                            "note": "",
                            "colour": colours[code],
                            "image": figures.tissue(
                                sections.positions[sections.members[code]],
                                hue[sections.members[code]],
                                sections.extent,
                                pixels=400,
                            ),
                            "alt": f"Tissue map of section {cells.sections[code]}, cells coloured by their place in "
                            f"the embedding of {entry.label}",
                        }
                        for code in sections.first(MAX_COLOURED)
                    ],
                }
                for place, (entry, hue) in enumerate(drawing.hues)
            ],
        )
        pages.append(make_page("tissue", f"{where}Embedding as colour", content, f"{number}_colour"))
    return pages


def _section_note(cells: Cells, batches: list[int], code: int) -> str:
    """Name the batches of a section, where they have another name."""
    names = [cells.batches[batch] for batch in batches]
    if names == [cells.sections[code]]:
        return ""
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; "


def _of_methods(drawing: Drawing, number: int, where: str, evidence: bool) -> list[dict[str, Any]]:
    """Pages that the methods of the fits declare."""
    pages = []
    for place, each in enumerate(drawing.fits):
        name, suffix = f"{where}{plain(each.entry.label)}", f"{number}_{place}"
        pages += each.sections.pages(each.fit, Shown(drawing.cells, name, suffix, drawing.seed, evidence))
    return pages


def defaults_of(method: str) -> dict[str, Any]:
    """Parameters of a method that is not changed; none of one that is not known here."""
    return registry.load(method).params().model_dump() if method in registry.names() else {}


def methods_pages(report: Report) -> list[dict[str, Any]]:
    """Make the pages that say what was run, how it is cited, and with which parameters."""
    used = list(dict.fromkeys((e.method, e.params_id) for r in report.results for e in r.entries))
    versions = report.all_versions
    methods = []
    for method, params_id in sorted(used, key=lambda key: list(report.cards).index(key[0])):
        card = report.cards[method]
        version = versions.get(card.package or "", "")
        params = report.fit_params.get((method, params_id)) or defaults_of(method)
        methods.append(
            {
                "label": card.label if params_id == "default" else f"{card.label} ({params_id})",
                "kind": card.kind,
                "summary": card.summary,
                "package": f"{card.package} {version}".strip() if card.package else "unbatch",
                "params": [(key, written(value)) for key, value in params.items()],
                "licence": card.licence,
            }
        )
    entering = {"batch": "batch", "bio": "biology", "other": "no mean", "evidence": "no mean"}
    metrics = {
        name: {**vars(info(name)), "enters": entering[key]}
        for result in report.results
        for key in entering
        for name in result.metrics.get(key, [])
    }
    text, references = paper(report)
    pages = [
        make_page("methods", "Methods compared", render("methods", methods=methods), "compared"),
        make_page(
            "methods", "Metrics", render("metrics", metrics=list(metrics.values()), count=len(metrics)), "metrics"
        ),
        make_page("methods", "Text for a paper", render("paper", text=text, references=references), "paper"),
    ]
    parts = _parameter_parts(report)
    if parts:
        pages.append(make_page("methods", "Parameters of this run", render("parameters", parts=parts), "parameters"))
    return pages


def _parameter_parts(report: Report) -> list[dict[str, Any]]:
    """Run parameters: what is nested becomes a table of its own."""
    top = [(str(k), written(v)) for k, v in report.parameters.items() if not isinstance(v, dict)]
    parts = [{"title": "This run", "entries": top}] if top else []
    parts += [
        {"title": str(key).replace("_", " ").capitalize(), "entries": [(str(k), written(v)) for k, v in value.items()]}
        for key, value in report.parameters.items()
        if isinstance(value, dict) and value
    ]
    differ = any(result.settings != report.results[0].settings for result in report.results)
    settings = {f"{r.name}: {k}" if differ else k: v for r in report.results for k, v in r.settings.items()}
    if settings:
        parts.append({"title": "Settings of the scores", "entries": [(k, written(v)) for k, v in settings.items()]})
    return parts

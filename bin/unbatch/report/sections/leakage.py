"""What the batch alone can do: probes of every embedding, and predictions of label and other targets."""

from collections.abc import Iterator
from typing import Any

from unbatch.metrics.uncertainty import LEVEL, Sample, interval
from unbatch.report.context import View
from unbatch.report.names import info
from unbatch.report.probes import LEAST_EXCESS, Told, findings
from unbatch.report.scores import Entry, Result, Spread, number
from unbatch.report.section import Page, Section, render
from unbatch.report.text import NONE, cut, decimals, join, plus_minus, signed

FEATURES = {
    "embedding": "Embedding",
    "embedding + re": "Embedding + random effects",
    "re": "Random effects",
    "embedding + batch": "Embedding + batch",
}
HELD_OUT = {"cells": "Cells held out", "batches": "Batches held out"}


def _pages(view: View) -> Iterator[Page]:
    result = view.result
    if not result.evidence:
        return
    probes = _probes(result)
    if probes:
        yield Page("Probes", probes, "probes")
    for index, (name, target) in enumerate(result.evidence["targets"].items()):
        title = "Prediction of " + ("the label" if name == "label" else f"a target, {cut(name, 60)}")
        yield Page(title, _prediction(result, name, target), f"target_{index}")


def warnings(result: Result) -> list[str]:
    """Say for which targets the batch alone does what an embedding does, a sentence each; plain text."""
    if not result.evidence:
        return []
    found = (_warning(result, name, target) for name, target in result.evidence["targets"].items())
    return [sentence for sentence in found if sentence]


def _warning(result: Result, name: str, target: dict[str, Any]) -> str:
    if "cells" not in target:
        return ""
    alone = target["cells"]["batch"]["balanced_accuracy"]["mean"]
    if target["solved_by_batch"]:
        return (
            f"The batch alone predicts {name} (balanced accuracy {alone:.2f} on held-out cells): the "
            "accuracy of an embedding for it is no evidence of biology; only that for held-out batches can be."
        )
    # of what has no biology nothing else is expected
    explained = [
        entry.label
        for entry in result.scored()
        if (entry.kind != "control" or entry.uncorrected) and (_of(entry, name) or {}).get("batch_explains")
    ]
    if not explained:
        return ""
    return (
        f"{join(explained)} {'is' if len(explained) == 1 else 'are'} not shown to predict {name} better than the batch "
        f"alone, which has a balanced accuracy of {alone:.2f}."
    )


def _of(entry: Entry, target: str) -> dict[str, Any] | None:
    """Find what was predicted from the one fit of an entry that predictions are made from."""
    return next((row["prediction"][target] for row in entry.rows if target in (row.get("prediction") or {})), None)


def _probes(result: Result) -> str:
    names = [name for name in result.metrics["evidence"] if any(entry.metrics.get(name) for entry in result.scored())]
    if not names:
        return ""
    levels = result.evidence["levels"]
    rows = []
    for entry in result.scored():
        rows.append({"label": entry.label, "cells": [_estimate(entry.sample(name)) for name in names]})
        effects = [row["random_effects"] for row in entry.compared if row.get("random_effects")]
        if effects:
            spreads = [Spread.of(number(each.get(name)) for each in effects) for name in names]
            means = [_three(spread and spread.mean) for spread in spreads]
            rows.append({"label": f"{entry.label}: random effects", "cells": means})
    against = {
        "chance": "Chance, or no batch effect",
        "label": "Labels alone, no embedding",
    }
    return render(
        "sections/probes",
        columns=[vars(info(name)) for name in names],
        rows=rows,
        levels=[
            {"label": text, "cells": [_three(number(levels.get(name, {}).get(key))) for name in names]}
            for key, text in against.items()
            if any(number(levels.get(name, {}).get(key)) is not None for name in names)
        ],
        cells=f"{result.evidence['cells']:,}",
        permutations=result.evidence["permutations"],
        labelled=len(names) > 1,
        single=result.single,
        seeds=max((len(entry.compared) for entry in result.scored()), default=1),
        sentence=_reading(result),
    )


def _reading(result: Result) -> str:
    """Say what the probes found, in a sentence."""
    level = result.evidence["levels"].get("batch_probe", {})
    bar = number(level.get("label")) or number(level.get("chance"))
    against = "the labels alone" if number(level.get("label")) else "chance"
    told = [e.label for e in result.scored() if e.supervised]
    seen = (
        f" {join(told)} {'was' if len(told) == 1 else 'were'} fitted with the labels of all cells: "
        "its accuracy for the label is not one for held-out cells."
        if told
        else ""
    )
    found = findings(result)
    if not found:
        return seen.strip()
    kept = [each for each in found if each.told is Told.LEFT]
    basis = f"{LEVEL:.0%} intervals over {result.evidence['cells']:,} held-out cells"
    if not kept:
        return (
            f"No embedding is shown to predict the batch of a held-out cell better than {against} ({bar:.2f}) by more "
            f"than {LEAST_EXCESS} ({basis}).{seen}"
        )
    listed = join(f"{each.entry.label} ({signed(each.excess.low)} to {signed(each.excess.high)})" for each in kept)
    return (
        f"{listed}: the batch of a held-out cell can be predicted better than from {against} ({bar:.2f}), so a batch "
        f"effect is left. In brackets: the difference, {basis}.{seen}"
    )


def _prediction(result: Result, name: str, target: dict[str, Any]) -> str:
    held = [held_out for held_out in HELD_OUT if held_out in target]
    fixed = [
        {"label": text, "features": "–", "cells": [_accuracy(target[held_out].get(key)) for held_out in held]}
        for key, text in (("dummy", "Guess by frequency"), ("batch", "Batch alone (one-hot)"))
    ]
    rows, borrowed = [], set()
    for entry in result.scored():
        found = _of(entry, name)
        if found is None:
            continue
        borrowed |= {
            row["random_effects_of"] for row in entry.rows if row.get("random_effects_of") not in (None, row["id"])
        }
        present = [key for key in FEATURES if any(key in found.get(held_out, {}) for held_out in held)]
        rows += [
            {
                "label": entry.label if index == 0 else "",
                "features": FEATURES[key],
                "cells": [_accuracy(found.get(held_out, {}).get(key)) for held_out in held],
            }
            for index, key in enumerate(present)
        ]
    return render(
        "sections/prediction",
        name=name,
        warning=_warning(result, name, target),
        reasons=[f"{HELD_OUT[key]}: not applicable, {reason}." for key, reason in target["reasons"].items()],
        held=[{"title": HELD_OUT[key], "splits": target["splits"][key]} for key in held],
        rows=[*fixed, *rows] if held else [],
        about=f"{target['known']:,} cells, {target['classes']} classes",
        borrowed=sorted(borrowed),
    )


def _accuracy(found: dict[str, Any] | None) -> list[str]:
    """Write balanced accuracy and accuracy, each with half the width of its interval."""
    if found is None:
        return [NONE, NONE]
    known = [(number(found[key]["mean"]), number(found[key]["high"])) for key in ("balanced_accuracy", "accuracy")]
    return [_three(mean) if high is None else plus_minus(mean, high - mean, _three) for mean, high in known]


def _estimate(sample: Sample | None) -> str:
    """Write the mean over seeds and half the width of its interval over cells and seeds."""
    found = None if sample is None else interval(sample)
    return NONE if found is None else plus_minus(found.mean, found.high - found.mean, _three)


def _three(value: float | None) -> str:
    return decimals(value, 3)


SECTION = Section(
    "evidence",
    "Evidence and leakage",
    "How much batch effect is left in each embedding, and what the batch alone predicts.",
    each=_pages,
)

"""Fits of autoencoders: reading what they hold of their training and of cells in other batches, and pages about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unbatch.data.io import read_h5ad
from unbatch.errors import InputError
from unbatch.report import metagene_figures
from unbatch.report.effect import OPEN_ROWS, Z90, surest
from unbatch.report.factorisation import Source
from unbatch.report.inputs import Cells
from unbatch.report.page import MAX_SECTIONS, make_page, render
from unbatch.report.projections import WAYS, Panel, Tests, panel_page, read_panel, read_tests, tests_page

TOP_GENES = 6
"""Genes of a label that are listed."""
ROUNDING = 1e-4
"""Shifts below this are none: cells in their own batch differ by what float32 rounds."""

_MODELS = {
    "ae": "Autoencoder without batches (AE)",
    "aec": "Autoencoder without batches, with labels (AEC)",
    "fe": "Fixed effects: what the batches share (FE)",
    "fec": "Fixed effects: what the batches share, with labels (FEC)",
    "re": "Random effects: what is a batch's own (RE)",
}
_TERMS = {
    "total": "Total (what is minimised)",
    "reconstruction": "Reconstruction: misfit",
    "validation_reconstruction": "The same of validation cells",
    "batch": "Batch: cross-entropy of guesses",
    "batch_probe": "Batch told from validation cells",
    "hsic": "HSIC: dependence on the batch",
    "matching": "Matching: batches apart within labels",
    "drift": "Drift from principal components",
    "label": "Label: cross-entropy of guesses",
    "divergence": "Divergence: cost of random effects",
}


@dataclass(frozen=True, eq=False)
class Training:
    """How one model was trained.

    Attributes
    ----------
    terms
        Loss terms and scores by name, a value an epoch.
    best
        The epoch whose weights were kept, from 1.
    weights
        Of the terms in the total.
    """

    terms: dict[str, np.ndarray]
    best: int
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Cells as if from other batches: B of them, L labels, G genes.

    Attributes
    ----------
    way
        How cells are put into another batch.
    batches, labels
        Names; an empty label is that of cells without one.
    cells
        How many there are of each label, L.
    shift, shift_se
        Mean change of the log-normalised expression of these cells and its standard error, B x L x G.
    """

    way: str
    batches: list[str]
    labels: list[str]
    cells: np.ndarray
    shift: np.ndarray
    shift_se: np.ndarray


@dataclass(frozen=True, eq=False)
class Autoencoders:
    """A fit of one or more autoencoders; `models` are by kind, such as ``"fe"``, none of models that were applied."""

    genes: list[str]
    models: dict[str, Training]
    counterfactual: Counterfactual | None = None
    tests: Tests | None = None
    panel: Panel | None = None


def read_autoencoders(path: Path) -> Autoencoders:
    """Read a fit of autoencoders.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    data = read_h5ad(path, ["uns/unbatch"])
    about = data.uns["unbatch"]
    source = Source(path, "a fit of autoencoders")
    models = {}
    for kind, best in about["best_epoch"].items():
        names = [name for name in about.get("history", {}) if name.startswith(f"{kind}.")]
        first = source.numbers(about["history"], names[0], (None,)) if names else np.zeros(0)
        terms = {name.split(".", 1)[1]: source.numbers(about["history"], name, first.shape) for name in names}
        if not 1 <= int(best) <= len(first):
            raise InputError(f"{path}: best_epoch of {kind} is {best}, expected one of the {len(first)} in history")
        given = about.get("loss_weights", {})
        weights = {term: float(given[f"{kind}.{term}"]) for term in terms if f"{kind}.{term}" in given}
        models[str(kind)] = Training(terms, int(best), weights)
    genes = [str(name) for name in data.var_names]
    return Autoencoders(
        genes,
        models,
        _counterfactual(source, about.get("counterfactual"), len(genes)),
        read_tests(source, about.get("groups"), len(genes)),
        read_panel(source, about.get("panel")),
    )


def _counterfactual(source: Source, given: dict[str, Any] | None, genes: int) -> Counterfactual | None:
    if not given:
        return None
    batches, labels = ([str(name) for name in np.atleast_1d(given.get(key, []))] for key in ("batches", "labels"))
    shape = (len(batches), len(labels), genes)
    shift, shift_se = (source.numbers(given, name, shape) for name in ("shift", "shift_se"))
    if not (np.isfinite(shift).all() and np.isfinite(shift_se).all() and (shift_se >= 0).all()):
        raise InputError(f"{source.path}: counterfactual: shift and shift_se must be finite, errors not below 0")
    cells = source.numbers(given, "cells", (len(labels),))
    return Counterfactual(str(given.get("way", "")), batches, labels, cells, shift, shift_se)


def pages(fit: Autoencoders, cells: Cells, name: str, suffix: str, evidence: bool) -> list[dict[str, Any]]:
    """Make the pages about a fit: genes that the batch shifts, tests, genomaps (whatever there is of it), and losses.

    Parameters
    ----------
    fit
        The fit.
    cells
        Of its dataset.
    name
        How the fit is called, harmless in HTML.
    suffix
        Of the names of the files.
    evidence
        Whether the report has the section on evidence and leakage.
    """
    made = []
    if fit.counterfactual is not None and fit.counterfactual.batches:
        content = _shifts(fit, cells)
        made.append(make_page("effect", f"{name}, cells as if from another batch", content, suffix))
    if fit.tests is not None:
        made.append(tests_page(fit.tests, fit.genes, name, suffix))
    if fit.panel is not None:
        made.append(panel_page(fit.panel, name, suffix))
    # a model that was applied has no training
    if fit.models:
        made.append(make_page("training", f"{name}, losses by epoch", _losses(fit, evidence), suffix))
    return made


def _losses(fit: Autoencoders, evidence: bool) -> str:
    models = []
    for kind, training in fit.models.items():
        order = [name for name in _TERMS if name in training.terms]
        order += [name for name in training.terms if name not in _TERMS]
        shown = {_title(name, training): np.asarray(training.terms[name], dtype=float) for name in order}
        epochs = len(training.terms[order[0]])
        models.append(
            {
                "title": _MODELS.get(kind, kind.upper()),
                "note": f"epoch {training.best} of {epochs} kept",
                "probed": "batch_probe" in training.terms,
                "image": metagene_figures.course(
                    shown, np.zeros(epochs, dtype=int), {}, step="Epoch", best=training.best
                ),
            }
        )
    return render("losses", models=models, random="re" in fit.models, evidence=evidence)


def _title(term: str, training: Training) -> str:
    title = _TERMS.get(term, term.replace("_", " ")[:40])
    return title if term not in training.weights else f"{title}, × {training.weights[term]:.3g}"


def _shifts(fit: Autoencoders, cells: Cells) -> str:
    found = fit.counterfactual
    shown = found.batches[:MAX_SECTIONS]
    absent = _absent(cells)
    parts = [
        {
            # the program's name of it, unless a batch has that name
            "title": "the average of all batches" if batch == "average" not in cells.batches else batch,
            "rows": [
                {
                    "label": label,
                    "cells": f"{int(found.cells[place]):,}",
                    "absent": (label, batch) in absent,
                    **_genes(fit.genes, found.shift[number, place], found.shift_se[number, place]),
                }
                for place, label in enumerate(found.labels)
            ],
        }
        for number, batch in enumerate(shown)
    ]
    return render(
        "shifts",
        parts=parts,
        open=OPEN_ROWS,
        way=WAYS.get(found.way, found.way),
        embedding_has_batch=found.way != "batch-free",
        genes=f"{len(fit.genes):,}",
        chance=f"{0.1 * len(fit.genes):,.0f}",
        omitted=len(found.batches) - len(shown),
    )


def _absent(cells: Cells) -> set[tuple[str, str]]:
    """Labels that a batch has no cell of, as label and batch."""
    if cells.label is None:
        return set()
    present = set(zip(cells.label.tolist(), cells.batch.tolist(), strict=True))
    return {
        (label, batch)
        for i, label in enumerate(cells.labels)
        for j, batch in enumerate(cells.batches)
        if (i, j) not in present
    }


def _genes(names: list[str], shift: np.ndarray, se: np.ndarray) -> dict[str, Any]:
    """Say which genes are surely shifted, the most first, and how many there are."""
    sure = np.abs(shift) > np.maximum(Z90 * se, ROUNDING)
    first = [g for g in surest(np.abs(shift), se)[:TOP_GENES] if sure[g]]
    return {
        "still": np.abs(shift).max(initial=0) < ROUNDING,
        "sure": f"{int(sure.sum()):,}",
        "genes": [
            (names[g], _signed(shift[g]), f"{_signed(shift[g] - Z90 * se[g])} to {_signed(shift[g] + Z90 * se[g])}")
            for g in first
        ],
    }


def _signed(value: float) -> str:
    size = f"{abs(value):.2f}" if abs(value) >= 0.0995 else f"{abs(value):.2g}"
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{size}"

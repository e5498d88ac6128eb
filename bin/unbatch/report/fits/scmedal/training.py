"""Losses of the autoencoders by epoch, and the epoch that was kept."""

from collections.abc import Iterator

import numpy as np

from unbatch.report.fits.common import TRAINING, lines
from unbatch.report.fits.scmedal.read import Autoencoders
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import distinct, plain

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
    "validation_reconstruction": "Reconstruction: misfit",
    "batch": "Batch: cross-entropy of guesses",
    "batch_probe": "Batch told from validation cells",
    "hsic": "HSIC: dependence on the batch",
    "matching": "Matching: batches apart within labels",
    "drift": "Drift from principal components",
    "label": "Label: cross-entropy of guesses",
    "divergence": "Divergence: cost of random effects",
}


_WITH = {"validation_reconstruction": "reconstruction"}
"""Terms that are drawn with another one."""


def _pages(fit: Autoencoders, shown: Shown) -> Iterator[Page]:
    # a model that was applied has no training
    if not fit.models:
        return
    content = render(
        "fits/scmedal/training",
        models=[
            {
                "title": _MODELS.get(kind, kind.upper()),
                "best": training.best,
                "epochs": len(next(iter(training.terms.values()))),
                "weights": {_title(term): f"{weight:.3g}" for term, weight in training.weights.items()},
            }
            for kind, training in fit.models.items()
        ],
        probed=any("batch_probe" in training.terms for training in fit.models.values()),
        random="re" in fit.models,
        evidence=shown.evidence,
    )
    kinds = dict(zip(fit.models, distinct(kind.upper() for kind in fit.models), strict=True))
    present = dict.fromkeys(name for training in fit.models.values() for name in training.terms)
    order = [*(name for name in _TERMS if name in present), *(name for name in present if name not in _TERMS)]
    terms: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in order:
        title = plain(_title(_WITH.get(name, name)))
        for kind, training in fit.models.items():
            if name in training.terms:
                values = np.asarray(training.terms[name], dtype=float)
                line = f"{kinds[kind]}{', validation cells' if name in _WITH else ''}"
                terms.setdefault(title, {})[line] = np.arange(1, len(values) + 1), values
    kept = {kinds[kind]: training.best for kind, training in fit.models.items()}
    yield Page("Losses by epoch", content, "losses", lines("Losses by epoch", terms, "Epoch", kept))


def _title(term: str) -> str:
    return _TERMS.get(term, term.replace("_", " "))


SECTION = FitSection(*TRAINING, _pages)

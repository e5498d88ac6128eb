"""Domains on the tissue, by both clusterers, and how far fits of several seeds agree."""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from unbatch.metrics.jackknife import adjusted_rand
from unbatch.report import draw
from unbatch.report.fits.spavae.drawing import Tissue
from unbatch.report.fits.spavae.read import CLUSTERERS, Restarts, Spatial
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import decimals, share

MOST, OPEN = 6, 2
"""Sections that are drawn, and those that are seen before anything is unfolded."""


def _pages(fit: Spatial, shown: Shown) -> Iterator[Page]:
    if shown.cells.positions is not None:
        yield Page("Domains on the tissue", _maps(fit, shown), "maps")
    if fit.restarts is not None:
        yield Page("Fits of several seeds", _restarts(fit.restarts), "seeds")


def alike(labels: np.ndarray, reference: np.ndarray, number: int) -> np.ndarray:
    """Give clusters the numbers of those of another clustering with which they share most cells."""
    table = _table(labels, reference, number)
    rows, columns = linear_sum_assignment(-table)
    return columns[np.argsort(rows)][labels]


def _table(first: np.ndarray, second: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(first * number + second, minlength=number**2).reshape(number, number)


def _maps(fit: Spatial, shown: Shown) -> str:
    tissue = Tissue.of(shown.cells, MOST, shown.seed)
    reference = fit.domains["mixture"]
    labels = {name: alike(each, reference, fit.number) for name, each in fit.domains.items()}
    legend = draw.legend([f"Domain {code}" for code in range(fit.number)])
    table = draw.palette(legend)
    columns = [(f"{name}{end}", f"{title}{after}") for name, title in CLUSTERERS.items()
               for end, after in (("", ""), ("_refined", ", voted"))]  # fmt: skip
    parts = [
        {
            "title": tissue.names[code],
            "panels": [
                {
                    "title": title,
                    "note": "",
                    "image": tissue.coloured(code, table[labels[name]], table),
                    "alt": f"Domains of section {tissue.names[code]} by {title}",
                }
                for name, title in columns
            ],
        }
        for code in tissue.members
    ]
    changed = {title: share(float((fit.domains[name] != fit.domains[f"{name}_refined"]).mean()))
               for name, title in CLUSTERERS.items()}  # fmt: skip
    return render(
        "fits/spavae/domains",
        number=fit.number,
        chosen=fit.chosen,
        legend=legend,
        parts=parts,
        open=OPEN,
        changed=changed,
        agreement=decimals(adjusted_rand(_table(reference, fit.domains["kmeans"], fit.number))),
        caption=tissue.caption,
    )


def _restarts(found: Restarts) -> str:
    pairs = np.triu_indices(len(found.seeds), 1)
    mean = {name: values[pairs].mean() for name, values in found.agreement.items()}
    lowest = {name: values[pairs].min() for name, values in found.agreement.items()}
    others = [
        {
            "seed": int(seed),
            "kept": int(seed) == found.kept,
            "loss": decimals(float(loss), 1),
            **{name: decimals(float(np.delete(found.agreement[name][place], place).mean())) for name in CLUSTERERS},
        }
        for place, (seed, loss) in enumerate(zip(found.seeds, found.loss, strict=True))
    ]
    return render(
        "fits/spavae/restarts",
        rows=others,
        spots=found.spots,
        mean={CLUSTERERS[name]: decimals(float(value)) for name, value in mean.items()},
        lowest={CLUSTERERS[name]: decimals(float(value)) for name, value in lowest.items()},
        spread=decimals(float(np.ptp(found.loss)), 1),
    )


SECTION = FitSection("domains", "Domains", "Clusters of spots by what the processes over the tissue are there.", _pages)

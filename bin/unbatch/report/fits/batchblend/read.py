"""Reading what fits with metagenes hold: metagenes, batch effect, evidence, affinities, and a simulation's truth."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from unbatch.errors import InputError
from unbatch.metrics.recovery import Truth, in_cell_sizes_of, in_units_of_fit
from unbatch.models.verdicts import RETIRED, Verdict
from unbatch.report.read import Dataset, FitFile


@dataclass(frozen=True, eq=False)
class Effect:
    """The batch effect; T batches, K metagenes, G genes.

    Attributes
    ----------
    beta
        T x K, in counts.
    offset, offset_se
        T x G, in counts.
    total, total_se
        Sum of the offset over the genes, T.
    factor, log_factor_se
        T x G.
    """

    beta: np.ndarray
    offset: np.ndarray
    offset_se: np.ndarray
    total: np.ndarray
    total_se: np.ndarray
    factor: np.ndarray
    log_factor_se: np.ndarray


@dataclass(frozen=True, eq=False)
class Affinity:
    """How metagenes of neighbours go together, L x K x K, and the same after permutations of the cells."""

    estimate: np.ndarray
    permuted: np.ndarray
    permuted_sd: np.ndarray


@dataclass(frozen=True, eq=False)
class Factorisation:
    """A fit with metagenes.

    Attributes
    ----------
    genes
        Names of the G genes that were used.
    metagenes
        G x K, columns sum to 1.
    shares
        N x K: of every cell's amounts those of each metagene.
    amounts
        N x K, in counts.
    dead
        Metagenes that no cell has, K.
    batches
        Names of the T batches, in the order of the batch effect.
    effect, affinity
        None if the fit has none.
    evidence
        Columns of the table of tested steps.
    history
        Objective and its terms over the iterations.
    truth
        In the units of the fit; None unless the data is simulated.
    """

    genes: list[str]
    metagenes: np.ndarray
    shares: np.ndarray
    amounts: np.ndarray
    dead: np.ndarray
    batches: list[str]
    effect: Effect | None
    evidence: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    affinity: Affinity | None
    truth: Truth | None = None

    @property
    def order(self) -> np.ndarray:
        """Metagenes that are not dead, the most abundant first."""
        order = np.argsort(-self.abundance, kind="stable")
        return order[~self.dead[order]]

    @property
    def abundance(self) -> np.ndarray:
        """Share of all amounts that each metagene has."""
        total = self.amounts.sum(axis=0, dtype=np.float64)
        return total / max(total.sum(), np.finfo(float).tiny)


def read_factorisation(file: FitFile, dataset: Dataset) -> Factorisation:
    """Read a fit with metagenes.

    Parameters
    ----------
    file
        The fit.
    dataset
        Dataset of the fit, which has the truth if it is simulated.

    Raises
    ------
    InputError
        If something is missing or has not the shape that it should.
    """
    data, about, cells = file.data, file.about, dataset.cells
    metagenes = file.numbers(data.varm, "metagenes", (data.n_vars, None))
    k = metagenes.shape[1]
    # the embedding lacks metagenes that no cell has
    amounts = file.numbers(data.obsm, f"X_{about['method']}_amount", (len(cells.names), k))
    total = amounts.sum(axis=1, keepdims=True)
    batches = [str(name) for name in about.get("batches", [])]
    fit = Factorisation(
        genes=dataset.shown(file.genes),
        metagenes=metagenes,
        shares=amounts / np.where(total > 0, total, 1),
        amounts=amounts,
        dead=np.asarray(about.get("dead_metagenes", np.zeros(k)), dtype=bool),
        batches=batches,
        effect=_effect(file, about, len(batches), data.n_vars, k),
        evidence=_evidence(file, about),
        history=_columns(about.get("history", {}), "objective"),
        affinity=_affinity(file, about, k),
    )
    return replace(fit, truth=_truth(dataset, fit, file.genes))


def _columns(table: dict[str, Any], leading: str) -> dict[str, np.ndarray]:
    """Columns that are as long as the leading one; nothing without that."""
    size = np.atleast_1d(table.get(leading, [])).shape
    columns = {str(key): np.atleast_1d(values) for key, values in table.items()}
    return {key: values for key, values in columns.items() if size != (0,) and values.shape == size}


def _evidence(fit: FitFile, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """Take out the tested steps, whose verdicts must be known ones."""
    found = _columns(about.get("evidence", {}), "step")
    if not found:
        return {}
    absent = {"batch", "verdict"} - set(found)
    if absent:
        raise InputError(f"{fit.path}: evidence lacks {', '.join(sorted(absent))}, expected what fit-batchblend writes")
    unknown = next((str(code) for code in found["verdict"] if str(code) not in list(Verdict)), None)
    if unknown in RETIRED:
        raise InputError(
            f"{fit.path}: evidence has the verdict {unknown!r}, which an earlier version of unbatch wrote: fit it anew"
        )
    if unknown is not None:
        raise InputError(f"{fit.path}: evidence has the verdict {unknown!r}, expected one of {', '.join(Verdict)}")
    return found


def _effect(fit: FitFile, about: dict[str, Any], t: int, g: int, k: int) -> Effect | None:
    given = about.get("batch_effect")
    if not given:
        return None
    sizes = {
        "beta": ("beta", (t, k)),
        "offset": ("offset", (t, g)),
        "offset_se": ("offset_se", (t, g)),
        "total": ("total_offset", (t,)),
        "total_se": ("total_offset_se", (t,)),
        "factor": ("factor", (t, g)),
        "log_factor_se": ("log_factor_se", (t, g)),
    }
    effect = Effect(**{key: fit.numbers(given, name, shape) for key, (name, shape) in sizes.items()})
    for name in ("beta", "offset", "factor"):
        values = getattr(effect, name)
        if not np.isfinite(values).all() or (name == "factor" and values.min() <= 0):
            wanted = "finite numbers above 0" if name == "factor" else "finite numbers"
            raise InputError(f"{fit.path}: {name} of the batch effect does not hold {wanted} only")
    return effect


def _affinity(fit: FitFile, about: dict[str, Any], k: int) -> Affinity | None:
    given = about.get("spatial")
    if not given or "affinity" not in given:
        return None
    estimate = fit.numbers(given, "affinity", (None, k, k))
    names = ("affinity_permuted", "affinity_permuted_sd")
    return Affinity(estimate, *(fit.numbers(given, name, estimate.shape) for name in names))


def _truth(dataset: Dataset, fit: Factorisation, names: list[str]) -> Truth | None:
    """Truth of a simulation for the genes and batches of a fit, unless it is of other batches or genes."""
    data, cells = dataset.data, dataset.cells
    truth = data.uns.get("unbatch", {}).get("truth", {})
    genes = data.var_names.get_indexer(names)
    batches = pd.Index([str(name) for name in truth.get("batches", [])]).get_indexer(fit.batches)
    if (
        "X_true" not in data.obsm
        or "metagenes_true" not in data.varm
        or not _known(genes)
        or not _known(batches)
        or np.shape(truth.get("gene_factors"))[1:] != (data.n_vars,)
    ):
        return None
    found = in_units_of_fit(
        np.asarray(data.varm["metagenes_true"])[genes],
        np.asarray(data.obsm["X_true"]),
        np.asarray(truth["beta"])[batches],
        np.asarray(truth["gene_factors"])[batches][:, genes],
        float(truth.get("scale", 1)),
    )
    if fit.effect is None:
        return found
    place = pd.Index(fit.batches).get_indexer(cells.batches)
    return in_cell_sizes_of(found, fit.effect.factor, place[cells.batch])


def _known(indices: Iterable[int]) -> bool:
    indices = np.asarray(indices)
    return indices.size > 0 and bool(np.all(indices >= 0))

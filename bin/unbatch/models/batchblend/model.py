"""BatchBlend: non-negative metagenes with an additive and a multiplicative batch effect.

**Model.** The expression of cell i of batch b, cells in rows, is

    y_i = F_b + g_b * (x_i M) + noise,    x_i >= 0, F_b >= 0, rows of M >= 0 with sum 1,

with amounts ``x_i`` of K metagenes ``M`` (K x G), an offset ``F_b`` (G) whose loadings on the metagenes are the
``beta_b`` of the BatchBlend thesis (section 2.1), and factors ``g_b`` (G) whose logarithms have mean 0 over batches.
POPARI (Alam et al., bioRxiv 2025) is the case F = 0, g = 1 with a spatial prior on ``x_i / sum(x_i)``.

**What identifies it.** F: the size of cells. Within a state c (a cluster of cells), a cell of total T_i lies on the ray
``F_b + g_b * p_c (T_i - S_b)``, ``S_b = sum F_b``, and all rays of a batch meet in F_b. g: the profiles p_c, which
batches share. How much of a difference between batches could be their composition is judged apart (`composition`).

**Algorithm** (`fit`).

1. The noise of genes and cells, from what the principal axes of each batch leave (`noise`).
2. The batch effect, in a few rounds (`search`): factors from the profiles of shared states (`factors`), principal axes
   without them, offset from the rays (`offset`), states anew (`states`).
3. Amounts and metagenes, with batch effect and states fixed (`nmf`), by coordinate descent on

       sum_b n_b G log(v_b) / 2 + sum_i penalty_c' x_i / (s_i v_b),

   ``v_b`` being the mean square of ``q_bj (y_ij - F_bj - g_bj (x_i M)_j) / s_i`` over cells i and genes j, with weights
   q of genes and relative noise s of cells; the penalty draws metagenes that a state c hardly uses to 0.
4. Amounts anew, given what the state of a cell and its neighbours make one expect of its shares z (`pooling`): the data
   term of a cell, with its penalty, plus ``weight / 2 sum_k (z_ik - expected_ik)^2 / variance_k``, or POPARI's random
   field (`unbatch.models.popari.field`).

All sums over cells are of scores of the cells on a few principal axes, or products with the sparse matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.decoder import Decoder, Reference, decoder_of, saved_fields
from unbatch.models.batchblend.effect import Effect
from unbatch.models.batchblend.expression import Batches, prepare, totals_of
from unbatch.models.batchblend.new_batch import add_batch
from unbatch.models.batchblend.nmf import Factorisation, factorise
from unbatch.models.batchblend.noise import estimate_noise
from unbatch.models.batchblend.pooling import (
    Affinity,
    append_phase,
    edges_between,
    last_phase,
    spatial_affinity,
    with_expectations,
)
from unbatch.models.batchblend.search import find_batch_effect
from unbatch.models.batchblend.settings import RULES, Rules, Settings
from unbatch.models.verdicts import Evidence

_ARRAYS = (
    "metagenes",
    "offset",
    "offset_error",
    "total_offset",
    "total_offset_error",
    "factors",
    "log_error",
    "beta",
    "sigma",
)
"""Arrays of a BatchBlend."""
_PARTS = {"decoder": Decoder, "reference": Reference}
"""Parts of it that have arrays of their own."""


@dataclass(kw_only=True)
class BatchBlend:
    """A fitted model; T batches, K metagenes, G genes, expression in the units of the input.

    Attributes
    ----------
    metagenes
        K x G, rows sum to 1.
    offset, offset_error
        What is added to the expression of every cell of a batch, and its standard error (NaN where no offset was
        taken), T x G.
    total_offset, total_offset_error
        Sum of the offset over the genes before factors, and its standard error (NaN where no offset was taken), T.
    factors, log_error
        What the expression of each gene is multiplied by (T x G, mean logarithm 0 over batches), and the standard
        deviation of its logarithm (NaN where no factors were taken).
    beta
        Loadings of the offset, before the factors, on the metagenes, T x K.
    sigma
        Standard deviation of the noise, relative to the weights of the fit, T.
    evidence
        Why steps of the correction were taken or left.
    decoder, reference
        What embeds cells, and what new batches are compared with.
    """

    metagenes: np.ndarray
    offset: np.ndarray
    offset_error: np.ndarray
    total_offset: np.ndarray
    total_offset_error: np.ndarray
    factors: np.ndarray
    log_error: np.ndarray
    beta: np.ndarray
    sigma: np.ndarray
    evidence: list[Evidence] = field(default_factory=list)
    decoder: Decoder
    reference: Reference

    def amounts(self, expression: Any, batch: np.ndarray) -> np.ndarray:
        """Embed cells of the batches of the fit.

        Parameters
        ----------
        expression
            n x G, genes in the order of the fit.
        batch
            Code of each cell's batch, n.

        Returns
        -------
        np.ndarray
            Amounts of the metagenes, n x K, in the units of the input.
        """
        found = np.zeros((len(batch), len(self.metagenes)), dtype=np.float32)
        device = self.decoder.metagenes.device
        for b in np.unique(batch):
            cells = np.flatnonzero(batch == b)
            matrix = CellMatrix(expression[cells], self.decoder.scale, device)
            totals = matrix.times(torch.ones(matrix.shape[1], 1, device=device))[:, 0].double()
            values = self.decoder.amounts(matrix, totals, int(b)).cpu().numpy() / self.decoder.scale
            found[cells] = np.where(totals.cpu().numpy()[:, None] > 0, values, 0)
        return found

    def with_batch(
        self,
        expression: Any,
        *,
        seed: int = 0,
        settings: Settings | None = None,
        log: Callable[[str], None] = lambda text: None,
    ) -> "BatchBlend":
        """Add a batch: find its effect against the cells of the fit, with all else as it is.

        Parameters
        ----------
        expression
            Cells of the new batch, in the units of the fit, with the genes in its order; n x G.
        seed
            Seed of all random numbers.
        settings
            Whether an offset by rays, and factors, may be taken; the defaults of the fit if None.
        log
            Called with a line of progress now and then.

        Returns
        -------
        BatchBlend
            The same model with one batch more, whose code is the number of batches before; its evidence is at the end.

        Raises
        ------
        ValueError
            If the batch has fewer cells than there are metagenes, or other genes; if the offset is to be found by a
            prior.

        Notes
        -----
        The cells of the fit are drawn anew from a sample of their amounts and the noise of the model, without any batch
        effect, and compared with the new ones as two batches of a fit are, with the same rules of evidence. The factors
        of the new batch are thus relative to the mean of the batches of the fit.
        """
        return add_batch(self, expression, settings or Settings(len(self.metagenes)), seed=seed, log=log)

    def weights(self) -> dict[str, np.ndarray]:
        """Return all that `from_weights` needs but the evidence, as arrays by name."""
        found = {name: getattr(self, name) for name in _ARRAYS}
        for part, kind in _PARTS.items():
            for name in saved_fields(kind):
                value = getattr(getattr(self, part), name)
                found[f"{part}.{name}"] = value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)
        return {name: np.ascontiguousarray(value) for name, value in found.items()}

    @classmethod
    def from_weights(
        cls, weights: dict[str, np.ndarray], evidence: list[Evidence] | None = None, device: str = "cpu"
    ) -> "BatchBlend":
        """Make the model that had these `weights`.

        Parameters
        ----------
        weights
            What `weights` returned.
        evidence
            That of the model; it is kept, not used.
        device
            Where to compute.

        Raises
        ------
        ValueError
            If a weight is missing, or one too many.
        """
        names = {*_ARRAYS, *(f"{part}.{name}" for part, kind in _PARTS.items() for name in saved_fields(kind))}
        if names != set(weights):
            wrong = ", ".join(sorted(names ^ set(weights)))
            raise ValueError(f"weights {wrong} are missing or unknown: another version's model has to be fitted anew")
        parts = {}
        for part, kind in _PARTS.items():
            values = {name: (weights[f"{part}.{name}"], number) for name, number in saved_fields(kind).items()}
            # a copy, as what was read from a file may not be written to
            parts[part] = kind(
                **{
                    name: float(value.item()) if number else torch.tensor(value, device=device)
                    for name, (value, number) in values.items()
                }
            )
        return cls(**{name: np.array(weights[name]) for name in _ARRAYS}, evidence=list(evidence or []), **parts)


@dataclass(frozen=True)
class Fitted:
    """Result of a fit.

    Attributes
    ----------
    model
        The model.
    amounts
        Amounts of the metagenes in each cell, n x K, in the units of the input.
    history
        Terms of the objective (its mean over all values of the matrix, up to constants) by iteration; `phase` is 0 in
        the factorisation and 1 where cells are then drawn to their states and neighbours.
    affinity
        None without a graph.
    """

    model: BatchBlend
    amounts: np.ndarray
    history: dict[str, list[float]]
    affinity: Affinity | None = None


def fit(
    expression: Any,
    batch: np.ndarray,
    settings: Settings,
    *,
    graph: tuple[np.ndarray, np.ndarray] | None = None,
    wide_graph: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    device: str = "cpu",
    log: Callable[[str], None] = lambda text: None,
    rules: Rules = RULES,
) -> Fitted:
    """Fit the model.

    Parameters
    ----------
    expression
        Counts, or continuous values scaled by one constant; n x G numpy array or scipy CSR matrix, non-negative.
    batch
        Batch of each cell as a code 0 ... T-1, n.
    settings
        How to fit.
    graph
        Source and target of the edges between neighbouring cells, both directions of each; may join batches.
        Without it there are neither affinities nor neighbours in the last phase.
    wide_graph
        The same for about 20 neighbours of each cell, for the phase ``"linear"``; `graph` if not given.
    seed
        Seed of all random numbers.
    device
        Where to compute.
    log
        Called with a line of progress now and then.
    rules
        The thresholds.

    Raises
    ------
    ValueError
        If there are fewer genes than metagenes, or a batch has fewer cells than metagenes.
    """
    K, totals = settings.metagenes, totals_of(expression)
    kept = _usable(batch, totals, genes=expression.shape[1], metagenes=K, rules=rules)
    if batch.max() == 0:
        settings = replace(settings, offset="none", factors=False)
    scale = K / totals[kept].mean()
    data = prepare(expression, batch, kept=kept, totals=totals, scale=scale, device=torch.device(device))

    log("noise model")
    noise, bases = estimate_noise(data, K, rules)
    effect = find_batch_effect(data, noise, bases, settings, seed=seed, log=log, rules=rules)
    log("factorisation")
    found = factorise(data, noise, effect, settings, rules=rules)
    decoder = decoder_of(data, noise, effect, found, sparsity=settings.sparsity, scale=scale)
    embedded, history = found.amounts, {**found.history, "phase": [0.0] * len(found.history["data"])}

    affinity = edges = None
    if graph is not None:
        log("spatial affinities")
        near = edges_between(graph, kept, cells=len(batch), device=data.batch.device)
        affinity = spatial_affinity(embedded, data.batch, near, shared=settings.shared_affinity, seed=seed)
        if settings.spatial != "none":
            wide = wide_graph if wide_graph is not None and settings.spatial == "linear" else graph
            edges = edges_between(wide, kept, cells=len(batch), device=data.batch.device)
    random_field = edges is not None and settings.spatial == "hmrf"
    if settings.pooling and effect.several and not random_field:
        log("what states expect")
        decoder = with_expectations(decoder, embedded, data, effect, pooling=settings.pooling, seed=seed)
    if edges is not None or decoder.pooling:
        log("cells given others")
        embedded, terms = last_phase(
            decoder, embedded, data, state=effect.state, edges=edges, settings=settings, seed=seed
        )
        append_phase(history, terms)
    history["objective"] = [sum(terms) for terms in zip(*(history[t] for t in history if t != "phase"), strict=True)]

    model = _model(data, effect, found, decoder, seed=seed)
    amounts = np.empty((len(batch), K), dtype=np.float32)
    amounts[kept] = embedded.cpu().numpy() / scale
    left = np.setdiff1d(np.arange(len(batch)), kept)
    amounts[left] = model.amounts(expression[left], batch[left])
    return Fitted(model=model, amounts=amounts, history=history, affinity=affinity)


def shares(amounts: np.ndarray) -> np.ndarray:
    """Divide amounts by their sum; a cell without any has the mean of all others, as nothing is known of it."""
    total = amounts.sum(1, keepdims=True)
    mean = amounts.sum(0) / max(amounts.sum(), 1e-30)
    return np.where(total > 0, amounts / np.where(total > 0, total, 1), mean).astype(np.float32)


def _usable(batch: np.ndarray, totals: np.ndarray, *, genes: int, metagenes: int, rules: Rules) -> np.ndarray:
    """Places of the cells that say something of the batch effect, sorted by batch."""
    kept = np.flatnonzero(totals > rules.min_cell_total * totals.mean())
    kept = kept[np.argsort(batch[kept], kind="stable")]
    smallest = np.bincount(batch[kept], minlength=int(batch.max()) + 1).min()
    if genes <= metagenes or smallest < metagenes:
        raise ValueError(
            f"{metagenes} metagenes need more genes (found {genes}) and as many cells in every batch ({smallest})"
        )
    return kept


def _model(data: Batches, effect: Effect, found: Factorisation, decoder: Decoder, *, seed: int) -> BatchBlend:
    """Put the model together, in the units of the input."""
    sample = torch.randperm(len(data.totals), generator=torch.Generator().manual_seed(seed))
    sample = sample[: effect.rules.reference_cells].sort().values.to(data.batch.device)

    def plain(values: Tensor, unit: float = 1.0) -> np.ndarray:
        return values.cpu().numpy() / unit

    factors, scale = effect.factors, decoder.scale
    return BatchBlend(
        metagenes=plain(found.metagenes),
        offset=plain(effect.offset * factors, scale),
        offset_error=plain(effect.offset_se * factors, scale),
        total_offset=plain(effect.total, scale),
        total_offset_error=plain(effect.total_se, scale),
        factors=plain(factors),
        log_error=plain(effect.log_factors_se),
        beta=plain(found.beta, scale),
        sigma=plain(found.variance.sqrt()),
        evidence=effect.evidence,
        decoder=decoder,
        reference=Reference(amounts=found.amounts[sample], batch=data.batch[sample]),
    )

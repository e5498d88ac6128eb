"""What a search ends with: the batch effect, and the states that were found with it."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unbatch.models.batchblend.factors import Factors
from unbatch.models.batchblend.offset import Offset
from unbatch.models.batchblend.settings import Rules
from unbatch.models.batchblend.states import merged_clusters
from unbatch.models.batchblend.view import View
from unbatch.models.verdicts import Evidence


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Batch effect and states, in units of the kept data.

    Attributes
    ----------
    offset, offset_se
        Offset before the factors, and its standard error, T x G.
    total, total_se
        Sum of the offset over genes, and its standard error, T.
    log_factors, log_factors_se
        Logarithms of the factors, and their standard errors, T x G.
    state, centres
        State of each cell (n) and its centre on `axes` (C x r).
    axes
        Principal axes, orthonormal in weighted gene space, G x r.
    on_axes
        The offset on them, T x r.
    scores, profiles
        Scores of the cells after the factors are divided out, and after the offset is removed and size divided out;
        n x r.
    size
        Totals of the cells after factors and offset, n.
    mean_total
        Mean total after the factors are divided out.
    rules
        The thresholds.
    evidence
        Why steps were taken or left.
    """

    offset: Tensor
    offset_se: Tensor
    total: Tensor
    total_se: Tensor
    log_factors: Tensor
    log_factors_se: Tensor
    state: Tensor
    centres: Tensor
    axes: Tensor
    on_axes: Tensor
    scores: Tensor
    profiles: Tensor
    size: Tensor
    mean_total: float
    rules: Rules
    evidence: list[Evidence]

    @property
    def factors(self) -> Tensor:
        """Factors, T x G."""
        return self.log_factors.exp()

    @cached_property
    def clusters(self) -> Tensor:
        """Number of each state, C, the same of states that are parts of one cloud of cells."""
        return merged_clusters(
            self.profiles,
            self.state,
            self.size,
            clusters=len(self.centres),
            distance=self.rules.cluster_distance,
            valley=self.rules.cluster_valley,
        )

    @property
    def several(self) -> bool:
        """Whether cells are in several clusters, a few cells apart; if not, states are pieces of a continuum."""
        sizes = torch.bincount(self.clusters[self.state])
        return int((sizes >= self.rules.min_cluster_cells).sum()) > 1


def effect_of(view: View, offset: Offset, factors: Factors, *, centres: Tensor, evidence: list[Evidence]) -> Effect:
    """Put together what a search ends with: the last view, offset, factors, and centres of the states."""
    return Effect(
        offset=offset.genes.clamp(min=0),
        offset_se=_where_any(offset.genes, offset.genes_se),
        total=offset.total,
        total_se=torch.where(offset.genes.any(1), offset.total_se, math.nan),
        log_factors=factors.logs,
        log_factors_se=_where_any(factors.logs, factors.se),
        state=view.state,
        centres=centres,
        axes=view.axes.shared,
        on_axes=offset.on_axes,
        scores=view.scores,
        profiles=view.profiles(offset.on_axes, offset.total),
        size=view.sizes(offset.total),
        mean_total=view.mean_total,
        rules=view.rules,
        evidence=evidence,
    )


def _where_any(effect: Tensor, se: Tensor) -> Tensor:
    """Keep the errors of the batches that have an effect; where none was taken, its error is not known."""
    return torch.where(effect.any(1, keepdim=True), se, math.nan)

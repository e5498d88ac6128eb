"""What a fit can be asked for, and every constant that it goes by."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Every constant of the model, with its unit, what it does, and why it has its value.

    The defaults are meant for all data. What was measured to set them is in docs/decisions/. A model that was saved
    and loaded anew is used with the defaults.

    Attributes
    ----------
    min_cell_total
        Share of the mean total of a cell. Cells below it are left out of the fit and embedded afterwards: a cell of a
        fiftieth of the usual counts says nothing of the batch effect.
    min_size
        Share of the mean total. What is left of the size of a cell once the offset is removed counts as at least this
        where one divides by it.
    small_cells, max_offset_of_small
        Share of the cells of a batch that are small ones, and share of the total of the largest of these that its
        offset has at most: nearly all cells must have something of their own.
    min_ray_size
        Share of the median size. A cell weighs in the rays by the inverse of its size, smaller ones by that of this.
    max_cells_halved
        Cells of a batch. From larger ones so many are drawn where random halves of the cells are fitted: enough for
        their difference, at a bounded cost.
    certain_offset_errors
        Standard errors. An offset beyond it is taken for granted: the first states are found again without it, and rays
        of each batch alone give the profiles.
    usual_offset
        Share of the mean total. Standard deviation of offsets where there are any, such as the ambient RNA of droplets,
        which is some percent to a fifth of their counts. A standard error as large tells little.
    batches_without_offset
        Batches. How many without an offset are counted as seen before, next to half a one that has it: a batch alone
        has an offset with a probability of 0.1 before it is seen, errors of offsets being rough.
    gene_splits
        Random splits of the genes in halves, by which it is measured how much an offset depends on the genes that put
        cells in states.
    min_batch_cells
        Cells. A batch with fewer is not compared with others gene by gene.
    min_state_cells
        Cells. A state with fewer in a batch is not compared between that batch and others.
    min_expression
        Share of the mean expression of a gene. A state that has less of the gene is not used for its factors, as the
        logarithm of next to nothing is noise.
    outlying_state
        Standard deviations. A state whose profiles differ by more from what factors explain weighs less, as in Huber's
        estimator.
    min_factor_spread
        Standard deviation of log factors over genes that errors of the offset make. The prior's variance is lower by
        its square.
    of_tissue, of_composition, concentration_spread
        How many times more a difference of batches varies on the axes in which cells differ than off them, for batch
        effects between donors and for composition alone, as measured on sections (an effect that hits genes
        independently has 1), and the standard deviation of its logarithm in each case.
    usual_overlap
        Share of the cells of a batch. Where so many cells of each of two batches have cells of the other as near as
        their own without what composition could make, the odds that composition made it are half of what they are where
        all have.
    overlap_neighbours, overlap_margin
        Two batches overlap at a cell when its so many nearest cells of the other batch lie within a distance that is at
        most this share above that of as many of its own.
    usual_shifts
        Standard deviations of the cells. How far composition may draw a batch from the mean of all along an axis, next
        to a batch effect that hits genes independently; all are as likely.
    log_profile_floor, min_mean_profile
        Shares of the mean expression of a gene in the batch, and over all. The first is added before a profile's
        logarithm, which makes next to nothing and nothing alike; no mean of a batch is lower than the second.
    cluster_distance
        Standard deviations within clusters. Clusters whose means are closer are one: halves of a normal cloud are 2.65
        apart, and what k-means makes of some dozens of points in a dozen dimensions up to 3.5.
    cluster_valley
        Share. Clusters with more than this share of the density near their means in between are one: in a continuum it
        is 1, between normal clouds 3.5 apart about one half.
    min_cluster_cells
        Cells. Clusters of fewer are outliers of a continuum, and do not count as a second cluster.
    noise_prior_cells
        Cells that the noise model counts as where the noise of a gene in a batch is estimated.
    penalty_halving
        Share of a metagene in a state at which the sparse prior has fallen by half.
    first_extrapolation
        How much longer than it is a step of the factorisation is made at first.
    min_share_variance
        Variance of a share within a state that is assumed at least, lest a prior without variance hold cells fast.
    min_cells_for_rank
        Cells. A batch with fewer does not help to choose the number of metagenes.
    reference_cells
        Cells of the fit that its model keeps for new batches.
    """

    min_cell_total: float = 0.02
    min_size: float = 0.05
    small_cells: float = 0.02
    max_offset_of_small: float = 0.95
    min_ray_size: float = 0.3
    max_cells_halved: int = 20_000
    certain_offset_errors: float = 6.0
    usual_offset: float = 0.12
    batches_without_offset: float = 4.5
    gene_splits: int = 4
    min_batch_cells: int = 20
    min_state_cells: int = 3
    min_expression: float = 0.02
    outlying_state: float = 1.5
    min_factor_spread: float = 0.02
    of_tissue: float = 12.0
    of_composition: float = 100.0
    concentration_spread: float = 0.5
    usual_overlap: float = 0.05
    overlap_neighbours: int = 10
    overlap_margin: float = 0.1
    usual_shifts: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8)
    log_profile_floor: float = 0.3
    min_mean_profile: float = 0.05
    cluster_distance: float = 3.5
    cluster_valley: float = 0.7
    min_cluster_cells: int = 10
    noise_prior_cells: int = 20
    penalty_halving: float = 0.1
    first_extrapolation: float = 0.5
    min_share_variance: float = 1e-5
    min_cells_for_rank: int = 20
    reference_cells: int = 2000


RULES = Rules()
"""The rules of every fit that is not given others."""

SMALLEST = RULES.min_cell_total
"""Share of the mean total below which a cell is left out of a fit."""

OF_CELLS = {"sparsity": 0.75, "pooling": 1.0, "spatial_weight": 3.0}
"""Settings for single cells."""

OF_SPOTS = {"sparsity": 0.0, "pooling": 0.0, "spatial_weight": 4.0}
"""The same for spots that hold several cells: neither few metagenes in each nor types are to be expected, and shares
are noisy."""


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    metagenes
        Number of metagenes, K.
    offset
        How the additive offset of a batch is found: from the ``"rays"`` of its cells; for data whose cells all have one
        total, with the ``"annealed"`` prior, which finds one in any data; or there is ``"none"``.
    factors
        Whether batches may have a factor per gene; not with ``"annealed"``.
    strength
        How much is removed of a difference between batches that their composition could make, too: 0 leaves it in the
        data, 1 removes it, 0.5 goes by how likely it is to be the batch effect's.
    rounds
        Times that states, offset and factors are found anew.
    sparsity
        Strength of the sparse prior, in standard deviations of the noise of an amount.
    pooling
        Weight of the prior that draws the shares of a cell to those of its state, against the data, 1 being what the
        variance within states says; 0 for none. Where it is, the phase ``"linear"`` adds what neighbours expect and has
        this weight; ``"hmrf"`` has no states. Without several states there is nothing to draw to.
    iterations
        Iterations of the factorisation.
    spatial
        Phase after the factorisation, with metagenes and batch effect fixed: ``"linear"`` draws the shares of a cell to
        what a regression on its neighbours expects; ``"hmrf"`` is POPARI's hidden Markov random field.
    spatial_weight
        Weight of the spatial prior against the data, where there is no pooling.
    shared_affinity
        One affinity matrix for all batches in place of one for each.
    """

    metagenes: int
    offset: Literal["rays", "annealed", "none"] = "rays"
    factors: bool = True
    strength: float = 0.5
    rounds: int = 4
    sparsity: float = 0.75
    pooling: float = 1.0
    iterations: int = 20
    spatial: Literal["none", "linear", "hmrf"] = "none"
    spatial_weight: float = 3.0
    shared_affinity: bool = False

    @classmethod
    def popari(cls, metagenes: int, **others: Any) -> "Settings":
        """POPARI's model: no batch effect, no priors of states, the random field on.

        Without what knowing the batch effect and the states adds, the factorisation takes longer to get anywhere.
        """
        return cls(
            metagenes,
            **{
                "offset": "none",
                "factors": False,
                "sparsity": 0.0,
                "pooling": 0.0,
                "iterations": 60,
                "spatial": "hmrf",
                "spatial_weight": 1.0,
                **others,
            },
        )

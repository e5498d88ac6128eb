"""Where the rays of each batch meet: the regression that finds an offset from the sizes of cells.

Within a state c of batch b a cell of total T_i has the expression ``F_b + p_c (T_i - S_b)``, ``S_b = sum F_b``: states
are rays, and all rays of a batch meet in F_b. Expression comes as scores on orthonormal axes, and nothing
here has the size cells x genes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unbatch.models.batchblend.settings import RULES, Rules


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Where the rays of each batch meet, on principal axes.

    Attributes
    ----------
    offset, total, error
        Offset (T x r), its sum over genes (T), and the standard error of that sum: from the scatter of the cells
        (sandwich), but no less than under a normal prior of the sum with the mean total as standard deviation.
    profile
        Profile of each state, per unit of size, C x r.
    inverse
        Inverse of the normal matrix of offsets and profiles.
    covariance
        Covariance of each offset, T x r x r.
    """

    offset: Tensor
    total: Tensor
    error: Tensor
    profile: Tensor
    inverse: Tensor
    covariance: Tensor


def quadratic(basis: Tensor, covariance: Tensor) -> Tensor:
    """Variance of each gene from covariances on axes: ``v_g' C v_g`` of the rows of G x r; b x G of b x r x r."""
    return ((basis @ covariance) * basis).sum(-1)


class RayFit:
    """Weighted least squares of ``y_i = F_b + p_c (T_i - S_b)``, Gauss-Newton on S with F and p projected out.

    Parameters
    ----------
    scores, totals
        Scores of the cells on principal axes, n x r, and their totals, n.
    batch, state
        Batch and state of each cell, n.
    states
        Number of states.
    genes
        Number of genes, G.
    offset_scale
        Mean over genes of the squared mean expression, the variance of the normal prior on F.
    rules
        The thresholds.
    """

    def __init__(
        self,
        scores: Tensor,
        totals: Tensor,
        *,
        batch: Tensor,
        state: Tensor,
        states: int,
        genes: int,
        offset_scale: float,
        rules: Rules = RULES,
    ) -> None:
        self.scores, self.totals, self.batch, self.state = scores, totals, batch, state
        self.batches, self.states = int(batch.max()) + 1, states
        self.genes, self.offset_scale, self.rules = genes, offset_scale, rules
        self.mean_total = float(totals.mean())
        small = [torch.quantile(totals[batch == b], rules.small_cells) for b in range(self.batches)]
        self.most = rules.max_offset_of_small * torch.stack(small)

    def fit(self, steps: int = 30, tolerance: float = 1e-4, start: Tensor | None = None) -> Rays:
        """Find offsets, their totals and profiles; stop when totals move by less than `tolerance` mean totals."""
        total, variance, hessian = self._descend(steps, tolerance, start)
        inverse_hessian = torch.linalg.pinv(hessian, hermitian=True)
        shift = self._influence() @ inverse_hessian
        # cells of one total have no rays: the damping alone then holds S at 0, and the scatter of cells is no error
        error = torch.maximum(shift.square().sum(0), variance * inverse_hessian.diagonal()).sqrt()
        covariance = self._offset_covariance(shift)
        self._solve(total, variance)
        return Rays(
            offset=self.offset,
            total=total,
            error=error,
            profile=self.profile,
            inverse=self.inverse,
            covariance=covariance,
        )

    def intersections(self, start: Tensor, steps: int = 30, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
        """Find offsets (T x r) and their totals (T) alone."""
        total, variance, _ = self._descend(steps, tolerance, start)
        self._solve(total, variance)
        return self.offset, total

    def _descend(self, steps: int, tolerance: float, start: Tensor | None) -> tuple[Tensor, float, Tensor]:
        total = torch.zeros_like(self.most) if start is None else torch.minimum(start, self.most)
        variance = 0.0
        for _ in range(steps):
            self._solve(total, variance)
            variance = float(self.residual.square().sum()) / (len(self.scores) * self.genes)
            hessian, gradient = self._newton()
            damping = variance / self.mean_total**2
            eye = torch.eye(self.batches, dtype=hessian.dtype, device=hessian.device)
            hessian = hessian + (damping + 1e-12 * hessian.trace()) * eye
            moved = total + torch.linalg.solve(hessian, gradient - damping * total)
            moved = torch.minimum(moved.clamp(min=0), self.most)
            change = float((moved - total).abs().max())
            total = moved
            if change < tolerance * self.mean_total:
                break
        return total, variance, hessian

    def _solve(self, total: Tensor, variance: float) -> None:
        """Find offsets and profiles for given totals of the offset."""
        size = (self.totals - total[self.batch]).clamp(min=self.rules.min_size * self.mean_total)
        self.size = size
        self.weight = 1 / size.clamp(min=self.rules.min_ray_size * float(size.median()))
        w2 = self.weight.square()
        parts = torch.stack([w2, w2 * size, w2 * size.square()], 1)
        parts = torch.cat([parts, w2[:, None] * self.scores, (w2 * size)[:, None] * self.scores], 1)
        sums = parts.new_zeros(self.batches * self.states, parts.shape[1])
        sums.index_add_(0, self.batch * self.states + self.state, parts)
        sums = sums.view(self.batches, self.states, -1)
        self.w0, self.w1, w2s = sums[..., 0], sums[..., 1], sums[..., 2]
        self.y0, y1 = sums[..., 3:].split(self.scores.shape[1], dim=-1)
        normal = torch.cat(
            [
                torch.cat([self.w0.sum(1).diag(), self.w1], 1),
                torch.cat([self.w1.T, w2s.sum(0).diag()], 1),
            ]
        )
        right = torch.cat([self.y0.sum(1), y1.sum(0)])
        ridge = torch.zeros(len(normal), dtype=normal.dtype, device=normal.device)
        ridge[: self.batches] = variance / self.offset_scale
        ridged = normal + ridge.diag()
        ridged += (
            1e-10 * ridged.trace() / len(normal) * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
        )
        self.inverse = torch.linalg.inv(ridged)
        solution = self.inverse @ right
        self.slack = right - normal @ solution
        self.offset, self.profile = solution[: self.batches], solution[self.batches :]
        fitted = self.offset[self.batch] + self.profile[self.state] * size[:, None]
        self.residual = (self.scores - fitted) * self.weight[:, None]

    def _newton(self) -> tuple[Tensor, Tensor]:
        """Hessian and downhill direction of the squared residual in S, F and p projected out (Kaufman 1975)."""
        b, c, r = self.batches, self.states, self.scores.shape[1]
        design = self.scores.new_zeros(b, b + c, r)
        design[range(b), range(b)] = -(self.w0 @ self.profile)
        design[:, b:] = -self.w1[..., None] * self.profile
        self.projected = torch.einsum("de,ber->bdr", self.inverse, design)
        hessian = -torch.einsum("bdr,edr->be", design, self.projected)
        hessian += (self.w0 @ self.profile.square().sum(1)).diag()
        inner = self.y0 - self.offset[:, None] * self.w0[..., None] - self.profile * self.w1[..., None]
        gradient = -(inner * self.profile).sum((1, 2)) - torch.einsum("bdr,dr->b", self.projected, self.slack)
        return hessian, gradient

    def _influence(self) -> Tensor:
        """Inner product of residual and derivative in S of each cell, n x T."""
        columns = []
        for b in range(self.batches):
            step = self.projected[b]
            along = step[self.batch] + self.size[:, None] * step[self.batches + self.state]
            along += (self.batch == b)[:, None] * self.profile[self.state]
            columns.append(-self.weight * (along * self.residual).sum(1))
        return torch.stack(columns, 1)

    def _offset_covariance(self, shift: Tensor) -> Tensor:
        """Covariance of the offsets from the influence of each cell (sandwich), T x r x r."""
        covariances = []
        for b in range(self.batches):
            row = self.inverse[b]
            lever = self.weight * (row[self.batch] + self.size * row[self.batches + self.state])
            influence = lever[:, None] * self.residual - shift @ self.projected[:, b]
            covariances.append(influence.T @ influence)
        return torch.stack(covariances)

    def profile_variance(self, rays: Rays, bases: list[Tensor]) -> Tensor:
        """Variance of the profiles in weighted gene space for states of one batch each, with its basis; C x G."""
        rank = self.scores.shape[1]
        moments = self.scores.new_zeros(self.states, rank, rank)
        for residual, state in zip(self.residual.split(2**15), self.state.split(2**15), strict=True):
            moments.index_add_(0, state, residual[:, :, None] * residual[:, None, :])
        count = torch.bincount(self.state, minlength=self.states)
        own = len(bases)
        spread = torch.cat(
            [
                quadratic(basis, part[:, : basis.shape[1], : basis.shape[1]])
                for basis, part in zip(bases, moments.view(own, -1, rank, rank), strict=True)
            ]
        )
        mean = spread.sum(0) / len(self.scores)
        spread = (spread + 3 * mean) / (count[:, None] + 3)
        return spread * rays.inverse.diagonal()[self.batches :, None]

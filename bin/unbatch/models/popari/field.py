"""POPARI's hidden Markov random field on the shares of neighbouring cells."""

from unbatch.models.popari.affinity import affinities, pseudo_likelihood
from unbatch.models.popari.amounts import STILL, Problem, SpatialFit, by_batch, data_term, descend, mean_change, shares
from unbatch.models.popari.graph import adjacency, colours


def hmrf(
    problem: Problem,
    *,
    weight: float = 1.0,
    renewals: int = 2,
    rounds: int = 10,
    shared: bool = False,
    seed: int = 0,
) -> SpatialFit:
    """POPARI's hidden Markov random field: shares have the density ``exp(-sum_j z_i' L z_j) / Zint`` given neighbours.

    The affinities L are estimated by pseudo-likelihood (see `affinities`), then the amounts given them,
    cells of one colour of the graph at a time, in turns: iterated conditional modes (Besag, J. R. Stat. Soc. B
    1986). For given affinities the objective never rises.

    Parameters
    ----------
    problem
        The cells; POPARI's graphs join cells that touch.
    weight
        Weight of the field against the data; 1 is POPARI's.
    renewals
        Times that the affinities are estimated.
    rounds
        Most rounds over all cells between them; fewer if the cells stand still.
    shared
        One L for all batches in place of one for each.
    seed
        Seed of the colouring and of the sample of cells from which L is estimated.

    Notes
    -----
    The spatial term is the energy of the edges plus, as a constant from one estimate to the next, half of the sum of
    ``log Zint``: right after an estimate it is half of the negative log pseudo-likelihood, which sees each edge from
    both ends. From one estimate to the next nothing need fall, as the amounts do not see the Zint of their neighbours:
    with many `renewals` the field sharpens itself, affinities grow to several times those of the true shares, and on
    simulated data the error of the shares rises again after the second. For the same reason, what is shown as
    affinities should be estimated from the shares before this phase. Each end of an edge between two batches sees the
    affinities of its own batch; there the objective may rise by what the two differ in, unless `shared`.
    """
    n = len(problem.X)
    source, target = problem.source, problem.target
    full = adjacency(source, target, n, dtype=problem.X.dtype)
    usable = (full @ shares(problem.X)).sum(dim=1) > 0
    groups = list(by_batch(problem, usable))
    colour = colours(source, target, n, seed)
    parts = [
        (cells, code, adjacency(source, target, n, cells=cells, dtype=problem.X.dtype))
        for number in range(int(colour.max()) + 1)
        for cells, code in by_batch(problem, usable & (colour == number))
    ]
    free = problem.X.new_zeros(1, problem.X.shape[1])
    X, affinity = problem.X.clone(), None
    history: dict[str, list[float]] = {"objective": [], "data": [], "spatial": [], "renewed": []}

    def record(constant: float, renewed: bool) -> None:
        data, spatial = data_term(problem, groups, X), weight * (energy() + constant)
        for name, value in zip(history, (data + spatial, data, spatial, float(renewed)), strict=True):
            history[name].append(value)

    def energy() -> float:
        z = shares(X)
        sums = full @ z
        return sum(float((z[c] * (sums[c] @ affinity[0 if shared else b].to(X))).sum()) / 2 for c, b in groups)

    for _ in range(renewals):
        z = shares(X)
        affinity = affinities(z, source, target, problem.batch, shared=shared, start=affinity, seed=seed)
        sums = full @ z
        surprise = sum(
            float(pseudo_likelihood(z[c].double(), sums[c].double(), affinity[0 if shared else b]).sum())
            for c, b in groups
        )
        constant = surprise / 2 - energy()
        record(constant, renewed=True)
        for _ in range(rounds if groups else 0):
            before = X.clone()
            for cells, code, part in parts:
                pull = weight * (part @ z) @ affinity[0 if shared else code].to(X)
                X[cells] = descend(problem, cells, code, X=X[cells], pull=pull, precision=free)
                z[cells] = shares(X[cells])
            record(constant, renewed=False)
            if mean_change(before, X) < STILL:
                break
    return SpatialFit(X, history, affinity)

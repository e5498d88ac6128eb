"""Sums over the neighbours of each cell, and sets of cells that can be updated at once."""

import torch


def adjacency(
    source: torch.Tensor,
    target: torch.Tensor,
    n: int,
    *,
    cells: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Make the matrix whose product with n x d values is their sum over each cell's neighbours.

    A product, as to gather the values of all edges would take edges x d numbers.

    Parameters
    ----------
    source, target
        Ends of each edge, int64, shape (edges,), sorted by source, then target.
    n
        Number of cells.
    cells
        Cells that get a row, in rising order; all if None.
    dtype
        Type of the values; float64 if None.

    Returns
    -------
    torch.Tensor
        Sparse, shape (n or number of `cells`, n).
    """
    rows = n
    if cells is not None:
        rows = len(cells)
        row = torch.full((n,), -1, device=source.device)
        row[cells] = torch.arange(rows, device=source.device)
        kept = row[source] >= 0
        source, target = row[source[kept]], target[kept]
    ones = torch.ones(len(source), dtype=dtype or torch.float64, device=source.device)
    ends = torch.stack((source, target))
    return torch.sparse_coo_tensor(ends, ones, (rows, n), is_coalesced=True, check_invariants=False)


def colours(source: torch.Tensor, target: torch.Tensor, n: int, seed: int = 0) -> torch.Tensor:
    """Colour cells such that neighbours differ.

    Jones and Plassmann (SIAM J. Sci. Comput. 1993): cells whose random priority is above that of all neighbours
    without a colour take, all at once, the first colour that none of their neighbours has.

    Parameters
    ----------
    source, target
        Both directions of every edge, int64, shape (edges,); no cell is its own neighbour.
    n
        Number of cells.
    seed
        Seed of the priorities; the colours are the same on every device.

    Returns
    -------
    torch.Tensor
        Colour of each cell, 0, 1, ..., int64, shape (n,).
    """
    device = source.device
    priority = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device)
    colour = torch.full((n,), -1, device=device)
    while True:
        waiting = colour < 0
        if not waiting.any():
            return colour
        open_edges = waiting[source] & waiting[target]
        rival = torch.full((n,), -1, device=device)
        rival.scatter_reduce_(0, source[open_edges], priority[target[open_edges]], "amax")
        chosen = waiting & (priority > rival)
        # one colour more than there are now is always free
        taken = torch.zeros((n, int(colour.max()) + 2), dtype=torch.bool, device=device)
        closed = chosen[source] & ~waiting[target]
        taken[source[closed], colour[target[closed]]] = True
        colour[chosen] = taken[chosen].logical_not().int().argmax(dim=1)

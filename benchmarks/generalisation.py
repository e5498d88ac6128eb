"""BatchBlend on data that it was not made for; what is measured goes to results/generalisation.csv.

    python benchmarks/generalisation.py sections FOLDER [METHOD ...]   # subsets of labelled sections, and variants
    python benchmarks/generalisation.py simulations [METHOD ...]       # weak effects, composition by degrees, many
                                                                       # batches, structure that is not the model's

FOLDER has one h5ad per section with obs/layer, obs/donor and obsm/spatial. `--half chosen` takes the subsets that
rules may be chosen by, `--half held` those that are looked at once; `--variant` takes one of the variants, `--data`
those simulations whose names begin so. Seeds are 20 for sections, and 50 to 52 for simulations; `--seeds 60-64` takes
others. A method that is not installed is left out and named.
"""

import environment  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import distributions
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from batchblend import as_cells, as_range, embed, score
from record import record
from scipy import sparse

from unbatch.data.cells import Cells, principal_components
from unbatch.data.simulation.common import draw_expression
from unbatch.data.simulation.thesis import Parameters, Truth, draw_truth
from unbatch.methods import load

METHODS = ("none", "combat", "harmony", "scanorama", "liger", "batchblend")
VARIANTS = ("all spots", "every second spot", "300 genes", "donors")
SCORED = 1200
"""Spots of each section that are scored, as scores of more take longer than fits."""


def subsets(names: list[str], half: str) -> dict[tuple[str, ...], str]:
    """Pairs, triples, ... of sections, and the half of each: every second one is for choosing."""
    found = [subset for size in range(2, len(names) + 1) for subset in combinations(names, size)]
    halves = {subset: ("chosen", "held")[number % 2] for number, subset in enumerate(found)}
    return {subset: of for subset, of in halves.items() if half in ("all", of)}


def real(folder: Path, variant: str, half: str) -> Iterator[tuple[str, Cells, np.ndarray]]:
    """Subsets of sections: name, cells, and the code of the section of each cell."""
    everything = {path.stem: anndata.read_h5ad(path) for path in sorted(folder.glob("*.h5ad"))}
    for subset, half_of in subsets(list(everything), half).items():
        rng = np.random.default_rng(0)
        parts = [everything[name] for name in subset]
        genes = [g for g in parts[0].var_names if all(g in part.var_names for part in parts[1:])]
        if variant == "300 genes":
            genes = sorted(rng.choice(genes, 300, replace=False))
        if variant == "every second spot":
            parts = [part[::2] for part in parts]
        parts = [part[part.obs["layer"].notna() & (part.obs["layer"].astype(str) != "NA"), genes] for part in parts]
        section = np.repeat(np.arange(len(parts)), [part.n_obs for part in parts])
        donors = np.concatenate([part.obs["donor"].astype(str) for part in parts])
        if variant == "donors" and (len(np.unique(donors)) < 2 or len(parts) == 2):
            continue  # one batch, or batches that are the sections
        batch = np.unique(donors, return_inverse=True)[1] if variant == "donors" else section
        label = pd.Categorical(np.concatenate([part.obs["layer"].astype(str) for part in parts])).codes
        counts = sparse.vstack([sparse.csr_matrix(part.X) for part in parts], format="csr")
        places = np.concatenate([np.asarray(part.obsm["spatial"])[:, :2] for part in parts])
        order = np.argsort(batch, kind="stable")
        cells = as_cells(counts[order], batch[order], label[order], places[order])
        yield f"{half_of}: {'+'.join(subset)}", cells.but(section=section[order]), section[order]


def sections(folder: Path, methods: tuple[str, ...], variants: tuple[str, ...], half: str, seeds: range) -> None:
    for variant in variants:
        for name, cells, section in real(folder, variant, half):
            rng = np.random.default_rng(0)
            chosen = np.sort(
                np.concatenate([rng.permutation(np.flatnonzero(section == s))[:SCORED] for s in np.unique(section)])
            )
            reference = principal_components(cells.X[chosen], 50).embedding
            for seed in seeds:
                for method in methods:
                    measure(f"{name}, {variant}", method, cells, seed, reference, chosen)


def measure(
    data: str, method: str, cells: Cells, seed: int, reference: np.ndarray, chosen: np.ndarray | slice
) -> dict[str, float]:
    """Fit, score and record."""
    start = time.process_time()
    embedding, fitted = embed(method, cells, seed)
    values: dict[str, float] = {"cpu_s": time.process_time() - start}
    found = score(embedding, cells, reference, chosen)
    values |= {kind: found[kind] for kind in ("total", "batch", "bio")}
    if fitted:
        values["metagenes"] = fitted.model.metagenes.shape[0]
        removed = [each.removed for each in fitted.model.evidence if each.step == "factors" and each.removed >= 0]
        values |= {"removed, mean": np.mean(removed), "removed, least": min(removed)} if removed else {}
    record("generalisation", data, method, values, seed=seed)
    return values


def drawn(seed: int, **settings: Any) -> tuple[sparse.csr_matrix, Truth]:
    """Simulate two batches of 300 cells with 100 genes and 2,000 counts in the mean; counts and truth."""
    rng = np.random.default_rng(seed)
    usual = {"cells": 300, "noise": "nb", "depth": 2000.0, "dispersion": 0.0, "sigma_beta": 0.0}
    truth = draw_truth(Parameters(**usual | settings), rng)
    return sparse.vstack(list(draw_expression(truth, rng)), format="csr"), truth


def thinned(values: sparse.csr_matrix, truth: Truth, kept: np.ndarray) -> Cells:
    """Keep some of the cells."""
    return as_cells(values[kept], truth.batch[kept], truth.cell_type[kept], truth.position[kept])


def weak(seed: int, sigma: float, kind: str) -> Cells:
    """Simulate factors, or an offset in the unit of the amounts, of which a cell has 11 in the mean."""
    values, truth = drawn(seed, **{"sigma_gene" if kind == "factors" else "sigma_beta": sigma})
    return thinned(values, truth, np.full(len(truth.batch), True))


def composed(seed: int, degree: float, sigma: float) -> Cells:
    """Simulate two batches: the first lacks a share `degree` of every second type, the second of the others."""
    values, truth = drawn(seed, cells=500, sigma_gene=sigma)
    lacking = truth.cell_type % 2 == truth.batch % 2
    return thinned(values, truth, np.random.default_rng(seed).random(len(truth.batch)) >= degree * lacking)


def uneven(seed: int, batches: int) -> Cells:
    """Simulate batches of 30 to 300 cells with factors of 0.3."""
    values, truth = drawn(seed, batches=batches, sigma_gene=0.3)
    share = np.geomspace(0.1, 1, batches)[truth.batch]
    return thinned(values, truth, np.random.default_rng(seed).random(len(truth.batch)) < share)


def overdispersed(seed: int) -> Cells:
    """Simulate factors of 0.3, and counts with a dispersion of 0.5."""
    values, truth = drawn(seed, sigma_gene=0.3, dispersion=0.5)
    return thinned(values, truth, np.full(len(truth.batch), True))


def by_type(seed: int) -> Cells:
    """Simulate factors of 0.3, and others as large that differ from type to type."""
    values, truth = drawn(seed, sigma_gene=0.3)
    rng = np.random.default_rng(seed)
    own = np.exp(0.3 * rng.normal(size=(2, truth.cell_type.max() + 1, values.shape[1])))
    return thinned(times(values, own[truth.batch, truth.cell_type], rng), truth, np.full(len(truth.batch), True))


def along_batch(seed: int) -> Cells:
    """Simulate factors of 0.3, and in each batch a gradient from one side to the other in genes of its own."""
    values, truth = drawn(seed, sigma_gene=0.3)
    rng = np.random.default_rng(seed)
    slope = 0.5 * rng.normal(size=(2, values.shape[1]))
    factor = np.exp((truth.position[:, :1] - 0.5) * slope[truth.batch])
    return thinned(times(values, factor, rng), truth, np.full(len(truth.batch), True))


def doublets(seed: int) -> Cells:
    """Simulate factors of 0.3, and add another cell of the batch to a tenth of the cells."""
    values, truth = drawn(seed, sigma_gene=0.3)
    rng, values = np.random.default_rng(seed), values.tolil()
    for batch in np.unique(truth.batch):
        cells = rng.permutation(np.flatnonzero(truth.batch == batch))
        for one, other in zip(cells[: len(cells) // 10], cells[len(cells) // 2 :], strict=False):
            values[one] = values[one] + values[other]
    return thinned(values.tocsr(), truth, np.full(len(truth.batch), True))


def times(values: sparse.csr_matrix, factor: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Draw counts anew around `factor` times the counts, which doubles their variance."""
    return sparse.csr_matrix(rng.poisson(values.toarray() * factor))


SIMULATIONS: dict[str, Callable[[int], Cells]] = {
    **{f"factors {s:g}": partial(weak, sigma=s, kind="factors") for s in (0.0, 0.1, 0.3, 1.0)},
    **{f"offset {s:g}": partial(weak, sigma=s, kind="offset") for s in (0.1, 0.3, 1.0)},
    **{f"composition {d:g}": partial(composed, degree=d, sigma=0.0) for d in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{f"composition {d:g}, factors 0.3": partial(composed, degree=d, sigma=0.3) for d in (0.25, 0.5, 0.75, 1.0)},
    **{f"{n} uneven batches": partial(uneven, batches=n) for n in (2, 6, 12)},
    "overdispersed": overdispersed,
    "effects by type": by_type,
    "gradient within batches": along_batch,
    "doublets": doublets,
}
"""What is simulated."""


def simulations(methods: tuple[str, ...], seeds: range, data: str) -> None:
    import jax

    for name, draw in SIMULATIONS.items():
        for seed in seeds if name.startswith(data) else ():
            cells = draw(seed)
            reference = principal_components(cells.X, 50).embedding
            for method in methods:
                measure(f"simulation: {name}", method, cells, seed, reference, slice(None))
            jax.clear_caches()


def installed(methods: Iterable[str]) -> tuple[str, ...]:
    """Methods whose packages are there."""
    found = []
    there = {each.metadata["Name"].lower() for each in distributions()}
    for name in methods:
        missing = [package for package in load(name).packages if package.lower() not in there]
        if missing:
            print(f"left out: {name}, which needs {', '.join(missing)}")
        else:
            found.append(name)
    return tuple(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("sections", "simulations"))
    parser.add_argument("given", nargs="*", help="FOLDER METHOD ... of sections; METHOD ... of simulations")
    parser.add_argument("--half", choices=("chosen", "held", "all"), default="chosen")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--data", default="")
    parser.add_argument("--seeds", type=as_range)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.benchmark == "simulations":
        simulations(installed(given.given or METHODS), given.seeds or range(50, 53), given.data)
        return
    folder, *methods = given.given or parser.error("sections needs FOLDER")
    variants = tuple(given.variant or VARIANTS)
    sections(Path(folder), installed(methods or METHODS), variants, given.half, given.seeds or range(20, 21))


if __name__ == "__main__":
    main()

"""BatchBlend on data that it was not made for; what is measured goes to results/generalisation.csv.

    python benchmarks/generalisation.py sections FOLDER [METHOD ...]   # subsets of labelled sections, and variants
    python benchmarks/generalisation.py simulations [METHOD ...]       # weak effects, composition by degrees, many
                                                                       # batches, structure that is not the model's
    python benchmarks/generalisation.py summary                        # means over subsets, and the distance to peers

FOLDER has one h5ad per section with obs/layer, obs/donor and obsm/spatial. `--half chosen` takes the subsets that
rules may be chosen by, `--half held` those that are looked at once; `--variant` one of the variants.
"""

import environment  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from batchblend import as_cells, embed, score
from record import record
from scipy import sparse

from unbatch.data.cells import Cells, principal_components

METHODS = ("none", "combat", "harmony", "scanorama", "liger", "batchblend")
VARIANTS = ("all spots", "every second spot", "300 genes", "donors")
SCORED = 1200
"""Spots of each section that are scored, as scores of more take longer than fits."""


def subsets(names: list[str], half: str) -> list[tuple[str, ...]]:
    """Pairs, triples, ... of sections; every second one is for choosing, the others are held back."""
    found = [subset for size in range(2, len(names) + 1) for subset in combinations(names, size)]
    return found if half == "all" else found[0 if half == "chosen" else 1 :: 2]


def real(folder: Path, variant: str, half: str) -> Iterator[tuple[str, Cells, np.ndarray]]:
    """Subsets of sections: name, cells, and the code of the section of each cell."""
    everything = {path.stem: anndata.read_h5ad(path) for path in sorted(folder.glob("*.h5ad"))}
    for subset in subsets(list(everything), half):
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
        yield "+".join(subset), cells.but(section=section[order]), section[order]


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
    values = {"cpu_s": time.process_time() - start}
    found = score(embedding, cells, reference, chosen)
    values |= {kind: found[kind] for kind in ("total", "batch", "bio")}
    if fitted:
        values["metagenes"] = fitted.model.metagenes.shape[0]
    record("generalisation", data, method, values, seed=seed)
    return values


if __name__ == "__main__":
    pass

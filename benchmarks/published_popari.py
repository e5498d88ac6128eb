"""Fit the published popari, by an interpreter that has it; for `batchblend.py speed`, which records what it took.

    PYTHON published_popari.py DATA.h5ad OUT.npz METAGENES SEED ITERATIONS START

As its tutorial does: 10 iterations without space, then ITERATIONS (200 there) with it, float64, its own graph; START is
the way to start, of which `leiden` is its default. One thread. OUT has the embedding and the CPU time of the fit, from
the data in memory on, imports and graph left out.
"""

import sys
import time
from pathlib import Path

import anndata
import numpy as np
import torch
from popari._popari_dataset import PopariDataset
from popari.model import Popari
from popari.train import Trainer, TrainParameters


def main(data: str, out: str, metagenes: str, seed: str, iterations: str, start: str) -> None:
    torch.set_num_threads(1)
    cells = anndata.read_h5ad(data)
    names = list(dict.fromkeys(cells.obs["batch"].astype(str)))
    places = [np.flatnonzero((cells.obs["batch"].astype(str) == name).to_numpy()) for name in names]
    sections = [PopariDataset(cells[mine].copy(), name) for mine, name in zip(places, names, strict=True)]
    for section in sections:
        section.compute_spatial_neighbors()
    context = {"device": "cpu", "dtype": torch.float64}
    began = time.process_time()
    model = Popari(
        K=int(metagenes),
        replicate_names=names,
        datasets=sections,
        initialization_method=start,
        torch_context=context,
        initial_context=context,
        random_state=int(seed),
    )
    steps = TrainParameters(nmf_iterations=10, iterations=int(iterations), savepath=Path("unused"))
    Trainer(steps, model).train()
    spent = time.process_time() - began
    embedding = np.empty((cells.n_obs, int(metagenes)))
    for mine, section in zip(places, model.datasets, strict=True):
        embedding[mine] = section.obsm["X"]
    np.savez(out, embedding=embedding, cpu_s=spent)


main(*sys.argv[1:])

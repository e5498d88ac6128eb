"""Train the authors' spaVAE on one section; for `spavae.py authors`, which records what it took.

    PYTHONPATH=CODE python published_spavae.py COUNTS.npz OUT.npz EPOCHS PATIENCE SEED

CODE is the folder src/spaVAE of their repository. Settings are those of its run_spaVAE.py on a section of this size:
7 x 7 inducing points on a grid over a box of 20, minibatches of 512, float64, on the CPU. Positions and counts are
prepared as there, by numpy, since only that step needs scanpy. One thread. OUT has the latent values and the CPU time
of training, without what comes before; the epochs are what it prints.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Their code uses this name, which numpy 2 no longer has.
vars(np)["Inf"] = np.inf

import torch  # noqa: E402
from spaVAE import SPAVAE  # noqa: E402

STEPS, BOX, MINIBATCH = 6, 20.0, 512


def prepared(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled logarithms and size factors, as their preprocess.normalize makes them."""
    totals = counts.sum(1)
    size = totals / np.median(totals)
    logs = np.log1p(counts / size[:, None])
    spread = logs.std(0, ddof=1)
    return (logs - logs.mean(0)) / np.where(spread > 0, spread, 1), size


def main(given: str, out: str, epochs: str, patience: str, seed: str) -> None:
    """Train and embed."""
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    with np.load(given) as data:
        counts, points = data["counts"].astype(float), data["points"].astype(float)
    low, high = points.min(0), points.max(0)
    place = (points - low) / (high - low) * BOX
    ticks = np.linspace(0, BOX, STEPS + 1)
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    inputs, size = prepared(counts)
    model = SPAVAE(
        input_dim=counts.shape[1], GP_dim=2, Normal_dim=8, encoder_layers=[128, 64], decoder_layers=[128], noise=0,
        encoder_dropout=0, decoder_dropout=0, fixed_inducing_points=True, initial_inducing_points=grid,
        fixed_gp_params=False, kernel_scale=20.0, N_train=len(counts), KL_loss=0.025, dynamicVAE=True, init_beta=10,
        min_beta=4, max_beta=25, dtype=torch.float64, device="cpu",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        model.train_model(
            pos=place, ncounts=inputs, raw_counts=counts, size_factors=size, lr=1e-3, weight_decay=1e-6,
            batch_size=MINIBATCH, train_size=0.95, maxiter=int(epochs), patience=int(patience), save_model=False,
            model_weights=str(Path(folder, "model.pt")), print_kernel_scale=False,
        )  # fmt: skip
        spent = time.process_time() - began
    latent = model.batching_latent_samples(X=place, Y=inputs, batch_size=MINIBATCH)
    np.savez(out, latent=latent, cpu_s=spent)


main(*sys.argv[1:])

"""Positions from expression by ordinary regression: what any model of positions has to be compared with.

All take the same genes as the model and share one form: `fit` learns from expression (n x G) and positions (n x p) and
returns a function from expression to positions. Expression is `standardised` within each section before, which takes
no positions. Peers are used where their package is installed.
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy import sparse

Predict = Callable[[np.ndarray], np.ndarray]

COMPONENTS = 50
"""Principal components that kNN and the forest see."""
NEIGHBOURS = 50
TREES, LEAF, SHARE = 100, 3, 1 / 3
"""Trees of the forest, fewest spots of a leaf, share of the components that are tried at a split."""
PENALTIES = np.logspace(0, 5, 11)
"""Penalties of ridge regression; chosen by leaving one spot out."""


def standardised(x: "np.ndarray | sparse.spmatrix", section: np.ndarray | None = None) -> np.ndarray:
    """Give each gene mean 0 and variance 1 in each section.

    Parameters
    ----------
    x
        Log-normalised expression, n x G, dense or sparse.
    section
        Section of each spot, n; None: one.

    Returns
    -------
    numpy.ndarray
        n x G float32; a gene that is constant in a section is 0 there.
    """
    values = np.array(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)
    codes = np.zeros(len(values), dtype=int) if section is None else np.asarray(section)
    for code in np.unique(codes):
        rows = codes == code
        part = values[rows]
        spread = part.std(axis=0, dtype=np.float64)
        scaled = (part - part.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, np.inf)
        values[rows] = scaled
    return values


def pearson(counts: "np.ndarray | sparse.spmatrix", theta: float = 100.0, most: float = 8.0) -> np.ndarray:
    """Pearson residuals of counts, given the depth of each spot and the share of each gene (Lause et al. 2021).

    Parameters
    ----------
    counts
        n x G, of one section.
    theta
        Inverse dispersion of all genes.
    most
        Residuals are clipped to this on both sides.

    Returns
    -------
    numpy.ndarray
        n x G float32.
    """
    values = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, dtype=np.float64)
    depth = values.sum(axis=1, keepdims=True)
    expected = depth * values.sum(axis=0) / max(values.sum(), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (values - expected) / np.sqrt(expected + expected**2 / theta)
    return np.clip(np.nan_to_num(found), -most, most).astype(np.float32)


def mean(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Predict the mean position for every spot."""
    middle = np.asarray(positions, dtype=np.float64).mean(axis=0)
    return lambda new: np.tile(middle, (len(new), 1))


def ridge(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Ridge regression on all genes, its penalty chosen by generalised cross-validation."""
    from sklearn.linear_model import RidgeCV

    return RidgeCV(PENALTIES).fit(x, positions).predict


def knn(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Mean position of the 50 nearest spots on 50 principal components."""
    from sklearn.neighbors import KNeighborsRegressor

    project = components(x)
    near = KNeighborsRegressor(min(NEIGHBOURS, len(x))).fit(project(x), positions)
    return lambda new: near.predict(project(new))


def forest(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Random forest on 50 principal components."""
    from sklearn.ensemble import RandomForestRegressor

    project = components(x)
    trees = RandomForestRegressor(
        TREES, min_samples_leaf=min(LEAF, max(1, len(x) // 2)), max_features=SHARE, random_state=seed
    ).fit(project(x), positions)
    return lambda new: trees.predict(project(new))


def process(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Gaussian process on 50 principal components, see `nn.ard_gp`."""
    from unbatch.nn import ard_gp

    project = components(x)
    found = ard_gp.fit(project(x), positions, seed=seed)
    return lambda new: found.predict(project(new)).mean


def celery(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """CeLEry (Zhang et al. 2023): its network for coordinates with its own defaults, without augmented spots.

    Raises
    ------
    ImportError
        If the package CeLEryPy is not installed.
    """
    import contextlib
    import io
    import tempfile

    import anndata
    import CeLEry
    import pandas as pd
    import torch

    # it scales each axis to what is between these
    low, high = positions.min(axis=0) - 1, positions.max(axis=0) + 1
    data = anndata.AnnData(np.asarray(x, dtype=np.float32))
    # it prints every epoch, and leaves a file behind that nothing needs
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        network = CeLEry.Fit_cord(data, location_data=pd.DataFrame(positions), path=folder, num_workers=0, seednum=seed)

    def predict(new: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network((torch.as_tensor(np.asarray(new, dtype=np.float32)), None))[0]
        return low + found.double().numpy() * (high - low)

    return predict


def tangram(x: np.ndarray, positions: np.ndarray, seed: int = 0) -> Predict:
    """Tangram (Biancalani et al. 2021) as scvi-tools has it: the expected position under each spot's mapping.

    Its mapping is a matrix of spots x spots, and takes time and memory accordingly.

    Raises
    ------
    ImportError
        If scvi-tools has no Tangram, or is not installed.
    """
    import anndata
    import scvi
    from mudata import MuData
    from scvi.external import Tangram

    def predict(new: np.ndarray) -> np.ndarray:
        scvi.settings.seed = seed
        # it takes expression that is not negative
        lowest = min(x.min(), new.min())
        cells, spots = (anndata.AnnData(np.asarray(each - lowest, dtype=np.float32)) for each in (new, x))
        spots.obs["density"] = 1 / len(spots)
        both = MuData({"sc": cells, "sp": spots})
        Tangram.setup_mudata(both, density_prior_key="density", modalities={
            "density_prior_key": "sp", "sc_layer": "sc", "sp_layer": "sp"})  # fmt: skip
        model = Tangram(both, constrained=False)
        model.train(max_epochs=100)
        weight = np.asarray(model.get_mapper_matrix(), dtype=np.float64)
        return weight @ positions / weight.sum(axis=1, keepdims=True)

    return predict


BASELINES: dict[str, Callable[..., Predict]] = {"mean": mean, "ridge": ridge, "knn": knn, "forest": forest}
"""Always compared with."""
STRONGER: dict[str, Callable[..., Predict]] = {"process": process}
"""Compared with where asked for: what the readout of a model reaches without the model."""
PEERS: dict[str, tuple[Callable[..., Predict], str]] = {"celery": (celery, "CeLEry"), "tangram": (tangram, "scvi")}
"""Compared with where asked for, and the module that each needs."""


def installed() -> list[str]:
    """Name the peers whose package is installed."""
    return [name for name, (_, module) in PEERS.items() if find_spec(module) is not None]


def principal(x: np.ndarray, number: int = COMPONENTS) -> tuple[np.ndarray, np.ndarray]:
    """Find principal components of spots, n x G: the centre (G) and the vectors (G x d), at most n - 1 and G."""
    centre = x.mean(axis=0, dtype=np.float64)
    centred = np.asarray(x, dtype=np.float64) - centre
    number = max(1, min(number, len(x) - 1, x.shape[1]))
    if x.shape[1] <= len(x):
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :number]
    else:
        values, left = np.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ (left / np.sqrt(np.maximum(values, 1e-12)))[:, ::-1][:, :number]
    # the sign of a component is arbitrary: the heavier side is made positive, which makes runs comparable
    return centre, vectors * np.where(np.sum(vectors**3, axis=0) < 0, -1, 1)


def components(x: np.ndarray, number: int = COMPONENTS) -> Callable[[np.ndarray], np.ndarray]:
    """Find principal components, see `principal`, and return the projection onto them."""
    centre, vectors = principal(x, number)
    return lambda new: (np.asarray(new, dtype=np.float64) - centre) @ vectors

"""Cells of donors of two conditions, with a technical batch effect of every donor: everything known.

Donors are nested in conditions and every donor is a batch, as in most studies of a disease. Cell i of type c from donor
d has the mean expression

    scale * size_i * exp(profile_c + state_i P + condition_d * response_c + common_d + specific_dc)

per gene: the profile of its type, a state along a few programs P that all types share, what the condition changes (in
some types and genes only), and the technical effect of the donor, with a part that is the same in all types and one of
each type. So cells "as if from another donor" have a truth, and so has the difference between conditions, which the
chance differences between few donors blur.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from unbatch.data.simulation.common import METAGENES, Simulation, blocks

if TYPE_CHECKING:
    from anndata import AnnData

CONDITIONS = ("control", "case")
"""Names of the conditions, in the order of `Truth.condition`."""

PROGRAMS = 3
"""Number of programs along which the cells of a type differ, P."""


class Parameters(Simulation):
    """What to simulate."""

    batches: int = Field(
        8, ge=2, description="donors, each a batch; the first half are controls, of an odd number one more"
    )
    cells: int = Field(300, ge=3, description="cells of each donor")
    genes: int = Field(200, ge=10, description="genes")
    mix: Literal["same", "shifted"] = Field(
        "same", description="shares of the cell types: shifted turns them around in every second donor of a condition"
    )
    noise: Literal["gaussian", "nb"] = Field(
        "nb",
        description="noise, as of thesis; with gaussian, the values of a cell sum to 11 in the mean",
    )
    types: int = Field(5, ge=2, le=100, description="cell types")
    sigma_common: float = Field(
        0.3, ge=0, le=3, description="batch effect of a donor that all types share, standard deviation of the logarithm"
    )
    sigma_type: float = Field(
        0.25,
        ge=0,
        le=3,
        description="batch effect of a donor in each type in addition to that; its mean over types is 0",
    )
    sigma_condition: float = Field(
        0.5, ge=0, le=3, description="effect of the condition, standard deviation of the logarithm"
    )
    share_types: float = Field(0.4, ge=0, le=1, description="share of the types that the condition changes")
    share_genes: float = Field(0.2, ge=0, le=1, description="share of the genes that it changes in these types")
    sigma_profile: float = Field(
        0.5,
        ge=0,
        le=3,
        description="standard deviation of the types' profiles about their common one, in units of its own over genes",
    )
    sigma_x: float = Field(
        0.2,
        ge=0,
        le=3,
        description="standard deviation of the states of the cells of a type along programs, which have 1 over genes",
    )
    sigma_size: float = Field(0.3, ge=0, le=3, description="standard deviation of the logarithm of cell sizes")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Everything that lies behind the expression values; N cells, C types, T donors, G genes, P programs.

    All effects are of the natural logarithm of the mean.

    Attributes
    ----------
    parameters
        What was asked for.
    batch, cell_type
        Index of each cell's donor and type, each of shape (N,).
    condition
        Index of each donor's condition (into `CONDITIONS`), shape (T,).
    size
        Size of each cell, 1 in the mean, shape (N,).
    state
        Place of each cell along the programs, shape (N, P).
    profiles
        Logarithm of the share of each gene in a cell of each type, shape (C, G).
    programs
        Shape (P, G).
    response
        Effect of the condition ``case``, shape (C, G); 0 in what it leaves alone.
    common
        Technical effect of each donor that all types share, shape (T, G).
    specific
        What the technical effect has in addition in each type, shape (T, C, G); the mean over types is 0.
    scale
        What the mean is multiplied by.
    """

    parameters: Parameters
    batch: np.ndarray
    cell_type: np.ndarray
    condition: np.ndarray
    size: np.ndarray
    state: np.ndarray
    profiles: np.ndarray
    programs: np.ndarray
    response: np.ndarray
    common: np.ndarray
    specific: np.ndarray
    scale: float

    def mean(
        self, cells: slice | np.ndarray, donor: int | np.ndarray | None = None, swap_condition: bool = False
    ) -> np.ndarray:
        """Return the expected expression of some cells before the noise.

        Parameters
        ----------
        cells
            Which cells.
        donor
            The donor, or one for each of these cells, from whom they are taken to be: their technical effect is that
            of this donor. None leaves all as it is.
        swap_condition
            Whether they then have the condition of that donor, too. It is biology, so they keep their own by default.
            Where donors are nested in conditions, data cannot tell the one from the other between conditions.

        Returns
        -------
        np.ndarray
            Shape (cells, G).
        """
        own, kind = self.batch[cells], self.cell_type[cells]
        seen = own if donor is None else np.broadcast_to(donor, own.shape)
        log = self.state[cells] @ self.programs
        log += self.profiles[kind]
        log += self.condition[seen if swap_condition else own, None] * self.response[kind]
        log += self.common[seen]
        log += self.specific[seen, kind]
        np.exp(log, out=log)
        log *= self.scale * self.size[cells, None]
        return log


def draw_truth(parameters: Parameters, rng: np.random.Generator) -> Truth:
    """Draw types, cells and effects.

    As many random numbers are drawn whatever the strength of the effects: the same seed gives the same cells
    with other effects.

    Parameters
    ----------
    parameters
        What to simulate.
    rng
        Source of all random numbers; the same state gives the same result.
    """
    p = parameters
    profiles = rng.normal(size=p.genes) + rng.normal(0, p.sigma_profile, (p.types, p.genes))
    profiles -= np.log(np.exp(profiles).sum(axis=1, keepdims=True))
    programs = rng.normal(size=(PROGRAMS, p.genes))
    response = rng.normal(0, p.sigma_condition, (p.types, p.genes))
    kinds = rng.permutation(p.types)[: round(p.share_types * p.types)]
    hit = np.zeros(response.shape, dtype=bool)
    for kind in range(p.types):
        genes = rng.permutation(p.genes)[: round(p.share_genes * p.genes)]
        hit[kind, genes] = kind in kinds
    common = rng.normal(0, p.sigma_common, (p.batches, p.genes))
    specific = rng.normal(0, p.sigma_type, (p.batches, p.types, p.genes))
    specific -= specific.mean(axis=1, keepdims=True)
    specific *= math.sqrt(p.types / (p.types - 1))
    condition = (np.arange(p.batches) >= (p.batches + 1) // 2).astype(np.int8)
    n = p.batches * p.cells
    truth = Truth(
        parameters=p,
        batch=np.repeat(np.arange(p.batches), p.cells),
        cell_type=np.concatenate([_cell_types(p, donor, condition, rng) for donor in range(p.batches)]),
        condition=condition,
        size=np.exp(rng.normal(0, p.sigma_size, n) - p.sigma_size**2 / 2),
        state=rng.normal(0, p.sigma_x, (n, PROGRAMS)),
        profiles=profiles,
        programs=programs,
        response=response * hit,
        common=common,
        specific=specific,
        scale=1.0,
    )
    total = sum(truth.mean(cells).sum() for cells in blocks(n, p.genes)) / n
    wanted = p.depth if p.noise == "nb" else METAGENES
    return replace(truth, scale=float(wanted / total))


def _cell_types(p: Parameters, donor: int, condition: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal out the cells of a donor in the shares of the types, up to rounding: the first has twice the last's."""
    shares = np.linspace(2, 1, p.types)
    place = donor - int(np.argmax(condition == condition[donor]))
    if p.mix == "shifted" and place % 2:
        shares = shares[::-1]
    ends = np.rint(np.cumsum(shares / shares.sum()) * p.cells).astype(int)
    return rng.permutation(np.repeat(np.arange(p.types), np.diff(ends, prepend=0))).astype(np.int8)


def annotated(truth: Truth) -> "AnnData":
    """Return the cells, without expression, and with the truth in the slots that `truth_in` reads."""
    import pandas as pd
    from anndata import AnnData

    p = truth.parameters
    donors = [f"donor{i + 1}" for i in range(p.batches)]
    types = [f"type{i + 1}" for i in range(p.types)]
    donor = pd.Categorical.from_codes(truth.batch, donors)
    obs = pd.DataFrame(
        {
            "sample": donor,
            "donor": donor,
            "condition": pd.Categorical.from_codes(truth.condition[truth.batch], CONDITIONS),
            "cell_type": pd.Categorical.from_codes(truth.cell_type, types),
        },
        index=[f"{name}-cell{i + 1}" for name in donors for i in range(p.cells)],
    )
    return AnnData(
        obs=obs,
        var=pd.DataFrame(index=[f"gene{i + 1}" for i in range(p.genes)]),
        obsm={"state_true": truth.state, "size_true": truth.size[:, None]},
        varm={
            "profiles_true": truth.profiles.T,
            "programs_true": truth.programs.T,
            "condition_true": truth.response.T,
            "batch_true": truth.common.T,
            "batch_type_true": np.ascontiguousarray(truth.specific.transpose(2, 0, 1)),
        },
        uns={
            "unbatch": {
                "truth": {
                    "batches": donors,
                    "types": types,
                    "condition_of_batch": truth.condition,
                    "scale": truth.scale,
                }
            }
        },
    )


def truth_in(adata: "AnnData") -> Truth:
    """Read the truth back, for the cells and genes that a dataset still has.

    Parameters
    ----------
    adata
        What ``simulate --preset donors`` or, of it, ``preprocess`` wrote; expression is not needed.

    Raises
    ------
    ValueError
        If the data is not of this simulation.
    """
    about = adata.uns.get("unbatch", {}).get("truth", {})
    given = dict(about.get("parameters", {}))
    if given.pop("preset", None) != "donors":
        raise ValueError("uns/unbatch/truth is not there or not of simulate --preset donors, whose truth was expected")
    given.pop("seed", None)
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}
    batches, types = ({str(name): i for i, name in enumerate(about[key])} for key in ("batches", "types"))
    return Truth(
        parameters=Parameters(**plain),
        batch=np.array([batches[str(name)] for name in adata.obs["donor"]]),
        cell_type=np.array([types[str(name)] for name in adata.obs["cell_type"]]),
        condition=np.asarray(about["condition_of_batch"]),
        size=np.asarray(adata.obsm["size_true"])[:, 0],
        state=np.asarray(adata.obsm["state_true"]),
        profiles=np.asarray(adata.varm["profiles_true"]).T,
        programs=np.asarray(adata.varm["programs_true"]).T,
        response=np.asarray(adata.varm["condition_true"]).T,
        common=np.asarray(adata.varm["batch_true"]).T,
        specific=np.asarray(adata.varm["batch_type_true"]).transpose(1, 2, 0),
        scale=float(about["scale"]),
    )

"""The file of a fit: what a method found, in the slots of the contract."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from unbatch.data import schema
from unbatch.data.cells import Cells
from unbatch.errors import InputError

if TYPE_CHECKING:
    from unbatch.contract import Fit, Slot


def assemble(
    cells: Cells, method: str, found: "Fit", about: dict[str, Any], slots: "Mapping[str, Slot]", source: str | Path
) -> AnnData:
    """Put a fit into the slots of its file and check these.

    Parameters
    ----------
    cells
        The cells that were fitted.
    method
        Name of the method.
    found
        What it found; its layers are written by the caller, a block at a time.
    about
        How it was made: parameters, seed, device, time, memory, versions.
    slots
        What the method declares in addition to its embedding.
    source
        Name of the file, for messages.

    Raises
    ------
    InputError
        If something breaks the contract.
    """
    var = pd.DataFrame(index=pd.Index(cells.genes)) if slots else None
    fit = AnnData(obs=pd.DataFrame(index=cells.obs.index), var=var)
    result = found.embedding if found.graph is None else found.graph
    square = found.graph is None or result.shape[1] == fit.n_obs
    if result.ndim != 2 or result.shape[0] != fit.n_obs or not square:
        shape = " x ".join(map(str, result.shape))
        raise InputError(f"{source}: the method returned {shape} for {fit.n_obs} cells")
    if found.graph is None:
        fit.obsm[f"X_{method}"] = np.ascontiguousarray(result, dtype=np.float32)
    else:
        fit.obsp[method] = result
    more = {}
    for name, value in found.slots.items():
        group, _, key = name.partition("/")
        if name not in slots:
            raise InputError(f"{source}: {name} is not among the slots that {method} declares")
        (more if group == "uns" else getattr(fit, group))[key] = value
    fit.uns["unbatch"] = {
        **more,
        "schema": schema.VERSION,
        "method": method,
        "output": "embedding" if found.graph is None else "graph",
        **{name: slot for name, slot in (("first", found.first), ("second", found.second)) if slot},
        **about,
    }
    schema.validate(fit, "fit", source, cells_of=AnnData(obs=pd.DataFrame(index=cells.obs.index)), slots=slots)
    return fit

"""The file of a fit: what a method found, in the slots of the contract."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from unbatch.data import io, schema
from unbatch.data.cells import Cells
from unbatch.data.notes import notes_text
from unbatch.errors import InputError
from unbatch.machine import peak_mb, versions

if TYPE_CHECKING:
    from unbatch.contract import Fit, Run
    from unbatch.methods import Method


def read(path: str | Path, dataset: AnnData) -> AnnData:
    """Read a fit without its corrected expression, and check it whole.

    Parameters
    ----------
    path
        The file.
    dataset
        The dataset that it must be of: the same cells in the same order.

    Raises
    ------
    InputError
        If it breaks the contract.
    """
    from unbatch import methods

    fit = io.read_h5ad(path, ["obsm", "obsp", "uns/unbatch"])
    method = str(fit.uns.get("unbatch", {}).get("method", ""))
    slots = methods.load(method).slots if method in methods.names() else None
    schema.validate(fit, "fit", path, cells_of=dataset, slots=slots)
    return fit


def assemble(
    cells: Cells,
    method: "Method",
    found: "Fit",
    run: "Run",
    given: Mapping[str, Any],
    wall_s: float,
    source: str | Path,
) -> AnnData:
    """Put a fit into the slots of its file and check these.

    Parameters
    ----------
    cells
        The cells that were fitted.
    method
        The method.
    found
        What it found; its layers are written by the caller, a block at a time.
    run
        Seed, and the device that was used.
    given
        Parameters that were stated, the others having had their defaults.
    wall_s
        Seconds that the fit took.
    source
        Name of the file, for messages.

    Raises
    ------
    InputError
        If something breaks the contract.
    """
    var = pd.DataFrame(index=pd.Index(cells.genes)) if method.slots else None
    fit = AnnData(obs=pd.DataFrame(index=cells.obs.index), var=var)
    result = found.embedding if found.graph is None else found.graph
    square = found.graph is None or result.shape[1] == fit.n_obs
    if result.ndim != 2 or result.shape[0] != fit.n_obs or not square:
        shape = " x ".join(map(str, result.shape))
        raise InputError(f"{source}: the method returned {shape} for {fit.n_obs} cells")
    if found.graph is None:
        fit.obsm[f"X_{method.name}"] = np.ascontiguousarray(result, dtype=np.float32)
    else:
        fit.obsp[method.name] = result
    more = {}
    for name, value in found.slots.items():
        group, _, key = name.partition("/")
        if name not in method.slots:
            raise InputError(f"{source}: {name} is not among the slots that {method.name} declares")
        (more if group == "uns" else getattr(fit, group))[key] = value
    fit.uns["unbatch"] = {
        **more,
        "schema": schema.VERSION,
        "method": method.name,
        "output": "embedding" if found.graph is None else "graph",
        **{name: slot for name, slot in (("first", found.first), ("second", found.second)) if slot},
        "params": found.parameters,
        "given": dict(given),
        "seed": run.seed,
        "device": run.device,
        "wall_s": wall_s,
        "peak_mb": peak_mb(),
        "versions": versions(*method.packages),
        "notes": notes_text(found.notes),
    }
    schema.validate(fit, "fit", source, slots=method.slots)
    return fit

"""What all `fit-*` programs share: options, what they read, and what they write."""

import functools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, versions
from unbatch.errors import InputError, UnbatchError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def fit_arguments(function: Callable[..., None]) -> Callable[..., None]:
    """Give a program the arguments of a fit: ``DATASET -o FIT [--model DIR] [--params FILE] [--max-epochs N]``."""
    arguments = [
        click.argument("dataset", type=InPath),
        click.option("-o", "--output", type=OutPath, required=True, help="The fit (h5ad) to write."),
        click.option("--model", type=Folder, help="Folder to write the fitted model to."),
        click.option("--params", type=InPath, help="YAML file with parameters of the method."),
        click.option("--max-epochs", type=click.IntRange(1), help="Limit of training epochs."),
    ]
    return functools.reduce(lambda wrapped, argument: argument(wrapped), reversed(arguments), function)


def read_parameters(path: Path | None) -> dict[str, Any]:
    """Read ``name: value`` pairs from YAML.

    Raises
    ------
    InputError
        If it is not YAML or not a mapping.
    """
    if path is None:
        return {}
    import yaml

    from unbatch.data.io import require_file

    try:
        content = yaml.safe_load(require_file(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())[:200]})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected 'name: value' pairs")
    return content


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write_fit(
    path: Path,
    dataset: "AnnData",
    embedding: "np.ndarray",
    *,
    method: str,
    run: Run,
    device: str,
    params: dict[str, Any],
    wall_s: float,
    packages: tuple[str, ...] = (),
) -> None:
    """Write `fit.h5ad`: the cells of the dataset, the embedding, how it was made; no copy of the expression.

    Raises
    ------
    UnbatchError
        If the method broke the contract (other cells, values that are not finite, a constant dimension); the
        fault is the method's, not the user's.
    """
    import numpy as np
    from anndata import AnnData

    from unbatch.data import io, schema

    fit = AnnData(obs=dataset.obs[[]])
    if embedding.shape[0] != fit.n_obs:
        raise UnbatchError(f"{method} returned {embedding.shape[0]} cells of {fit.n_obs}")
    fit.obsm[f"X_{method}"] = np.ascontiguousarray(embedding, dtype=np.float32)
    fit.uns["unbatch"] = {
        "schema": schema.VERSION,
        "method": method,
        "params": params,
        "seed": run.seed,
        "device": device,
        "wall_s": wall_s,
        "peak_mb": peak_mb(),
        "versions": versions(*packages),
    }
    try:
        schema.validate(fit, "fit", path, cells_of=dataset)
    except InputError as error:
        raise UnbatchError(f"{method} failed: its output cannot be used, {error}") from error
    io.write_h5ad(fit, path)
    log.info("%s: %d cells x %d dimensions in %.1f s -> %s", method, *embedding.shape, wall_s, path)

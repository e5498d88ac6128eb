"""What all `fit-*` programs share: options, what they read, and what they write."""

import functools
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unbatch.cli.common import Folder, InPath, OutPath, Run, log, versions
from unbatch.errors import InputError, NotApplicable, UnbatchError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from unbatch.baselines.cells import Cells


def fit_arguments(function: Callable[..., None]) -> Callable[..., None]:
    """Give a program the arguments of a fit: ``DATASET -o FIT [--model DIR] [--params FILE] [--max-epochs N]``."""
    arguments = [
        click.argument("dataset", type=InPath),
        click.option("-o", "--output", type=OutPath, required=True, help="The fit (h5ad) to write."),
        click.option("--model", type=Folder, help="Folder to write the fitted model to."),
        click.option("--params", type=InPath, help="YAML file with parameters of the method."),
        click.option("--max-epochs", type=click.IntRange(1), help="Limit of training epochs (or steps)."),
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


def merge_parameters(method: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Put given values over a method's defaults; a default of None takes any value.

    Raises
    ------
    InputError
        If a name is unknown or a value is not of the default's type.
    """
    # lists, as YAML has them and h5ad writes them
    merged = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    for name, value in given.items():
        if name not in merged:
            raise InputError(f"{method} has no parameter {name!r}; it has {', '.join(merged) or 'none'}")
        default = merged[name]
        number = isinstance(default, int | float) and not isinstance(default, bool)
        fits = isinstance(value, float | int) if isinstance(default, float) else isinstance(value, type(default))
        if default is not None and (not fits or (number and isinstance(value, bool))):
            raise InputError(
                f"{method}: parameter {name} is {value!r}, a value like {default!r} "
                f"({type(default).__name__}) was expected"
            )
        merged[name] = value
    return merged


def saved_parameters(
    path: Path, config: dict[str, Any], check: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return the parameters of a saved model, as `check` completes them.

    Raises
    ------
    InputError
        If they are none, or `check` refuses them; names the file.
    """
    given = config.get("params")
    if not isinstance(given, dict):
        raise InputError(f"{path}: params is {short(given)}, expected parameters by name")
    try:
        return check(given)
    except InputError as error:
        raise InputError(f"{path}: params: {error}") from error


def read_cells(path: Path, least_batches: int = 2, *, normalised: bool = True) -> tuple["AnnData", "Cells"]:
    """Read a dataset and bring it into the form that methods take: highly variable genes, codes for names.

    Parameters
    ----------
    path
        The dataset.
    least_batches
        Fewest batches that the method can use.
    normalised
        Whether the method uses the log-normalised expression; without it, half the memory is enough.

    Raises
    ------
    NotApplicable
        If there are fewer batches than the method can use.
    InputError
        If the dataset breaks the contract.
    """
    import numpy as np

    from unbatch.baselines.cells import Cells
    from unbatch.data import io, schema

    expression = ["X"] if normalised else []
    adata = io.read_h5ad(path, [*expression, "layers/counts", "obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", path, unread=() if normalised else ("X",))
    batch = adata.obs["batch"].cat.remove_unused_categories()
    if len(batch.cat.categories) < least_batches:
        raise NotApplicable(f"{path}: obs/batch holds one batch, this method needs two or more")
    variable = adata.var["highly_variable"].to_numpy()
    if not variable.any():
        raise InputError(f"{path}: var/highly_variable marks no gene; run preprocess with a larger --n-top-genes")
    label = adata.obs.get("label")
    section = adata.obs.get("section", batch).cat.remove_unused_categories()
    return adata, Cells(
        X=adata.X[:, variable] if normalised else None,
        counts=adata.layers["counts"][:, variable],
        genes=adata.var_names[variable].tolist(),
        batch=batch.cat.codes.to_numpy().astype(np.int64),
        label=None if label is None else label.cat.codes.to_numpy().astype(np.int64),
        coordinates=adata.obsm.get("spatial"),
        sections=section.cat.codes.to_numpy().astype(np.int64),
        section_names=[str(name) for name in section.cat.categories],
    )


def refuse_options(folder: Path, names: Iterable[str]) -> None:
    """Refuse options that the model in a folder has of its own, where it is applied.

    Raises
    ------
    InputError
        If one of these options was given.
    """
    context, names = click.get_current_context(), set(names)
    stated = [
        option.opts[0]
        for option in context.command.params
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if stated:
        raise InputError(
            f"{', '.join(stated)} cannot be given with --apply: the model in {folder} has parameters of its own"
        )


def names_in(path: Path, config: dict[str, Any], name: str, least: int = 1) -> list[str]:
    """Take a list of different names out of the configuration of a model.

    Raises
    ------
    InputError
        If it is no such list, or a shorter one than `least`.
    """
    value = config.get(name)
    if not isinstance(value, list) or len(value) < least or not all(isinstance(each, str) for each in value):
        raise InputError(f"{path}: {name} is {short(value)}, expected a list of names")
    if len(set(value)) < len(value):
        raise InputError(f"{path}: {name} holds a name more than once, expected different names")
    return value


def short(value: Any) -> str:
    """Write any value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def columns_of(path: Path, adata: "AnnData", folder: Path, genes: list[str]) -> "np.ndarray":
    """Find the genes of a model in a dataset, in the order of the model.

    Raises
    ------
    InputError
        If the dataset lacks some of them.
    """
    place = adata.var_names.get_indexer(genes)
    if (place < 0).any():
        absent = [gene for gene, found in zip(genes, place, strict=True) if found < 0]
        raise InputError(
            f"{path}: var_names lack {len(absent)} of the {len(genes)} genes of the model in {folder}, the first is "
            f"{absent[0]}; expected all of them"
        )
    return place


def torch_device(run: Run) -> str:
    """Say where torch computes, and give it the threads of the run.

    Raises
    ------
    InputError
        If a device is asked for that is not there.
    """
    import torch

    torch.set_num_threads(run.threads)
    if run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available, expected cpu or auto on this machine")
    return "cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu"


def use_threads(run: Run, values: int, per_thread: int) -> int:
    """Give torch as many threads as the work is worth, and not more than the run has.

    Parameters
    ----------
    run
        How the program was asked to run; its threads are the most.
    values
        Numbers that an operation works on, in one go.
    per_thread
        Such numbers that one more thread is worth its waiting for.

    Returns
    -------
    int
        The number of threads; the same for the same data, whatever else the machine does.
    """
    import torch

    threads = max(1, min(run.threads, values // per_thread))
    torch.set_num_threads(threads)
    log.debug("%d of %d threads", threads, run.threads)
    return threads


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write_fit(
    path: Path,
    dataset: "AnnData",
    embedding: "np.ndarray | None",
    *,
    method: str,
    run: Run,
    device: str,
    params: dict[str, Any],
    wall_s: float,
    packages: tuple[str, ...] = (),
    extras: "AnnData | None" = None,
    graph: "csr_matrix | None" = None,
    **layers: "Iterable[np.ndarray] | None",
) -> None:
    """Write `fit.h5ad`: the cells of the dataset, the embedding, how it was made; no copy of the expression.

    Parameters
    ----------
    path, dataset, embedding, method, run, device, params, wall_s, packages
        File, cells, what was found, and how.
    extras
        What the method found beside the embedding, in the slots where it belongs; ``uns`` goes to ``uns/unbatch``.
    graph
        What a method found that gives a graph of cells in place of an embedding.
    layers
        Row blocks of layers, by name.

    Raises
    ------
    UnbatchError
        If the method broke the contract (other cells, values that are not finite, a constant dimension); the
        fault is the method's, not the user's.
    """
    import numpy as np
    from anndata import AnnData

    from unbatch.data import io, schema

    fit = AnnData(obs=dataset.obs[[]]) if extras is None else extras
    found = embedding if graph is None else graph
    if found.ndim != 2 or found.shape[0] != fit.n_obs or (graph is not None and found.shape[1] != fit.n_obs):
        raise UnbatchError(f"{method} returned {' x '.join(map(str, found.shape))} for {fit.n_obs} cells")
    if graph is None:
        fit.obsm[f"X_{method}"] = np.ascontiguousarray(embedding, dtype=np.float32)
    else:
        fit.obsp[method] = graph
    shape = found.shape
    more = dict(fit.uns)
    fit.uns.clear()
    fit.uns["unbatch"] = more | {
        "schema": schema.VERSION,
        "method": method,
        "output": "embedding" if graph is None else "graph",
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
    io.write_h5ad(fit, path, **layers)
    what = "dimensions" if graph is None else "cells (a graph)"
    log.info("%s: %d cells x %d %s in %.1f s -> %s", method, *shape, what, wall_s, path)

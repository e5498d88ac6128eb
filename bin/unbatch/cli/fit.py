"""The programs `fit-*`: read a dataset, fit a method or apply its model, write the fit and the model."""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unbatch import contract, methods
from unbatch.cli.common import Folder, InPath, OutPath, Run, limit_threads_early, log, program
from unbatch.cli.options import parameter_option
from unbatch.contract import Fit, SavedModel, short
from unbatch.errors import InputError, UnbatchError
from unbatch.methods import Method

if TYPE_CHECKING:
    from unbatch.data.cells import Cells

MOST_METHODS = 2
"""A program of more methods than this takes their parameters from --params alone; it would have too many options."""


def fit_program(name: str) -> click.Command:
    """Make the program of the methods that name it: options of every fit and for every parameter, and ``--apply``.

    Parameters
    ----------
    name
        Name of the program, such as ``"fit-baseline"``.
    """
    # numpy, which the methods' files import, reads the limits once
    limit_threads_early()
    known = [methods.load(each) for each in methods.of_program(name)]

    def main(
        run: Run,
        dataset: Path,
        output: Path,
        model: Path | None,
        params: Path | None,
        max_epochs: int | None,
        method: str,
        apply: Path | None = None,
        **options: Any,
    ) -> None:
        from unbatch.data import io

        io.require_place(output, [dataset])
        if model is not None:
            io.require_model_place(model)
        stated = {key: value for key, value in options.items() if value is not None}
        if apply is None:
            _fit_method(run, dataset, output, model, methods.load(method), read_parameters(params) | stated, max_epochs)
        else:
            _apply_model(run, dataset, output, model, apply, stated, [each.name for each in known])

    main.__doc__ = _summary(known)
    arguments = [
        click.argument("dataset", type=InPath),
        click.option("-o", "--output", type=OutPath, required=True, help="The fit (h5ad) to write."),
        click.option("--model", type=Folder, help="Folder to write the fitted model to."),
        click.option("--params", type=InPath, help="YAML file with parameters of the method; options win over it."),
        click.option(
            "--max-epochs", type=click.IntRange(1), help="Limit of training epochs (or steps, or iterations)."
        ),
        _method_option(known),
    ]
    if len(known) <= MOST_METHODS:
        arguments += _parameter_options(known)
    if any(each.applies for each in known):
        text = "Embed the cells with the model in this folder, instead of fitting one."
        arguments.append(click.option("--apply", type=Folder, help=text))
    decorated = functools.reduce(lambda made, argument: argument(made), reversed(arguments), main)
    return program(*{package for each in known for package in each.packages})(decorated)


def _summary(known: list[Method]) -> str:
    if len(known) > MOST_METHODS:
        return "Fit an outside METHOD to DATASET and write its embedding, or its graph of cells."
    return f"Fit {' or '.join(each.name for each in known)} to DATASET and write its embedding and what else it found."


def _method_option(known: list[Method]) -> Callable[[Any], Any]:
    names = _MethodName([each.name for each in known])
    if len(known) > MOST_METHODS:
        return click.option("--method", type=names, required=True, help="The method.")
    # --mode is what fit-batchblend called it first
    alias = [] if any("mode" in each.params.model_fields for each in known) else ["--mode"]
    return click.option("--method", *alias, "method", type=names, default=known[0].name, help="The method.")


class _MethodName(click.Choice):
    """Name of a method of this program; of another's, that one is named."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        if value in methods.names():
            return f"{value} is fitted by {methods.load(value).program}"
        return super().get_invalid_choice_message(value, ctx)


def _parameter_options(known: list[Method]) -> list[Callable[[Any], Any]]:
    """Make an option of every parameter but those that are lists or mappings, which files have."""
    rules = {name: rule for each in reversed(known) for name, rule in contract.rules(each.params).items()}
    return [parameter_option(name, rule) for name, rule in rules.items() if rule["type"] not in ("array", "object")]


def _fit_method(
    run: Run,
    dataset: Path,
    output: Path,
    folder: Path | None,
    method: Method,
    given: dict[str, Any],
    max_epochs: int | None,
) -> None:
    from unbatch.data import io
    from unbatch.data.cells import read_cells

    params = method.limited(contract.checked(method.name, method.params, given), max_epochs)
    device = method.device(run.device, run.threads)
    if run.device == "cuda" and not method.needs.gpu:
        log.warning("%s runs on the CPU; --device cuda changes nothing", method.name)
    cells = read_cells(dataset)

    def keep(config: dict[str, Any], weights: dict[str, Any]) -> None:
        if folder is not None:
            about = {"method": method.name, "params": params.model_dump(), "genes": cells.genes}
            io.write_model(folder, about | {"batches": cells.batches} | config, weights)

    how = contract.Run(run.seed, device, run.threads, max_epochs, keep)
    start = time.perf_counter()
    found = method.fit(cells, params, how)
    wall_s = time.perf_counter() - start
    if folder is not None and not found.weights:
        raise InputError(f"--model: {method.name} embeds only the cells it was fitted to, it has no model to write")
    _write(output, cells, method, found, how, wall_s=wall_s, given=given)
    if folder is not None:
        keep({"params": found.parameters} | found.config, found.weights)


def _apply_model(
    run: Run,
    dataset: Path,
    output: Path,
    extended: Path | None,
    folder: Path,
    given: dict[str, Any],
    known: list[str],
) -> None:
    """Embed cells with the model in a folder; with batches that it learnt from them it is written to `extended`."""
    from unbatch.data import io
    from unbatch.data.cells import read_cells

    saved = read_saved(folder, known)
    method = methods.load(saved.method)
    fields = method.params.model_fields
    free = {name for name, info in fields.items() if (info.json_schema_extra or {}).get("applies")}
    _refuse_options(folder, {*fields, "method", "params", "max_epochs"} - free)
    # what is asked of a model when it is applied is asked anew
    fitted = saved.params.model_dump(exclude=free)
    params = contract.checked(method.name, method.params, fitted | given)
    device = method.device(run.device, run.threads)
    start = time.perf_counter()
    cells = read_cells(dataset).of_model(saved.genes, folder, partial=method.partial)
    how = contract.Run(run.seed, device, run.threads)
    found = method.apply(replace(saved, params=params), cells, how)
    wall_s = time.perf_counter() - start
    if extended is not None and not found.weights:
        raise InputError(f"--model: a model of {method.name} that is applied stays as it is in {folder}")
    _write(output, cells, method, found, how, wall_s=wall_s, given=given)
    if extended is not None:
        about = {"method": method.name, "params": found.parameters, "genes": saved.genes, "batches": saved.batches}
        io.write_model(extended, about | found.config, found.weights)


def read_parameters(path: Path | None) -> dict[str, Any]:
    """Read ``name: value`` pairs from YAML.

    Raises
    ------
    InputError
        If it is not YAML, not a mapping, or one that is meant for the pipeline.
    """
    from unbatch.data.io import read_mapping

    content = {} if path is None else read_mapping(path, "parameters of a method")
    if content and all(name in methods.names() and isinstance(value, dict) for name, value in content.items()):
        raise InputError(
            f"{path}: holds parameters below names of methods, as the pipeline's --method_params takes them; expected "
            "those of the method alone"
        )
    return content


def read_saved(folder: Path, known: list[str]) -> SavedModel:
    """Read a model that --model wrote.

    Parameters
    ----------
    folder
        Where it is.
    known
        Methods whose models are wanted.

    Raises
    ------
    InputError
        If a file is missing, not that of such a model, or damaged.
    """
    from unbatch.data import io

    config, weights = io.read_model(folder)
    path = folder / "config.json"
    if config["method"] not in known:
        raise InputError(f"{path}: method is {short(config['method'])}, expected one of {', '.join(known)}")
    method = methods.load(config["method"])
    params = config.get("params")
    if not isinstance(params, dict):
        raise InputError(f"{path}: params is {short(params)}, expected parameters by name")
    try:
        checked = contract.checked(method.name, method.params, params)
    except InputError as error:
        raise InputError(f"{path}: params: {error}") from error
    genes, batches = (_names_in(path, config, name) for name in ("genes", "batches"))
    return SavedModel(folder, method.name, checked, genes, batches, config, weights)


def _names_in(path: Path, config: dict[str, Any], name: str) -> list[str]:
    """Take a list of different names out of the configuration of a model."""
    value = config.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise InputError(f"{path}: {name} is {short(value)}, expected a list of names")
    if len(set(value)) < len(value):
        raise InputError(f"{path}: {name} holds a name more than once, expected different names")
    return value


def _refuse_options(folder: Path, names: set[str]) -> None:
    """Refuse options that the model in a folder has of its own, where it is applied."""
    context = click.get_current_context()
    stated = [
        option.opts[0]
        for option in context.command.params
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if stated:
        raise InputError(
            f"{', '.join(stated)} cannot be given with --apply: the model in {folder} has parameters of its own"
        )


def _write(
    path: Path,
    cells: "Cells",
    method: Method,
    found: Fit,
    run: contract.Run,
    *,
    wall_s: float,
    given: dict[str, Any],
) -> None:
    """Write `fit.h5ad`: the cells of the dataset, what was found, how it was made; no copy of the expression.

    Raises
    ------
    UnbatchError
        If the method broke the contract (another number of cells, values that are not finite, a constant dimension);
        the fault is the method's, not the user's.
    """
    from unbatch.data import fits, io

    try:
        fit = fits.assemble(cells, method, found, run, given, wall_s, path)
    except InputError as error:
        raise UnbatchError(f"{method.name} failed: its output cannot be used, {error}") from error
    io.write_h5ad(fit, path, **found.layers)
    shape = (found.embedding if found.graph is None else found.graph).shape
    what = "dimensions" if found.graph is None else "cells (a graph)"
    log.info("%s: %d cells x %d %s in %.1f s -> %s", method.name, *shape, what, wall_s, path)

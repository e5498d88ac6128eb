"""Methods of others, one short file each, run by their own library.

A method is a module of this package with ``PACKAGES``, the libraries it calls, and one function
``fit(cells, *, seed, ...)`` that takes `Cells` and returns a `Fit`; its keyword arguments are its parameters and
their defaults those of its card in ``assets/methods.yml``. One that can use a GPU has a keyword ``device``; one that
says something of a single batch, too, has ``LEAST_BATCHES = 1``; one with parameters that are names ``CHOICES``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from unbatch.errors import NotApplicable

EXTRAS = {"bbknn": "bbknn", "liger": "liger", "mnn": "mnn", "scvi": "scvi", "scanvi": "scvi"}
"""Extra of ``pyproject.toml`` that a method needs; ``pip install .`` alone brings none of them."""

_GIVEN = frozenset({"seed", "device"})


def names() -> list[str]:
    """Names of the methods that have a file here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "cells")


def packages(method: str) -> tuple[str, ...]:
    """Libraries that a method calls, whose versions belong beside its result."""
    return importlib.import_module(f"{__name__}.{method}").PACKAGES


def least_batches(method: str) -> int:
    """Fewest batches that a method can use: two, unless its module says otherwise."""
    return getattr(importlib.import_module(f"{__name__}.{method}"), "LEAST_BATCHES", 2)


def choices(method: str) -> dict[str, tuple[str, ...]]:
    """Values that parameters may have which are names, by parameter."""
    return getattr(importlib.import_module(f"{__name__}.{method}"), "CHOICES", {})


def load(method: str) -> Callable[..., Any]:
    """Import a method with the library it calls.

    Raises
    ------
    NotApplicable
        If the library is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(f"{__name__}.{method}").fit
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(method)
        cure = f"; pip install '.[{extra}]' in the folder of unbatch brings it" if extra else ""
        raise NotApplicable(f"{method}: the package {error.name} is not installed{cure}") from error


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters of a method and their defaults."""
    keywords = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in keywords if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN}


def uses_device(function: Callable[..., Any]) -> bool:
    """Say whether a method can compute on a GPU."""
    return "device" in inspect.signature(function).parameters

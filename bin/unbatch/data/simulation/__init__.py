"""Simulations with a known truth, a preset a module."""

from importlib import import_module
from types import ModuleType


def preset(name: str) -> ModuleType:
    """Return the module of a preset: its ``Parameters``, ``draw_truth`` and ``annotated``.

    Parameters
    ----------
    name
        ``"thesis"`` or ``"donors"``.
    """
    return import_module(f"unbatch.data.simulation.{name}")


PRESETS = ("thesis", "donors")

"""Simulations with a known truth, a preset a module."""

from types import ModuleType


def preset(name: str) -> ModuleType:
    """Return the module of a preset: its ``Parameters``, ``draw_truth`` and ``annotated``.

    Parameters
    ----------
    name
        ``"thesis"`` or ``"donors"``.
    """
    from unbatch.data.simulation import donors, thesis

    return {"thesis": thesis, "donors": donors}[name]


PRESETS = ("thesis", "donors")

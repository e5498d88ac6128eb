"""Code that numba compiles for UMAP, kept where numba keeps what umap-learn asks it to keep."""

from importlib import import_module
from typing import Any


def keep_compiled() -> None:
    """Have numba store what it compiles of umap-learn, most of which it would compile anew in every process.

    A layout of a few hundred cells takes 6 s of CPU time without, and 0.2 s with what an earlier process stored.
    Where nothing can be written, code is compiled as before.
    """
    from numba.core.dispatcher import Dispatcher

    found: dict[int, Any] = {}
    for module in ("umap.utils", "umap.umap_", "umap.layouts"):
        functions = vars(import_module(module)).values()
        found |= {id(each): each for each in functions if isinstance(each, Dispatcher)}
    for function in found.values():
        if not function.py_func.__module__.startswith("umap."):
            continue
        try:
            function.enable_caching()
        except (RuntimeError, OSError):  # numba finds no folder to write to
            return


def compile_umap() -> None:
    """Compile and store what scores and reports use of UMAP, once for all tasks; set-up calls it."""
    import numpy as np

    from unbatch.metrics.integration import nearest_neighbours
    from unbatch.report.embedding import lay_out

    keep_compiled()
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    lay_out(points, seed=0)
    # the graph of scores has other types than that of layouts
    _ = nearest_neighbours(points, 16).knn_graph_connectivities

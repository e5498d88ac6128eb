"""What a result is made with: versions of software, memory that was used."""

import platform
import resource
from importlib import metadata

from unbatch import __version__
from unbatch.errors import InputError

PACKAGES = ("anndata", "numpy", "scanpy", "scib-metrics", "torch")
"""Libraries whose version every program reports; a program names the others that it uses."""


def versions(*packages: str) -> dict[str, str]:
    """Versions of unbatch, Python and the libraries in use."""
    found = {"unbatch": __version__, "python": platform.python_version()}
    for package in sorted({*PACKAGES, *packages}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def torch_device(device: str, threads: int) -> str:
    """Say where torch computes, ``"cpu"`` or ``"cuda"``, and how many threads it uses there.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    threads
        Threads at most.

    Raises
    ------
    InputError
        If a device is asked for that is not there.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected auto, cpu or cuda")
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: no CUDA device is available, expected cpu or auto on this machine")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"

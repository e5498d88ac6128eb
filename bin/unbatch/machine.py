"""What a result is made with: versions of software, memory that was used."""

import platform
import resource
from importlib import metadata

from unbatch import __version__

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

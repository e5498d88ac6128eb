"""unbatch tells batch from biology in single-cell and spatial transcriptomics.

``unbatch.fit`` and ``unbatch.score`` work on an AnnData in memory (`unbatch.api`).
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import what a notebook calls when it is first called, as programs need nothing of it for their help."""
    if name in ("fit", "score"):
        from unbatch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

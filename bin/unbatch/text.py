"""Text for people."""

from collections.abc import Iterable
from typing import Any


def safe_text(text: str) -> str:
    """Text from outside without what cannot be seen, which could move a terminal's cursor or forge a log line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def some(names: Iterable[Any], limit: int = 5) -> str:
    """List the first of some names, for messages."""
    names = list(names)
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")

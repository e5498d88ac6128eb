"""The programs: options, read, call, write. No mathematics here."""

import importlib
from typing import ClassVar

import click

from unbatch import __version__


class _Programs(click.Group):
    """Group that imports a program only when it is called, so that `--help` stays fast."""

    modules: ClassVar[dict[str, str]] = {
        "simulate": "simulate",
        "preprocess": "preprocess",
        "fit-baseline": "fit_baseline",
        "fit-batchblend": "fit_batchblend",
        "fit-scmedal": "fit_scmedal",
        "score": "score",
        "report": "report",
        "attempt": "attempt",
        "each": "each",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.modules:
            return None
        return importlib.import_module(f"unbatch.cli.{self.modules[name]}").main


@click.command(cls=_Programs)
@click.version_option(__version__)
def main() -> None:
    """Tell batch from biology in single-cell and spatial transcriptomics."""

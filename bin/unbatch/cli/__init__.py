"""The programs: options, read, call, write. No mathematics here."""

import importlib
from typing import ClassVar

import click

from unbatch import __version__


class _Programs(click.Group):
    """Group that imports a program only when it is called, to keep `--help` fast."""

    modules: ClassVar[dict[str, str]] = {
        "simulate": "simulate",
        "preprocess": "preprocess",
        "fit-baseline": "fit_baseline",
        "fit-batchblend": "fit_batchblend",
        "fit-scmedal": "fit_scmedal",
        "fit-dpvae": "fit_dpvae",
        "fit-spavae": "fit_spavae",
        "score": "score",
        "report": "report",
        "integrate": "integrate",
        "halve": "halve",
        "calibrate": "calibrate",
        "attempt": "attempt",
        "each": "each",
    }
    """Programs with a module; a program that only methods name (`unbatch.methods`) needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from unbatch import methods

        fits = {method.program for method in map(methods.load, methods.names()) if method.fits_here}
        return [*self.modules, *sorted(fits - self.modules.keys())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.modules:
            return importlib.import_module(f"unbatch.cli.{self.modules[name]}").main
        if name not in self.list_commands(ctx):
            return None
        return importlib.import_module("unbatch.cli.fit").fit_program(name)


@click.command(cls=_Programs)
@click.version_option(__version__)
def main() -> None:
    """Tell batch from biology in single-cell and spatial transcriptomics."""

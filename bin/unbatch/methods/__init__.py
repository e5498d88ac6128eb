"""The methods, a file each: outside ones, run by their own library, and our own.

A method is a module of this package with

- ``class Params(Parameters)``: its parameters, the only place where they are declared;
- ``fit(cells, params, run) -> Fit``: takes `Cells`, its parameters and a `Run`. Libraries that are heavy or may be
  missing are imported inside it;

and, where that says something,

- ``PROGRAM``: the program that fits it (default ``"fit-baseline"``);
- ``PACKAGES``: libraries whose versions belong to the result;
- ``EXTRA``: the extra of ``pyproject.toml`` that brings them, where ``pip install .`` does not;
- ``NEEDS``: a `Needs`, what it cannot do without;
- ``EPOCHS``: the parameter that ``--max-epochs`` limits;
- ``SLOTS``: slots of the fit in addition to its embedding, by name, each a `Slot`;
- ``apply(model, cells, run) -> Fit``: embeds other cells with a `SavedModel`, which gives the program ``--apply``;
- ``PARTIAL``: whether `apply` takes cells that lack some genes of the model;
- ``sections() -> Sections``: what the report shows of its fits (`unbatch.report.section`).

With a card in ``assets/methods.yml`` and a test, such a file is all that a new method needs (docs/methods.md).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot
from unbatch.data.notes import logged_warnings
from unbatch.errors import InputError, NotApplicable
from unbatch.machine import torch_device

if TYPE_CHECKING:
    from unbatch.data.cells import Cells
    from unbatch.report.section import Sections

PROGRAM = "fit-baseline"
"""Program of a method that names none."""


@dataclass(frozen=True)
class Method:
    """A method as its module declares it."""

    name: str
    program: str
    params: type[Parameters]
    needs: Needs
    packages: tuple[str, ...]
    extra: str | None
    epochs: str | None
    slots: dict[str, Slot]
    partial: bool
    sections: "Callable[[], Sections | None]"
    _fit: "Callable[[Cells, Parameters, Run], Fit] | None"
    _apply: "Callable[[SavedModel, Cells, Run], Fit] | None"

    @property
    def fits_here(self) -> bool:
        """Whether it is fitted by this package; one in R has a program of its own."""
        return self._fit is not None

    @property
    def applies(self) -> bool:
        """Whether it can embed other cells with a saved model."""
        return self._apply is not None

    def fit(self, cells: "Cells", params: Parameters | None = None, run: Run | None = None) -> Fit:
        """Fit the method to cells.

        Parameters
        ----------
        cells
            The data.
        params
            Its parameters; None for the defaults.
        run
            Seed, device, threads and limits; None for a single thread on the CPU and seed 0.

        Raises
        ------
        NotApplicable
            If the cells lack what the method needs, or its library is not installed.
        InputError
            If the data or the parameters cannot be used.
        """
        if self._fit is None:
            raise NotApplicable(f"{self.name} runs by its own program {self.program} only")
        self.require(cells)
        run = run or Run()
        params = self.limited(params or self.params(), run.max_epochs)
        with self._installed(), logged_warnings(cells.name) as notes:
            found = self._fit(cells, params, run)
        return replace(found, used=found.used or params, notes=notes)

    def apply(self, model: SavedModel, cells: "Cells", run: Run | None = None) -> Fit:
        """Embed cells with a saved model of the method.

        Parameters
        ----------
        model
            The model; its parameters may differ from those of the fit where the method says so.
        cells
            Cells with the genes of the model, in its order (`Cells.of_model`).
        run
            See `fit`.

        Raises
        ------
        InputError
            If the method has no such model, or the cells do not fit it.
        """
        if self._apply is None:
            raise InputError(f"{model.folder}: {self.name} embeds only the cells it was fitted to")
        with self._installed(), logged_warnings(cells.name) as notes:
            found = self._apply(model, cells, run or Run())
        return replace(found, used=found.used or model.params, notes=notes)

    def device(self, wanted: str, threads: int) -> str:
        """Say where the method computes, and give torch its threads if it uses it; see `machine.torch_device`."""
        return torch_device(wanted, threads) if self.needs.gpu else "cpu"

    def require(self, cells: "Cells") -> None:
        """Check that cells have what the method needs.

        Raises
        ------
        NotApplicable
            If something is missing.
        """
        if cells.n_batches < self.needs.batches:
            raise NotApplicable(f"{cells.name}: obs/batch holds one batch, {self.name} needs two or more")
        if self.needs.labels and (cells.label is None or cells.label.max() < 0):
            raise NotApplicable(f"{cells.name}: obs/label is missing, {self.name} needs labels")
        if self.needs.coordinates and cells.coordinates is None:
            raise NotApplicable(f"{cells.name}: obsm/spatial is missing, {self.name} needs coordinates")

    def limited(self, params: Parameters, max_epochs: int | None) -> Parameters:
        """Return the parameters with at most so many epochs; as they are where the method has no such parameter."""
        if self.epochs is None or max_epochs is None:
            return params
        own = getattr(params, self.epochs)
        return params.model_copy(update={self.epochs: min(own, max_epochs)})

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Say which extra brings a library that is missing."""
        try:
            yield
        except ModuleNotFoundError as error:
            cure = f"; pip install '.[{self.extra}]' in the folder of unbatch brings it" if self.extra else ""
            raise NotApplicable(f"{self.name}: the package {error.name} is not installed{cure}") from error


def names() -> list[str]:
    """Names of all methods."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def load(name: str) -> Method:
    """Read the declaration of a method; its library is imported only when it is fitted.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if name not in names():
        raise InputError(f"no method {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return Method(
        name=name,
        program=getattr(module, "PROGRAM", PROGRAM),
        params=module.Params,
        needs=getattr(module, "NEEDS", Needs()),
        packages=getattr(module, "PACKAGES", ()),
        extra=getattr(module, "EXTRA", None),
        epochs=getattr(module, "EPOCHS", None),
        slots=getattr(module, "SLOTS", {}),
        partial=getattr(module, "PARTIAL", False),
        sections=getattr(module, "sections", lambda: None),
        _fit=getattr(module, "fit", None),
        _apply=getattr(module, "apply", None),
    )


def of_program(program: str) -> list[str]:
    """Names of the methods that a program fits."""
    return [name for name in names() if load(name).program == program]

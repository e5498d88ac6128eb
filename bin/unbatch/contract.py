"""What a method is: its parameters, what it needs of the data, what it is given and what it gives back.

A method is a module of `unbatch.methods`; the names that it may have are listed there. This file holds their types and
imports nothing heavy, as programs read it before they know whether there is work to do.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbatch.data.notes import Note
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from scipy import sparse


class Parameters(BaseModel):
    """Parameters of a method, each declared once with its type, range, default and one line of description.

    Command-line options, the checks of YAML files in the program and in the workflow, and the tables of docs/methods.md
    are all made from the fields. Values are taken as they are: no text becomes a number.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    RENAMED: ClassVar[dict[str, str]] = {}
    """Parameters of earlier versions, and what is given in their place."""

    def using(self, **values: Any) -> Self:
        """Return the same parameters with those values that the data led to, for `Fit.used`."""
        return self.model_copy(update=values)


InMemory = Annotated[
    Literal["auto", "yes", "no"],
    Field(
        description="whether cells are read all at once; auto: if they take less than a quarter of the memory",
        json_schema_extra={"applies": True},
    ),
]
"""A parameter of methods that can read the values of cells from the file as they need them; see `Cells.streams`."""


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without; the program ends as not applicable (exit code 99) where it is missing.

    Attributes
    ----------
    batches
        Fewest batches.
    labels, coordinates
        Whether it needs a label of at least one cell, or a position of each.
    integers
        Whether its model is one of whole numbers; for documentation, as counts that are not whole are scaled.
    gpu
        Whether it can use a GPU; one that cannot warns of ``--device cuda``.
    """

    batches: int = 2
    labels: bool = False
    coordinates: bool = False
    integers: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Slot:
    """A slot of a fit in addition to its embedding, checked when it is written and read, and listed in docs/output.md.

    Attributes
    ----------
    about
        What it holds, one line.
    kind
        As in ``data/schema_h5ad.yml``: matrix (finite numbers), mapping, any, ...
    """

    about: str
    kind: str = "matrix"


@dataclass(frozen=True)
class Run:
    """How a fit is to be made.

    Attributes
    ----------
    seed
        Seed of all random numbers.
    device
        Where torch computes, ``"cpu"`` or ``"cuda"``.
    threads
        Threads at most.
    max_epochs
        Limit of training epochs or iterations; None for that of the method.
    keep
        Writes what is good of a model, its configuration and its weights, where a fit ends early; None where no model
        is kept.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    max_epochs: int | None = None
    keep: "Callable[[dict[str, Any], dict[str, np.ndarray]], None] | None" = None


@dataclass
class Fit:
    """What a method found; arrays and plain values only.

    Attributes
    ----------
    embedding
        n x d; None of a method that gives a graph.
    weights
        What is needed to embed other cells, by name; empty for a method that knows only the cells it saw.
    graph
        How strongly cells are joined, n x n CSR, symmetric; None of a method that gives an embedding.
    config
        What the saved model holds in addition to its weights, as JSON takes it; method, parameters, genes and batches
        are added to it.
    used
        Parameters as they were used, where the method chose some by the data; None for those that were given.
    first, second
        Slots of obsm in which `slots` holds the embedding that `score` predicts from (None for `embedding`), and a
        second one that it probes for what it holds of the batch, such as random effects (None without one).
    slots
        Further slots of the fit by name (``obsm/...``, ``varm/...``, ``uns/...``), those that the module declares; the
        latter are written below ``uns/unbatch``.
    layers
        Blocks of rows of cells x genes matrices by name, which are written one after another.
    notes
        Warnings that were logged during the fit; `Method.fit` fills them in.
    """

    embedding: "np.ndarray | None"
    weights: "dict[str, np.ndarray]" = field(default_factory=dict)
    graph: "sparse.csr_matrix | None" = None
    config: dict[str, Any] = field(default_factory=dict)
    used: Parameters | None = None
    first: str | None = None
    second: str | None = None
    slots: dict[str, Any] = field(default_factory=dict)
    layers: "dict[str, Iterable[np.ndarray]]" = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that were used, by name."""
        return {} if self.used is None else self.used.model_dump()


@dataclass(frozen=True)
class SavedModel:
    """A model that was read from its folder.

    Attributes
    ----------
    folder
        Where it is, for messages.
    method
        The method that made it.
    params
        Parameters that it was fitted with.
    genes, batches
        Names of its genes and batches, in the order of its arrays.
    config, weights
        All of config.json, and the arrays.
    """

    folder: Path
    method: str
    params: Parameters
    genes: list[str]
    batches: list[str]
    config: dict[str, Any]
    weights: "dict[str, np.ndarray]"


def rules(params: type[Parameters]) -> dict[str, dict[str, Any]]:
    """Describe the parameters of a class in the order of their declaration, as the workflow checks them.

    Returns
    -------
    dict
        By name, the JSON schema of a parameter: ``type`` (string, integer, number, boolean, array, object); where it
        has them ``enum``, ``minimum``, ``exclusiveMinimum``, ``maximum``, ``exclusiveMaximum``, and ``items`` (of a
        list, or of the values of an object); ``nullable`` where it may be null; ``asked`` of what is asked of a fit or
        of a saved model and changes neither; ``default`` and ``description``.
    """
    return {name: _rule(schema) for name, schema in params.model_json_schema()["properties"].items()}


def _rule(schema: dict[str, Any]) -> dict[str, Any]:
    """Bring one parameter's JSON schema into one level."""
    kinds = schema.get("anyOf", [schema])
    kind = next(each for each in kinds if each["type"] != "null")
    rule = {"type": kind["type"]} | {key: kind[key] for key in ("enum", *_LIMITS) if key in kind}
    inner = kind.get("items") or kind.get("additionalProperties")
    if inner:
        rule["items"] = {key: value for key, value in inner.items() if key in ("type", "enum", *_LIMITS)}
    if len(kinds) > 1:
        rule["nullable"] = True
    if schema.get("applies"):
        rule["asked"] = True
    return rule | {"default": schema.get("default"), "description": schema.get("description", "")}


_LIMITS = {
    "minimum": "of {:g} or more",
    "exclusiveMinimum": "above {:g}",
    "maximum": "of {:g} or less",
    "exclusiveMaximum": "below {:g}",
}
"""Keys of a JSON schema that limit a number, and how a message writes them."""

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list, each of it",
    "object": "values by name, each of them",
}


def expected(rule: Mapping[str, Any]) -> str:
    """Say in words which values a parameter takes."""
    if "enum" in rule:
        words = f"one of {', '.join(rule['enum'])}"
    else:
        words = _TYPES[rule["type"]]
        limits = " and ".join(text.format(rule[key]) for key, text in _LIMITS.items() if key in rule)
        words += f" {limits}" if limits else ""
    if "items" in rule:
        words += f" {expected(rule['items'])}"
    return words + (" (or null)" if rule.get("nullable") else "")


def checked(method: str, params: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Make parameters of given values; those that are not given have their defaults.

    Parameters
    ----------
    method
        Its name, for messages.
    params
        Its class of parameters.
    given
        Values by name, as YAML or JSON has them.

    Raises
    ------
    InputError
        If names are unknown, or values are not those that the parameters take: all of them in one message.
    """
    wrong = [_unknown(name, params) for name in given if name not in params.model_fields]
    try:
        chosen = params(**{name: value for name, value in given.items() if name in params.model_fields})
    except ValidationError as error:
        described = rules(params)
        for name in dict.fromkeys(str(each["loc"][0]) for each in error.errors() if each["loc"]):
            wrong.append(f"parameter {name} is {short(given[name])}, expected {expected(described[name])}")
        # without a place: a rule on several parameters together, whose message is a sentence of ours
        wrong += [str(each["ctx"]["error"]) for each in error.errors() if not each["loc"]]
    if wrong:
        raise InputError(f"{method}: {'; '.join(wrong)}")
    return chosen


def _unknown(name: str, params: type["Parameters"]) -> str:
    """Say that there is no such parameter, and what it is now or which one has the most similar name."""
    known = params.model_fields
    if name in params.RENAMED:
        return f"parameter {name!r} is of an earlier version, expected {params.RENAMED[name]}"
    close = difflib.get_close_matches(name, known, 1)
    cure = f"did you mean {close[0]}?" if close else f"it has {', '.join(known) or 'none'}"
    return f"no parameter {name!r}, {cure}"


def short(value: Any) -> str:
    """Write any value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

"""Options of programs that are made of declared parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import click


def parameter_option(name: str, rule: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Make the click option of a parameter; None where it is not given, as defaults stand with the parameter alone.

    Parameters
    ----------
    name
        Name of the parameter, with underscores.
    rule
        As `unbatch.contract.rules` has it.
    """
    option = f"--{name.replace('_', '-')}"
    text = rule["description"][:1].upper() + rule["description"][1:]
    default = rule["default"]
    told = str(default).lower() if isinstance(default, bool) else default
    if default is None:
        # what null stands for is what happens where the option is not given
        text, _, told = text.partition("; null: ")
    text = f"{text}.  [default: {told}]" if told != "" else f"{text}."
    if rule["type"] == "boolean":
        return click.option(f"{option}/--no-{option[2:]}", name, default=None, help=text)
    low, high = rule.get("minimum", rule.get("exclusiveMinimum")), rule.get("maximum", rule.get("exclusiveMaximum"))
    limits = {"min": low, "min_open": "exclusiveMinimum" in rule, "max": high, "max_open": "exclusiveMaximum" in rule}
    bounded = low is not None or high is not None
    kind: Any = str
    if "enum" in rule:
        kind = click.Choice(rule["enum"])
    elif rule["type"] == "integer":
        kind = click.IntRange(**limits) if bounded else int
    elif rule["type"] == "number":
        kind = click.FloatRange(**limits) if bounded else float
    return click.option(option, name, type=kind, help=text)

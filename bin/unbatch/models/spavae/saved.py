"""Models as arrays and plain values, and back."""

from typing import Any

import numpy as np
import torch

from unbatch.models.spavae.field import Field
from unbatch.models.spavae.model import Model
from unbatch.models.spavae.networks import Inputs, Network
from unbatch.models.spavae.settings import Settings
from unbatch.nn.sparse_gp import Moments


def config(model: Model) -> dict[str, Any]:
    """Give settings and sizes, as JSON takes them; the arrays are those of `weights`."""
    network = model.network
    return {"settings": network.settings.as_json(), "genes_fitted": network.genes, "batches_told": network.batches}


def weights(model: Model) -> dict[str, np.ndarray]:
    """Give all arrays: of the network, the sums of which the posterior is made, and the training spots."""
    found = {f"network.{name}": value.cpu().numpy() for name, value in model.network.state_dict().items()}
    found |= {f"moments.{name}": getattr(model.moments, name).cpu().numpy() for name in ("precision", "weighted")}
    names = ("positions", "section", "gaussian")
    return found | {"units": model.units} | {f"known.{n}": v for n, v in zip(names, model.known, strict=True)}


def model_of(config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> Model:
    """Make a model of what `config` and `weights` gave.

    Raises
    ------
    ValueError
        If they do not belong together, or are not such values at all.
    """
    try:
        settings = Settings.from_json(config["settings"])
        genes, batches = int(config["genes_fitted"]), int(config["batches_told"])
        state = {name.removeprefix("network."): torch.as_tensor(np.array(value))
                 for name, value in weights.items() if name.startswith("network.")}  # fmt: skip
        components = state.get("inputs.components")
        inputs = Inputs(1.0, state["inputs.mean"], state["inputs.spread"], components)
        points = list(state["field.inducing"])
        field = Field(points, settings.kernel, 1.0, settings.learns_scale)
        network = Network(settings, inputs, field, genes, batches)
        network.load_state_dict(state)
        moments = Moments(*(torch.as_tensor(np.array(weights[f"moments.{n}"])) for n in ("precision", "weighted")))
        moments = Moments(moments.precision.to(device), moments.weighted.to(device))
        known = tuple(np.array(weights[f"known.{name}"]) for name in ("positions", "section", "gaussian"))
        units = np.array(weights["units"])
    except (TypeError, LookupError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(error).__name__} {said}") from error
    shape = (len(points), settings.latent, points[0].shape[0])
    if moments.weighted.shape != shape or len(units) != len(points) or len({len(each) for each in known}) != 1:
        raise ValueError(f"sums of shape {tuple(moments.weighted.shape)} and {len(units)} sections, expected {shape}")
    return Model(network.to(device).eval(), moments, units, known)

"""Models as arrays and plain values, and back."""

from typing import Any

import numpy as np
import torch

from unbatch.metrics.spatial import Similarity
from unbatch.models.dpvae.fitting import Member, Model
from unbatch.models.dpvae.inputs import Inputs
from unbatch.models.dpvae.networks import Network
from unbatch.models.dpvae.readout import Frames, Readout
from unbatch.models.dpvae.settings import Settings
from unbatch.nn.ard_gp import ArdGP


def config(model: Model) -> dict[str, Any]:
    """Give settings and sizes, as JSON takes them; the arrays are those of `weights`."""
    first = model.members[0]
    return {
        "settings": model.settings.as_json(),
        "unit": model.unit,
        "depth": model.inputs.depth,
        "batches_told": first.network.batches,
        "outputs": first.network.decoder[-1].out_features,
        "references": [each.readout.frames.reference for each in model.members],
    }


def weights(model: Model) -> dict[str, np.ndarray]:
    """Give all arrays: of the inputs, and of each network and its readout."""
    names = ("genes", "mean", "spread", "components")
    arrays = {name: getattr(model.inputs, name) for name in names}
    found = {f"inputs.{name}": value for name, value in arrays.items() if value is not None}
    for number, each in enumerate(model.members):
        state = each.network.state_dict()
        found |= {f"{number}.network.{name}": value.cpu().numpy() for name, value in state.items()}
        found |= {f"{number}.frames.{name}": getattr(each.readout.frames, name) for name in ("rotation", "shift")}
        made = each.readout.map
        if isinstance(made, Similarity):
            found |= {f"{number}.map.rotation": made.rotation, f"{number}.map.shift": made.shift}
            found |= {f"{number}.map.scale": np.array(made.scale)}
        else:
            found |= {f"{number}.map.{name}": value for name, value in made.weights.items()}
    return found


def model_of(config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> Model:
    """Make a model of what `config` and `weights` gave.

    Raises
    ------
    ValueError
        If they do not belong together, or are not such values at all.
    """
    try:
        settings = Settings.from_json(config["settings"])
        arrays = {name: np.array(value) for name, value in weights.items()}
        depth = config["depth"]
        inputs = Inputs(
            *(arrays[f"inputs.{name}"] for name in ("genes", "mean", "spread")),
            arrays.get("inputs.components"),
            own=settings.standardised,
            depth=None if depth is None else float(depth),
        )
        size = len(inputs.genes) if inputs.components is None else len(inputs.components)
        members = []
        for number, reference in enumerate(config["references"]):
            network = Network(settings, size, int(config["outputs"]), int(config["batches_told"]))
            network.load_state_dict(
                {name: torch.as_tensor(value) for name, value in _below(arrays, f"{number}.network.").items()}
            )
            frames = Frames(**_below(arrays, f"{number}.frames."), reference=int(reference))
            made = _below(arrays, f"{number}.map.")
            if settings.readout == "similarity":
                found = Similarity(made["rotation"], float(made["scale"]), made["shift"])
            else:
                found = ArdGP.of(made)
            members.append(Member(network.to(device).eval(), Readout(found, frames)))
        if not members:
            raise ValueError("there are no networks")
        return Model(settings, inputs, members, float(config["unit"]))
    except (TypeError, LookupError, AttributeError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(error).__name__} {said}") from error


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

"""Models as arrays and plain values, and back."""

from typing import Any

import numpy as np
import torch

from unbatch.metrics.spatial import Similarity
from unbatch.models.dpvae.fitting import Member, Model
from unbatch.models.dpvae.inputs import Inputs
from unbatch.models.dpvae.networks import Network
from unbatch.models.dpvae.readout import Frames, Linear, Readout
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
        "map": _NAMES[type(first.readout.map)],
    }


_NAMES = {Similarity: "similarity", Linear: "linear", ArdGP: "process"}


def weights(model: Model) -> dict[str, np.ndarray]:
    """Give all arrays: of the inputs, of each network and its readout, and of the process."""
    arrays = {name: getattr(model.inputs, name) for name in ("genes", "mean", "spread", *_MORE)}
    found = {f"inputs.{name}": value for name, value in arrays.items() if value is not None}
    for number, each in enumerate(model.members):
        state = each.network.state_dict()
        found |= {f"{number}.network.{name}": value.cpu().numpy() for name, value in state.items()}
        found |= _readout_weights(each.readout, f"{number}.")
    return found if model.process is None else found | _readout_weights(model.process, "process.")


_MORE = ("components", "share", "residual", "average")


def _readout_weights(readout: Readout, prefix: str) -> dict[str, np.ndarray]:
    made = readout.map
    arrays = (
        made.weights if isinstance(made, ArdGP) else {name: np.asarray(value) for name, value in vars(made).items()}
    )
    found = {f"{prefix}map.{name}": value for name, value in arrays.items()}
    return found | {f"{prefix}frames.{name}": getattr(readout.frames, name) for name in ("rotation", "shift")}


def _readout(arrays: dict[str, np.ndarray], prefix: str, kind: str, reference: int) -> Readout:
    frames = Frames(**_below(arrays, f"{prefix}frames."), reference=reference)
    made = _below(arrays, f"{prefix}map.")
    if kind == "process":
        return Readout(ArdGP.of(made), frames)
    if kind == "linear":
        return Readout(Linear(**made), frames)
    return Readout(Similarity(made["rotation"], float(made["scale"]), made["shift"]), frames)


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
            own=settings.standardised,
            depth=None if depth is None else float(depth),
            **{name: arrays.get(f"inputs.{name}") for name in _MORE},
        )
        members = []
        for number, reference in enumerate(config["references"]):
            network = Network(settings, inputs.size, int(config["outputs"]), int(config["batches_told"]))
            network.load_state_dict(
                {name: torch.as_tensor(value) for name, value in _below(arrays, f"{number}.network.").items()}
            )
            readout = _readout(arrays, f"{number}.", config["map"], int(reference))
            members.append(Member(network.to(device).eval(), readout))
        if not members:
            raise ValueError("there are no networks")
        process = None
        if settings.process:
            process = _readout(arrays, "process.", "process", members[0].readout.frames.reference)
        return Model(settings, inputs, members, float(config["unit"]), process)
    except (TypeError, LookupError, AttributeError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(error).__name__} {said}") from error


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

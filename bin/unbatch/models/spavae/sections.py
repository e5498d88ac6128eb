"""Sections that a model was not fitted to."""

import numpy as np
import torch

from unbatch.models.spavae import positions
from unbatch.models.spavae.data import Spots
from unbatch.models.spavae.field import Field, choose
from unbatch.models.spavae.model import Model
from unbatch.models.spavae.networks import Network


@torch.no_grad()
def with_sections(model: Model, spots: Spots, seed: int = 0) -> Model:
    """Return a model that also knows the sections of other spots.

    The networks stay as they are; the processes of the new sections are those given their own spots.

    Parameters
    ----------
    model
        The model, which stays as it is.
    spots
        Spots of new sections alone, whose codes go on after those of the model.
    seed
        See `fit`.
    """
    network, settings, first = model.network, model.settings, len(model.units)
    units = np.concatenate([model.units, positions.units(spots.points, spots.section, settings.box)[first:]])
    place, scale = spots.points * units[spots.section], float(network.field.scale.mean())
    chosen = choose(place, spots.section - first, settings, scale, seed)
    old = [each[used].cpu() for each, used in zip(network.field.inducing, network.field.used, strict=True)]
    field = Field([*old, *chosen.points], settings.kernel, scale, network.field.trained)
    field.raw.data[:first] = network.field.raw.detach().cpu()
    larger = Network(settings, network.inputs, field, network.genes, network.batches)
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("field.")}
    larger.load_state_dict(weights, strict=False)
    found = Model(larger.to(spots.source.device).eval(), None, units, ())
    moments, gaussian = found.exact(spots, np.arange(len(spots)))
    points = model.moments.weighted.shape[-1]
    moments.precision[:first, :, :points, :points] += model.moments.precision
    moments.weighted[:first, :, :points] += model.moments.weighted
    found.moments = moments
    new = (place, spots.section, gaussian)
    found.known = tuple(np.concatenate(pair) for pair in zip(model.known, new, strict=True))
    return found

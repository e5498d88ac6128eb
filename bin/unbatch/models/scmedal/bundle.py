"""The models of one fit together, as they are saved and read."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from unbatch.models.scmedal.counterfactual import Move, mover
from unbatch.models.scmedal.model import Model
from unbatch.models.scmedal.projection import Projection, part_of


@dataclass(frozen=True)
class Models:
    """Fitted models by kind, and what the default counterfactual is decoded with, if that was fitted."""

    by_kind: dict[str, Model]
    projection: Projection | None = None

    @property
    def fixed(self) -> Model | None:
        """FE or else FEC."""
        return self.by_kind.get("fe", self.by_kind.get("fec"))

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Numbers of genes and of batches of the models; one pair, if they belong together."""
        models = [*self.by_kind.values(), *([self.projection.fixed] if self.projection else [])]
        return {(each.genes, each.batches) for each in models}

    def mover(self, way: str, seed: int) -> Move:
        """Give the function that puts cells into another batch; see `counterfactual.mover`."""
        return mover(way, projection=self.projection, random=self.by_kind.get("re"), seed=seed)

    def config(self) -> dict[str, Any]:
        """Give settings and sizes, as JSON takes them: ``models`` by kind and, if there is one, ``projection``."""
        found: dict[str, Any] = {"models": {kind: each.config() for kind, each in self.by_kind.items()}}
        return found if self.projection is None else found | {"projection": self.projection.config()}

    def weights(self) -> dict[str, np.ndarray]:
        """Give all arrays, named ``KIND.*`` and ``projection.*``."""
        parts = self.by_kind if self.projection is None else self.by_kind | {"projection": self.projection}
        return {f"{part}.{name}": value for part, each in parts.items() for name, value in each.weights().items()}

    @classmethod
    def from_weights(
        cls, kinds: tuple[str, ...], config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu"
    ) -> Self:
        """Make the models of some kinds of what `config` and `weights` gave.

        Raises
        ------
        ValueError
            If they do not belong together, or are not such values at all.
        """
        try:
            models = {
                kind: Model.from_weights(config["models"][kind], part_of(kind, weights), device) for kind in kinds
            }
            given = config.get("projection")
            if given is None:
                return cls(models)
            return cls(models, Projection.from_weights(given, part_of("projection", weights), device))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__} {error}") from error

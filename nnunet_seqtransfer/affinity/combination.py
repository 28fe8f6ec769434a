"""How the components of a metric become one distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_seqtransfer.errors import SequenceError


@dataclass(frozen=True)
class Combination:
    """The distance (sum over components k of weights[k] * c_k ** exponent) ** (1 / exponent).

    A hop of a plan costs (distance / unit) ** hop_exponent. With hop_exponent equal to ``exponent`` that is
    linear in the weights, which is what lets calibration fit them exactly.
    """

    weights: dict[str, float]
    """By name of the component, each >= 0, one at least above 0."""

    exponent: float
    """Above 0: 1 adds the components, 2 adds their squares as those of orthogonal parts of one vector."""

    unit: float = 1.0
    """A typical distance worth a transfer, above 0; planners divide by it."""

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise SequenceError(f"the weight of component {name} is {weight:g}; give a finite number, 0 or more")
        if not any(weight > 0 for weight in self.weights.values()):
            raise SequenceError("no component has a weight above 0, so that all distances would be 0; weigh one")
        for what, value in (("exponent of the components", self.exponent), ("unit of the distance", self.unit)):
            if not math.isfinite(value) or value <= 0:
                raise SequenceError(f"the {what} is {value:g}; give a finite number above 0")

    def distances(self, components: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Distances of the shape that every component has; ``components`` >= 0, inf where there is no distance.

        Components that have no weight, or a weight of 0, are not looked at.

        Raises SequenceError where a weighed component is not among ``components``.
        """
        weighed = {name: weight for name, weight in self.weights.items() if weight > 0}
        lacking = sorted(set(weighed) - set(components))
        if lacking:
            raise SequenceError(
                f"there is no component {lacking[0]} to weigh, there are: {', '.join(sorted(components))}; "
                "take the weights of this metric"
            )
        # A power that overflows is a distance beyond all others: inf, no edge.
        with np.errstate(over="ignore"):
            total = sum(
                weight * np.asarray(components[name], dtype=np.float64) ** self.exponent
                for name, weight in weighed.items()
            )
            return np.asarray(total ** (1 / self.exponent), dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Combination:
        """The inverse of `as_json`. Raises KeyError or TypeError where a field is missing or of another kind."""
        weights = {str(name): float(weight) for name, weight in dict(content["weights"]).items()}
        return cls(weights, float(content["exponent"]), float(content["unit"]))

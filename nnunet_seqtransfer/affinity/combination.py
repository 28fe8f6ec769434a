"""Turn the components of a metric into one distance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_seqtransfer.errors import SequenceError


@dataclass(frozen=True)
class Combination:
    """The distance (sum over components k of weights[k] * c_k ** exponent) ** (1 / exponent).

    A hop of a plan costs (distance / unit) ** hop_exponent. If hop_exponent equals ``exponent``, the cost is linear in
    the weights, so a calibration can fit them exactly.
    """

    weights: dict[str, float]
    "Weight of each component by name, at least 0; one must be above 0."
    exponent: float
    "Above 0. 1 adds the components; 2 adds their squares, as for orthogonal parts of one vector."
    unit: float = 1.0
    "A typical distance, above 0. Planners divide by it."

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
        """Return distances, in the common shape of the components.

        ``components`` holds values of at least 0, or inf for "no distance". Components without a weight are ignored.

        Raises SequenceError if a component with a weight is missing.
        """
        weighed = {name: weight for name, weight in self.weights.items() if weight > 0}
        lacking = sorted(set(weighed) - set(components))
        if lacking:
            raise SequenceError(
                f"there is no component {lacking[0]} to weigh, there are: {', '.join(sorted(components))}; "
                "take the weights of this metric"
            )
        # A power that overflows becomes inf, which planners read as "no edge".
        with np.errstate(over="ignore"):
            total = sum(
                weight * np.asarray(components[name], dtype=np.float64) ** self.exponent
                for name, weight in weighed.items()
            )
            return np.asarray(total ** (1 / self.exponent), dtype=np.float64)

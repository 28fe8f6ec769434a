"""From values to places on a drawing, and the round numbers that an axis names."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight map: ``low`` is drawn at ``start``, ``high`` at ``end``."""

    low: float
    "Value at the start; below `high`."
    high: float
    "Value at the end."
    start: float
    "Place of the start, in pixels."
    end: float
    "Place of the end; may lie before the start."

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values within the ends, about ``most`` of them."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(count * step, 12) for count in range(first, last + 1)]

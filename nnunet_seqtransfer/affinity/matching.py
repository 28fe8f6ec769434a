"""Which channel and which label of one task is compared with which of another: linear assignment, for many pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

UNMATCHED = 0.5**2
"""Square of the distance between a channel or label and nothing. A guess, to be calibrated."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """One-to-one matchings of R_a things of one task with R_b of another, for T pairs of tasks; K = min(R_a, R_b)."""

    first: NDArray[np.intp]
    "Shape (T, K): indices of the one task's, ascending."
    second: NDArray[np.intp]
    "Shape (T, K): indices of their counterparts."

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The matched indices of the first pair of tasks."""
        return [(int(i), int(j)) for i, j in zip(self.first[0], self.second[0], strict=True)]


def assign(costs: Array) -> Match:
    """The matchings of (T, R_a, R_b) with the smallest sums of costs (Kuhn 1955, by SciPy)."""
    tasks, rows, columns = costs.shape
    if rows == columns == 1:
        zeros = np.zeros((tasks, 1), dtype=np.intp)
        return Match(zeros, zeros)
    found = [linear_sum_assignment(cost) for cost in costs]
    return Match(np.stack([first for first, _ in found]), np.stack([second for _, second in found]))


def matched_mean(costs: Array, match: Match, unmatched: float) -> Array:
    """(T,) mean of the matched of (T, R_a, R_b) costs; what has no counterpart costs ``unmatched``."""
    most = max(costs.shape[1:])
    matched = costs[np.arange(len(costs))[:, None], match.first, match.second]
    return np.asarray((matched.sum(axis=1) + unmatched * (most - matched.shape[1])) / most)


def mean_of_objects(costs: Array, labels: Match, unmatched: float) -> Array:
    """(T,) mean of (T, 1 + L_a, 1 + L_b) costs: half from the unions of all labels (row and column 0), half matched."""
    return np.asarray((costs[:, 0, 0] + matched_mean(costs[:, 1:, 1:], labels, unmatched)) / 2)

"""Match the channels and labels of two tasks by linear assignment, for many pairs of tasks at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

UNMATCHED = 0.5**2
"""Squared distance of a channel or label without a counterpart. A guess, until a calibration weighs it."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """One-to-one matchings of R_a rows with R_b rows for T pairs of tasks; K = min(R_a, R_b)."""

    first: NDArray[np.intp]
    "Indices of rows of the first task, ascending, (T, K)."
    second: NDArray[np.intp]
    "Indices of the matched rows of the second task, (T, K)."

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Return the matched indices of the first pair of tasks."""
        return [(int(i), int(j)) for i, j in zip(self.first[0], self.second[0], strict=True)]


def assign(costs: Array) -> Match:
    """Return the matchings with the smallest sums of the costs (T, R_a, R_b) (Kuhn 1955, by SciPy).

    Negative costs count as 0. An estimated squared distance is below 0 by noise only, and noise must not match two
    nearly identical channels crosswise.
    """
    tasks, rows, columns = costs.shape
    if rows == columns == 1:
        zeros = np.zeros((tasks, 1), dtype=np.intp)
        return Match(zeros, zeros)
    found = [linear_sum_assignment(cost) for cost in np.maximum(costs, 0)]
    return Match(np.stack([first for first, _ in found]), np.stack([second for _, second in found]))


def matched_mean(costs: Array, match: Match, unmatched: float) -> Array:
    """Return the mean (T,) of the matched costs (T, R_a, R_b). Each row without a counterpart costs ``unmatched``."""
    most = max(costs.shape[1:])
    matched = costs[np.arange(len(costs))[:, None], match.first, match.second]
    return np.asarray((matched.sum(axis=1) + unmatched * (most - matched.shape[1])) / most)


def mean_of_objects(costs: Array, labels: Match, unmatched: float) -> Array:
    """Return the mean (T,) of the costs (T, 1 + L_a, 1 + L_b) of objects.

    Half comes from the unions of all labels (row and column 0), half from the matched labels.
    """
    return np.asarray((costs[:, 0, 0] + matched_mean(costs[:, 1:, 1:], labels, unmatched)) / 2)

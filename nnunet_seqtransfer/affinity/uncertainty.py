"""How sure a ranking is: bootstrap intervals of the distances to the target, and which neighbours are indistinct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.bootstrap import resample_to_target
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.tasks.signature import Signature

COVERAGE = 0.95
"""Of the intervals; and the share of the resamples in which the nearer of two sources has to be the nearer one."""


@dataclass(frozen=True, eq=False)
class Scatter:
    """The distances of n sources to the target under resampled cases."""

    ranking: tuple[int, ...]
    "Indices of the sources, nearest first, equal ones by name."
    low: NDArray[np.float64]
    "(n,) lower ends of percentile intervals; inf where the source or the target was looked at in a single case."
    high: NDArray[np.float64]
    "(n,) upper ends."
    indistinct: tuple[bool, ...]
    "For each place of the ranking but the last: whether its source is the nearer one in too few resamples."


def scatter_to_target(
    metric: AffinityMetric, combination: Combination, signatures: Sequence[Signature], seed: int
) -> Scatter:
    """How the distances of all signatures to the last one scatter."""
    sources, target = signatures[:-1], signatures[-1]
    compared = [metric.compare(source, target).components for source in sources]
    distances = combination.distances({name: np.asarray([c[name] for c in compared]) for name in compared[0]})
    ranking = tuple(sorted(range(len(sources)), key=lambda i: (distances[i], sources[i].dataset)))
    drawn = combination.distances(resample_to_target(metric, signatures, seed))
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    single = np.asarray([min(len(source.cases), len(target.cases)) < 2 for source in sources])
    low[single] = high[single] = np.inf
    return Scatter(ranking, low, high, _indistinct(drawn, ranking, single))


def _indistinct(drawn: NDArray[np.float64], ranking: tuple[int, ...], single: NDArray[np.bool_]) -> tuple[bool, ...]:
    """``drawn`` (resamples, sources)."""
    pairs = pairwise(ranking)
    return tuple(
        bool(single[near] or single[far] or (drawn[:, near] < drawn[:, far]).mean() < COVERAGE) for near, far in pairs
    )

"""Compare all pairs of tasks, resample their cases, and tell how certain the ranking of the sources is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_seqtransfer.affinity.base import AffinityMetric, BatchMetric
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.mean_distance import multipliers
from nnunet_seqtransfer.tasks.signature import Signature

RESAMPLES = 200
"""Number of resamples, enough for 95 % intervals and for shares with an error of a few per cent."""
COVERAGE = 0.95
"""Coverage of the intervals, and the share of resamples that must agree on the order of two sources."""
_SHOWN_FROM = 100
"""Number of tasks from which on a progress bar is shown."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scatter:
    """The distances of n sources to the target under resampled cases."""

    ranking: tuple[int, ...]
    "Indices of the sources, nearest first. Names break ties."
    low: Array
    "Lower ends of the percentile intervals, (n,); inf if the source or the target has a single sampled case."
    high: Array
    "Upper ends of the percentile intervals, (n,); inf as in `low`."
    indistinct: tuple[bool, ...]
    "indistinct[k]: True if fewer than `COVERAGE` of the resamples agree on the order of ranks k and k + 1."


def scatter_to_target(
    metric: AffinityMetric, combination: Combination, signatures: Sequence[Signature], seed: int
) -> Scatter:
    """Resample the distances from all signatures to the last one."""
    sources, target = signatures[:-1], signatures[-1]
    compared = [metric.compare(source, target).distances for source in sources]
    distances = combination.distances({name: np.asarray([c[name] for c in compared]) for name in compared[0]})
    ranking = tuple(sorted(range(len(sources)), key=lambda i: (distances[i], sources[i].dataset)))
    drawn = combination.distances(resample_to_target(metric, signatures, seed))
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    single = np.asarray([min(len(source.cases), len(target.cases)) < 2 for source in sources])
    low[single] = high[single] = np.inf
    indistinct = tuple(
        bool(single[near] or single[far] or (drawn[:, near] < drawn[:, far]).mean() < COVERAGE)
        for near, far in pairwise(ranking)
    )
    return Scatter(ranking, low, high, indistinct)


def all_pairs(metric: AffinityMetric, signatures: Sequence[Signature]) -> dict[str, Array]:
    """Return each component as (n, n), [i, j] from task i to task j.

    A `BatchMetric` is symmetric and gets zeros on the diagonal without a comparison.
    """
    count = len(signatures)
    names = metric.compare(signatures[0], signatures[-1]).distances
    table = {name: np.zeros((count, count)) for name in names}
    for i in tqdm(range(count), desc="Comparing tasks", unit="task", disable=count < _SHOWN_FROM):
        if isinstance(metric, BatchMetric):
            for name, values in metric.compare_many(signatures[i], signatures[i + 1 :]).items():
                table[name][i, i + 1 :] = table[name][i + 1 :, i] = values
        else:
            for j in range(count):
                for name, value in metric.compare(signatures[i], signatures[j]).distances.items():
                    table[name][i, j] = value
    return table


def resample_to_target(
    metric: AffinityMetric, signatures: Sequence[Signature], seed: int, count: int = RESAMPLES
) -> dict[str, Array]:
    """Return each component as (count, n - 1): distances from every source to the target, the last signature."""
    sources, target = signatures[:-1], signatures[-1]
    parts = [resample(metric, source, target, seed, count) for source in sources]
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def resample_pairs(
    metric: AffinityMetric, signatures: Sequence[Signature], seed: int, count: int = RESAMPLES
) -> dict[str, NDArray[np.float32]]:
    """Return each component as (count, n, n) for all pairs. The diagonal is 0."""
    n = len(signatures)
    table: dict[str, NDArray[np.float32]] = {}
    pairs = [(i, j) for i in range(n) for j in range(n) if i < j or (i != j and not isinstance(metric, BatchMetric))]
    for i, j in tqdm(pairs, desc="Resampling cases", unit="pair", disable=len(pairs) < _SHOWN_FROM**2 // 2):
        for name, values in resample(metric, signatures[i], signatures[j], seed, count).items():
            whole = table.setdefault(name, np.zeros((count, n, n), dtype=np.float32))
            whole[:, i, j] = values
            if isinstance(metric, BatchMetric):
                whole[:, j, i] = values
    return table


def resample(metric: AffinityMetric, source: Signature, target: Signature, seed: int, count: int) -> dict[str, Array]:
    """Return each component, (count,), for resamples of the cases of both tasks.

    If the metric is no `BatchMetric`, it compares signatures with cases drawn with replacement (ordinary bootstrap).
    A case with the same key is drawn alike in both tasks.
    """
    if isinstance(metric, BatchMetric):
        return metric.resample(source, target, count, seed)
    drawn = zip(_drawn(source, seed, count), _drawn(target, seed, count), strict=True)
    found = [metric.compare(a, b).distances for a, b in drawn]
    return {name: np.asarray([distances[name] for distances in found]) for name in found[0]}


def _drawn(signature: Signature, seed: int, count: int) -> list[Signature]:
    """Draw signatures with as many cases, each case in proportion to the weight that its key has in that resample."""
    weights = 1.0 + multipliers(signature.keys, count, seed)
    edges = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    size = len(signature.cases)
    # Evenly spaced points instead of random ones: the weights are the only source of chance.
    points = (np.arange(size) + 0.5) / size
    chosen = [np.minimum(np.searchsorted(edge, points), size - 1) for edge in edges]
    return [
        replace(
            signature,
            digest=f"{signature.digest}/{index}",
            cases=tuple(signature.cases[k] for k in order),
            stamps=tuple(signature.stamps[k] for k in order),
            labelled=tuple(signature.labelled[k] for k in order),
            geometry=signature.geometry[order],
            profiles=tuple(signature.profiles[k] for k in order),
        )
        for index, order in enumerate(chosen)
    ]

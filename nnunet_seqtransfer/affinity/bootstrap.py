"""All pairs of tasks under a metric: the components of their distances, and how these scatter over resampled cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_seqtransfer.affinity.base import AffinityMetric, BatchMetric
from nnunet_seqtransfer.affinity.mean_distance import multipliers
from nnunet_seqtransfer.tasks.signature import Signature

RESAMPLES = 200
"""Resamples of the cases: enough for 95 % intervals and for shares to within some percent."""

Array = NDArray[np.float64]
_SHOWN_FROM = 100
"""With fewer tasks no progress bar is worth its line."""


def all_pairs(metric: AffinityMetric, signatures: Sequence[Signature]) -> dict[str, Array]:
    """Each component as (n, n), [i, j] from task i to task j; 0 on the diagonal of metrics that compare in batches."""
    count = len(signatures)
    names = metric.compare(signatures[0], signatures[-1]).components
    table = {name: np.zeros((count, count)) for name in names}
    for i in tqdm(range(count), desc="Comparing tasks", unit="task", disable=count < _SHOWN_FROM):
        if isinstance(metric, BatchMetric):
            for name, values in metric.compare_many(signatures[i], signatures[i + 1 :]).items():
                table[name][i, i + 1 :] = table[name][i + 1 :, i] = values
        else:
            for j in range(count):
                for name, value in metric.compare(signatures[i], signatures[j]).components.items():
                    table[name][i, j] = value
    return table


def resample_to_target(
    metric: AffinityMetric, signatures: Sequence[Signature], seed: int, count: int = RESAMPLES
) -> dict[str, Array]:
    """Each component as (count, n - 1): of the distances from every source to the target, which comes last."""
    sources, target = signatures[:-1], signatures[-1]
    parts = [resample(metric, source, target, seed, count) for source in sources]
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def resample_pairs(
    metric: AffinityMetric, signatures: Sequence[Signature], seed: int, count: int = RESAMPLES
) -> dict[str, NDArray[np.float32]]:
    """Each component as (count, n, n), for all pairs; the diagonal is 0."""
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
    """Each component, (count,), for resamples of the cases of both tasks.

    Metrics that do not resample themselves compare signatures whose cases are drawn with replacement (the ordinary
    bootstrap), a case being drawn alike wherever its key occurs.
    """
    if isinstance(metric, BatchMetric):
        return metric.resample(source, target, count, seed)
    drawn = zip(_drawn(source, seed, count), _drawn(target, seed, count), strict=True)
    found = [metric.compare(a, b).components for a, b in drawn]
    return {name: np.asarray([components[name] for components in found]) for name in found[0]}


def _drawn(signature: Signature, seed: int, count: int) -> list[Signature]:
    """Signatures of as many cases, each in proportion to the weight that its key has in that resample."""
    weights = 1.0 + multipliers(signature.keys, count, seed)
    edges = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    size = len(signature.cases)
    places = (np.arange(size) + 0.5) / size
    chosen = [np.minimum(np.searchsorted(edge, places), size - 1) for edge in edges]
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

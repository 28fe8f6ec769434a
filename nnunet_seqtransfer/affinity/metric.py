"""What a metric is, and the list of those that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.tasks.profiling import Profiler
from nnunet_seqtransfer.tasks.signature import Signature

ENTRY_POINT_GROUP = "nnunet_seqtransfer.metrics"
"""Third parties register a metric class under this Python entry point group."""


@dataclass(frozen=True)
class Comparison:
    """How far one task lies from another, in each of the metric's components."""

    components: dict[str, float]
    "Each a distance, at least 0; lower is closer. `Combination` makes them one."
    match: tuple[str, ...] = field(default=())
    "In words, which channels and labels were compared with which: 'T1 -> MRI'."


class AffinityMetric(Profiler, Protocol):
    """Profiles cases (expensive, once per task) and compares signatures (cheap, once per pair)."""

    combination: Combination
    "Weights of the components, and a typical distance. Guesses until calibrated."

    def compare(self, source: Signature, target: Signature) -> Comparison:
        """The components of the distance from ``source`` to ``target``."""
        ...


@runtime_checkable
class BatchMetric(AffinityMetric, Protocol):
    """A symmetric metric that compares with many tasks at once, and knows how its distances scatter.

    Metrics without these two are compared pair by pair, and anew for each resample.
    """

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, NDArray[np.float64]]:
        """Each component, (T,), of the distances from ``source`` to each of T targets; equal to `compare`."""
        ...

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Each component, (count,), for resamples of the cases; a case is drawn alike wherever its key occurs."""
        ...


def metrics() -> dict[str, Callable[[], AffinityMetric]]:
    """Name -> maker of every metric, ours and those that installed packages register (imported when they are made)."""
    from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric  # noqa: PLC0415 - they import this module
    from nnunet_seqtransfer.affinity.fingerprint import FingerprintMetric  # noqa: PLC0415
    from nnunet_seqtransfer.affinity.published import PublishedMetric  # noqa: PLC0415

    own: dict[str, Callable[[], AffinityMetric]] = {
        DescriptorMetric.name: DescriptorMetric,
        FingerprintMetric.name: FingerprintMetric,
        PublishedMetric.name: PublishedMetric,
    }
    return {**{point.name: _maker(point) for point in entry_points(group=ENTRY_POINT_GROUP)}, **own}


def _maker(point: EntryPoint) -> Callable[[], AffinityMetric]:
    return lambda: cast("AffinityMetric", point.load()())


def find_metric(name: str) -> AffinityMetric:
    """The metric of that name. Raises SequenceError with the valid names."""
    known = metrics()
    if name not in known:
        raise SequenceError(f"unknown metric {name!r}; choose one of: {', '.join(sorted(known))}")
    return known[name]()

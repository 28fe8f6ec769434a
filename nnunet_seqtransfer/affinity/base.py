"""Define a metric: the components of a distance, and the methods that compare signatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.tasks.profiling import Profiler
from nnunet_seqtransfer.tasks.signature import Signature

Pairs = tuple[tuple[str, str], ...]
"""Names of things that were compared with each other: (name in the source, name in the target)."""


@dataclass(frozen=True)
class Counterparts:
    """Matched parts between a source and the target."""

    channels: Pairs = ()
    "Pairs of channels; empty if the metric does not compare channels."
    labels: Pairs = ()
    "Pairs of labels; empty if the metric does not compare labels one by one."
    same_cases: bool = False
    "True if the metric compared only cases that are in both tasks."


@dataclass(frozen=True)
class Components:
    """The distance from one task to another, split into the components of a metric."""

    distances: dict[str, float]
    "Distance in each component, at least 0. A `Combination` turns them into one distance."
    counterparts: Counterparts = Counterparts()
    "Channels and labels that were compared with each other."


class AffinityMetric(Profiler, Protocol):
    """Profiles cases (slow, once per task) and compares signatures (fast, once per pair)."""

    combination: Combination
    "Weights of the components and a typical distance, used unless a calibration is given."

    def compare(self, source: Signature, target: Signature) -> Components:
        """Return the components of the distance from ``source`` to ``target``."""
        ...


@runtime_checkable
class BatchMetric(AffinityMetric, Protocol):
    """A symmetric metric that compares with many tasks at once and resamples its distances itself.

    A metric without these two methods is called pair by pair, also for each resample.
    """

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, NDArray[np.float64]]:
        """Return each component, (T,), of the distances from ``source`` to T targets; equal to `compare`."""
        ...

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return each component, (count,), for resamples of the cases. Equal keys are drawn alike in both tasks."""
        ...

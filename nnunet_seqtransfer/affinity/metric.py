"""What a metric is, and the list of those that exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.tasks.profile import Profiler
from nnunet_seqtransfer.tasks.signature import Signature

ENTRY_POINT_GROUP = "nnunet_seqtransfer.metrics"
"""Third parties register a metric class under this Python entry point group."""


@dataclass(frozen=True)
class Comparison:
    """The distance from one task to another, and what it is made of."""

    distance: float
    "At least 0; lower is closer."
    components: dict[str, float]
    "Named parts, in the metric's own units."
    match: tuple[str, ...] = field(default=())
    "In words, which channels and labels were compared with which: 'T1 -> MRI'."


class AffinityMetric(Profiler, Protocol):
    """Profiles cases (expensive, once per task) and compares signatures (cheap, once per pair)."""

    unit: float
    "A typical distance between tasks worth a transfer: planners divide by it. A guess until calibrated."

    def compare(self, source: Signature, target: Signature) -> Comparison:
        """The distance from ``source`` to ``target``."""
        ...


def metrics() -> dict[str, Callable[[], AffinityMetric]]:
    """Name -> maker of every metric, ours and those that installed packages register (imported when they are made)."""
    from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric  # noqa: PLC0415 - they import this module
    from nnunet_seqtransfer.affinity.published import PublishedMetric  # noqa: PLC0415

    own: dict[str, Callable[[], AffinityMetric]] = {
        DescriptorMetric.name: DescriptorMetric,
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

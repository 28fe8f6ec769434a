"""The metrics by name: our own, and those of other installed packages.

What a metric must provide is in base.py: `AffinityMetric`, or `BatchMetric` for many tasks at once.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from nnunet_seqtransfer.errors import SequenceError

if TYPE_CHECKING:
    from nnunet_seqtransfer.affinity.base import AffinityMetric

ENTRY_POINT_GROUP = "nnunet_seqtransfer.metrics"
"""Python entry point group that other packages register a metric class under."""
DEFAULT_METRIC = "descriptors"
_OWN = {
    "descriptors": "nnunet_seqtransfer.affinity.descriptors:DescriptorMetric",
    "published": "nnunet_seqtransfer.affinity.published:PublishedMetric",
}


def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics, sorted, without importing the metrics."""
    return tuple(sorted(_registered()))


def find_metric(name: str) -> AffinityMetric:
    """Return the metric of that name. Raises SequenceError with the valid names if there is none."""
    known = _registered()
    if name not in known:
        raise SequenceError(f"unknown metric {name!r}; choose one of: {', '.join(sorted(known))}")
    return cast("AffinityMetric", known[name].load()())


def _registered() -> dict[str, EntryPoint]:
    others = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    # Other packages cannot take our own names.
    return others | {name: EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in _OWN.items()}

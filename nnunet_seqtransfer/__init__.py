"""Choose source datasets for nnU-Net from the data alone, then train through them in sequence."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_seqtransfer.affinity.measure import AffinityRequest, MeasuredAffinity, measure_affinity
    from nnunet_seqtransfer.context import Context
    from nnunet_seqtransfer.evaluation.compare import compare_paths
    from nnunet_seqtransfer.evaluation.comparison import Comparison
    from nnunet_seqtransfer.evaluation.trials import CompareRequest
    from nnunet_seqtransfer.planning.planner import plan_sequence

__version__ = "0.1.0"
__all__ = [
    "AffinityRequest",
    "CompareRequest",
    "Comparison",
    "Context",
    "MeasuredAffinity",
    "__version__",
    "compare_paths",
    "measure_affinity",
    "plan_sequence",
]

_HOMES = {
    "AffinityRequest": "affinity.measure",
    "CompareRequest": "evaluation.trials",
    "Comparison": "evaluation.comparison",
    "Context": "context",
    "MeasuredAffinity": "affinity.measure",
    "compare_paths": "evaluation.compare",
    "measure_affinity": "affinity.measure",
    "plan_sequence": "planning.planner",
}
"""Module of each public name, imported when the name is first used: every command imports this package."""


def __getattr__(name: str) -> Any:
    """Import and return a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Choose source datasets for nnU-Net from the data alone, then train through them in sequence."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_seqtransfer.affinity.measure import MeasuredAffinity, measure_affinity
    from nnunet_seqtransfer.affinity.sources import AffinityRequest
    from nnunet_seqtransfer.calibration.calibrate import Calibration, CalibrationRequest, calibrate
    from nnunet_seqtransfer.context import Context
    from nnunet_seqtransfer.evaluation.compare import compare_paths
    from nnunet_seqtransfer.evaluation.comparison import CompareRequest, Comparison
    from nnunet_seqtransfer.planning.decide import plan_sequence
    from nnunet_seqtransfer.planning.options import PlanOptions
    from nnunet_seqtransfer.planning.record import SequencePlan
    from nnunet_seqtransfer.training.clean import clean
    from nnunet_seqtransfer.training.job import DeviceOptions
    from nnunet_seqtransfer.training.plan import PlanRequest, plan_path
    from nnunet_seqtransfer.training.recipe import Recipe
    from nnunet_seqtransfer.training.stages import ChainRequest
    from nnunet_seqtransfer.training.status import run_status
    from nnunet_seqtransfer.training.train import continue_run, train_chain

__version__ = "0.1.0"
__all__ = [
    "AffinityRequest",
    "Calibration",
    "CalibrationRequest",
    "ChainRequest",
    "CompareRequest",
    "Comparison",
    "Context",
    "DeviceOptions",
    "MeasuredAffinity",
    "PlanOptions",
    "PlanRequest",
    "Recipe",
    "SequencePlan",
    "__version__",
    "calibrate",
    "clean",
    "compare_paths",
    "continue_run",
    "measure_affinity",
    "plan_path",
    "plan_sequence",
    "run_status",
    "train_chain",
]

_HOMES = {
    "AffinityRequest": "affinity.sources",
    "Calibration": "calibration.calibrate",
    "CalibrationRequest": "calibration.calibrate",
    "ChainRequest": "training.stages",
    "CompareRequest": "evaluation.comparison",
    "Comparison": "evaluation.comparison",
    "Context": "context",
    "DeviceOptions": "training.job",
    "MeasuredAffinity": "affinity.measure",
    "PlanOptions": "planning.options",
    "PlanRequest": "training.plan",
    "Recipe": "training.recipe",
    "SequencePlan": "planning.record",
    "calibrate": "calibration.calibrate",
    "clean": "training.clean",
    "compare_paths": "evaluation.compare",
    "continue_run": "training.train",
    "measure_affinity": "affinity.measure",
    "plan_path": "training.plan",
    "plan_sequence": "planning.decide",
    "run_status": "training.status",
    "train_chain": "training.train",
}
"""Module of each public name, imported when the name is first used: every command imports this package."""


def __getattr__(name: str) -> Any:
    """Import and return a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

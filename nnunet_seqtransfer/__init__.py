"""Choose source datasets for nnU-Net from the data alone, then train through them in sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_seqtransfer.planning.planner import plan_sequence

__version__ = "0.1.0"
__all__ = ["__version__", "plan_sequence"]


def __getattr__(name: str) -> Any:
    """Imports `plan_sequence` when it is first asked for: every command imports this package, few of them plan."""
    if name != "plan_sequence":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunet_seqtransfer.planning.planner import plan_sequence  # noqa: PLC0415 - see above

    return plan_sequence

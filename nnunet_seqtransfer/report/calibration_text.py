"""A calibration in words and a table for the terminal."""

from __future__ import annotations

from nnunet_seqtransfer.calibration.calibrate import Calibration
from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.report.words import counted


def calibration_text(calibration: Calibration) -> str:
    """Return what was measured, and how well it is predicted without and with the user's other targets."""
    rows = calibration.table.rows
    targets = len({row.target for row in rows})
    table = [
        [name, f"{calibration.weighted_tau[place]:.3f}", f"{calibration.regret[place]:.3f}"]
        for place, name in enumerate(("shipped measurements", "with your other targets"))
    ]
    return "\n".join(
        [
            f"{counted(len(rows), 'measured transfer')} to {counted(targets, 'target')} ({calibration.metric})",
            "",
            "Each target predicted without it:",
            text_table(["predicted from", "weighted tau", "regret of the first choice"], table),
            "",
            _verdict(calibration),
        ]
    )


def _verdict(calibration: Calibration) -> str:
    if calibration.lead is None:
        return "With one target it cannot be said whether your measurements help other targets."
    low, high = calibration.lead
    interval = f"95 % interval of the fall of the regret {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"Your measurements help: {interval}."
    return f"It is not clear that your measurements help: {interval}. Measure more targets."

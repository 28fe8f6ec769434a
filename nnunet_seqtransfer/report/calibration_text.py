"""A calibration in words and tables for the terminal."""

from __future__ import annotations

from nnunet_seqtransfer.calibration.record import Calibration, RankingQuality
from nnunet_seqtransfer.report.tables import text_table


def calibration_text(calibration: Calibration) -> str:
    """Return the constants with intervals, how well they rank held-out paths, and what they rest on."""
    basis = calibration.measurements
    unit = "target" if basis.left_out == "target" else "path"
    noise = f"{basis.run_noise:.3f}" if basis.run_noise is not None else "unknown (no path was run twice)"
    return "\n".join(
        [
            f"Calibration of {calibration.metric} on {basis.words}, {basis.constants} constants",
            "",
            text_table(["constant", "value", "95 % interval"], _constants(calibration)),
            "",
            f"Ranking of measured paths, each {unit} by constants fitted without it:",
            "",
            text_table(
                ["ranking", "Spearman", "weighted tau", "calibrated leads by", "regret of the first choice"],
                [_quality(row) for row in basis.held_out],
            ),
            "",
            f"Fitted to all: correlation {basis.correlation:.3f} within targets, scatter of Dice "
            f"{calibration.residual:.3f}; between runs of one path {noise}",
            verdict(calibration),
            *basis.notes,
        ]
    )


def verdict(calibration: Calibration) -> str:
    """Return whether the calibrated ranking is worth using, in one sentence."""
    basis = calibration.measurements
    own = basis.held_out[0]
    as_good = [other.ranking for other in basis.not_beaten if other.weighted_tau >= own.weighted_tau]
    if as_good:
        return f"Held out, it ranks no better than {' and '.join(as_good)}: do not rely on it, measure more."
    if basis.not_beaten:
        names = " and ".join(other.ranking for other in basis.not_beaten)
        return f"Held out, it ranks better than {names}, but its lead may be chance: measure more to be sure."
    if calibration.dice_per_cost_interval[0] <= 0:
        return "The interval of Dice per cost reaches 0: Dice may have nothing to do with the cost. Measure more."
    return "Held out, it ranks better than every ranking that needs no calibration."


def _quality(row: RankingQuality) -> list[str]:
    lead = f"{row.lead[0]:.3f} to {row.lead[1]:.3f}" if row.lead is not None else "-"
    return [row.ranking, f"{row.spearman:.3f}", f"{row.weighted_tau:.3f}", lead, f"{row.regret:.3f}"]


def _constants(calibration: Calibration) -> list[list[str]]:
    values = {
        "start_scale": calibration.start_scale,
        **calibration.combination.weights,
        "stage_cost": calibration.stage_cost,
    }
    intervals = calibration.measurements.intervals
    rows = [
        [
            f"weight of {name}" if name in calibration.combination.weights else name,
            f"{value:.4g}",
            _ends(intervals[name]) if name in intervals else "not fitted",
        ]
        for name, value in values.items()
    ]
    exponents = "chosen from a grid" if calibration.measurements.exponents_chosen else "default"
    rows.append(["Dice per cost", f"{calibration.dice_per_cost:.4g}", _ends(calibration.dice_per_cost_interval)])
    rows.append(["exponent of hops", f"{calibration.combination.exponent:g}", exponents])
    return [*rows, ["exponent of start", f"{calibration.start_exponent:g}", exponents]]


def _ends(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"

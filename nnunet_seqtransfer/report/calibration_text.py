"""A calibration as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.calibration.record import Calibration, MeasuredPath, RankingQuality
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt  # after the backend is chosen

COLUMNS = 4
MOST_NAMES = 10


def calibration_text(calibration: Calibration) -> str:
    """The constants with their intervals, how well they rank what they have not seen, and what they rest on."""
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
    """Whether the calibrated ranking is worth its use, in one sentence."""
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


def draw_calibration(calibration: Calibration, path: Path) -> None:
    """Draws measured Dice over fitted cost, a field for each target, as a PNG; the line is the prediction."""
    targets = calibration.measurements.targets
    columns = min(COLUMNS, len(targets))
    rows = -(-len(targets) // columns)
    figure, fields = plt.subplots(
        rows, columns, figsize=(4.2 * columns + 2, 3.6 * rows + 0.8), squeeze=False, sharey=True, layout="constrained"
    )
    try:
        for place in fields.flat[len(targets) :]:
            place.set_axis_off()
        for axes, target in zip(fields.flat, targets, strict=False):
            paths = [entry for entry in calibration.measurements.paths if entry.path[-1] == target]
            _draw_target(axes, calibration, target, paths)
        for axes in fields[:, 0]:
            axes.set_ylabel("measured Dice")
        title = f"{calibration.name} ({calibration.metric}): measured Dice over fitted cost"
        figure.suptitle(f"{title}\n{calibration.measurements.words}", fontsize=11)
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _draw_target(axes: plt.Axes, calibration: Calibration, target: str, paths: list[MeasuredPath]) -> None:
    costs, dice = np.array([entry.cost for entry in paths]), np.array([entry.dice for entry in paths])
    ends = np.array([costs.min(), costs.max()])
    line = dice.mean() - calibration.dice_per_cost * (ends - costs.mean())
    axes.plot(ends, line, color="#bab0ac", zorder=1)
    axes.fill_between(ends, line - calibration.residual, line + calibration.residual, color="#bab0ac", alpha=0.25)
    axes.scatter(costs, dice, color="#4c78a8", s=24, zorder=2)
    for entry in _named(paths):
        axes.annotate(_short(entry), (entry.cost, entry.dice), (4, 3), textcoords="offset points", fontsize=7)
    axes.set_title(target, loc="left", fontsize=9)
    axes.set_xlabel("cost (lower is better)")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _named(paths: list[MeasuredPath]) -> list[MeasuredPath]:
    """The paths that get a name: all, or where these would cover each other, scratch and both ends of Dice."""
    if len(paths) <= MOST_NAMES:
        return paths
    ordered = sorted(paths, key=lambda entry: entry.dice)
    middle = ordered[MOST_NAMES // 2 : -(MOST_NAMES // 2)]
    return [entry for entry in ordered if entry not in middle or len(entry.path) == 1]


def _short(entry: MeasuredPath) -> str:
    sources = entry.path[:-1]
    return "\N{RIGHTWARDS ARROW}".join(str(dataset_id(name)) for name in sources) if sources else "scratch"

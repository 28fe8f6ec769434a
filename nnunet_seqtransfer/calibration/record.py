"""The record of a calibration: weights fitted on measured transfers, what they rest on, and what they predict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.errors import RecordError, SequenceError
from nnunet_seqtransfer.storage import from_json, read_record, write_record

FORMAT = 1
KIND = "calibration"
NORMAL_95 = 1.959964
"""The 97.5 % point of the standard normal distribution."""
NO_MEASUREMENT = (
    "the weights of the metric and the constants of the cost are guesses and rest on no measured transfer; "
    "nnUNetv2_seq_calibrate fits them"
)
"""What the shipped defaults rest on."""


@dataclass(frozen=True)
class MeasuredPath:
    """One path that was trained, and how well it did."""

    path: tuple[str, ...]
    "Full names, the target last; the target alone is scratch."
    dice: float
    "Mean Dice of the target, 0 to 1, averaged over its runs."
    runs: int
    "Runs (seeds) that were averaged."
    cost: float
    "What the fitted constants let it cost."


@dataclass(frozen=True)
class RankingQuality:
    """How well one way to order paths meets the order of their Dice; means over the targets."""

    ranking: str
    "What ordered the paths."
    spearman: float
    "Spearman's rank correlation of Dice and minus the cost; 1 is the true order, 0 is no relation."
    weighted_tau: float
    "Kendall's tau in which exchanges among the best paths weigh more (Vigna 2015), -1 to 1."
    regret: float
    "Dice lost by training the path that comes first, against the best path measured."
    taus: tuple[float, ...]
    "The weighted tau of each target by itself."
    lead: tuple[float, float] | None = None
    "95 % bootstrap interval of the calibrated ranking's weighted tau minus this one's; None for the calibrated itself."


@dataclass(frozen=True)
class Measurements:
    """What a calibration rests on."""

    targets: tuple[str, ...]
    "Full names of the targets."
    paths: tuple[MeasuredPath, ...]
    "Every path that was used."
    constants: int
    "Constants that were fitted to them, exponents left out."
    free_weights: bool
    "Whether each component has a weight of its own; else the metric's default weights keep their proportions."
    exponents_chosen: bool
    "Whether the exponents were chosen by targets left out; else they are defaults."
    correlation: float
    "Of Dice with minus the fitted cost, within targets, on the very paths it was fitted to."
    run_noise: float | None
    "Standard deviation of Dice between runs of one path; None where no path has two."
    left_out: str
    "What was held out for the ranking: target (one after the other) or path."
    held_out: tuple[RankingQuality, ...]
    "The calibrated ranking on what was held out, then the rankings that need no calibration."
    intervals: dict[str, tuple[float, float]]
    "95 % bootstrap interval of each constant, by its name."
    notes: tuple[str, ...] = ()
    "What a reader should know, a sentence each."

    @property
    def not_beaten(self) -> tuple[RankingQuality, ...]:
        """Rankings without any fit that the calibrated one is not shown to beat on what was held out."""
        return tuple(other for other in self.held_out if other.lead is not None and other.lead[0] <= 0)

    @property
    def words(self) -> str:
        """What it rests on: "12 paths to 2 targets (30 runs)"."""
        runs, targets = sum(path.runs for path in self.paths), len(self.targets)
        return f"{len(self.paths)} paths to {targets} target{'s' if targets > 1 else ''} ({runs} runs)"


@dataclass(frozen=True)
class Calibration:
    """Constants of the cost of a path, fitted on measured transfers.

    A path costs start_scale * n ** -start_exponent, plus for each hop d ** p + stage_cost, where n is the number of
    labelled cases of its first task, d the fitted distance and p = combination.exponent, which is the hop exponent
    too. The scale is such that the hops that were measured cost 1 on average, stage_cost left out.
    """

    name: str
    "What users call it: the stem of its file."
    metric: str
    "Name of the metric whose components are weighed."
    metric_version: int
    "Version of that metric."
    combination: Combination
    "Fitted weights, exponent, and a unit of 1."
    start_scale: float
    "Cost of starting on a single case, >= 0."
    start_exponent: float
    "How fast the start gets cheaper with more cases, >= 0."
    stage_cost: float
    "What each hop costs on top, >= 0."
    dice_per_cost: float
    "Fall of Dice per unit of cost, > 0."
    dice_per_cost_interval: tuple[float, float]
    "Its 95 % bootstrap interval, >= 0."
    residual: float
    "Standard deviation of a single measured Dice around the prediction, within targets."
    measurements: Measurements = field(repr=False)
    "What it rests on."
    version: str = __version__
    "Version of this package that made it."

    def gain(self, cost_from: float, cost_to: float) -> tuple[float, float, float]:
        """Predicted change of Dice from a path of one cost to one of another: mean, low, high; each within -1 to 1.

        Low and high bound the difference of two single runs with 95 % probability: the error of the slope, from its
        bootstrap interval, and the scatter of both runs (twice the residual's variance) are added in quadrature.

        Raises SequenceError where a cost is not finite.
        """
        change = cost_from - cost_to
        if not math.isfinite(change):
            raise SequenceError(f"no gain can be predicted between costs of {cost_from:g} and {cost_to:g}")
        mean = self.dice_per_cost * change
        ends = sorted(slope * change for slope in self.dice_per_cost_interval)
        scatter = NORMAL_95 * math.sqrt(2) * self.residual
        low = mean - math.hypot(max(0.0, mean - ends[0]), scatter)
        high = mean + math.hypot(max(0.0, ends[1] - mean), scatter)
        return _dice(mean), _dice(low), _dice(high)

    @property
    def origin(self) -> str:
        """In words, what the constants rest on."""
        return f"calibration {self.name}, fitted on {self.measurements.words}"


def _dice(change: float) -> float:
    return min(1.0, max(-1.0, change))


def require_metric(calibration: Calibration, metric: str, version: int) -> None:
    """Raises RecordError where the calibration was fitted for another metric, or another version of it."""
    if calibration.metric != metric:
        raise RecordError(
            f"the calibration {calibration.name} was fitted for the metric {calibration.metric}, the one in use is "
            f"{metric}; fit one with nnUNetv2_seq_calibrate -m {metric}, or use -m {calibration.metric}"
        )
    if calibration.metric_version != version:
        raise RecordError(
            f"the calibration {calibration.name} was fitted for version {calibration.metric_version} of the metric "
            f"{metric}, this is version {version}; run nnUNetv2_seq_affinity and nnUNetv2_seq_calibrate again"
        )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the record."""
    write_record(path, KIND, FORMAT, asdict(calibration))


def read_calibration(path: Path) -> Calibration:
    """Reads a record. Raises RecordError where it is missing, truncated, edited, or of a newer format."""
    remedy = "run nnUNetv2_seq_calibrate again"
    content = read_record(path, KIND, FORMAT, remedy)
    try:
        measurements = _measurements(content.pop("measurements"))
        combination = from_json(content.pop("combination"), Combination)
        interval = tuple(content.pop("dice_per_cost_interval"))
        return Calibration(
            combination=combination, dice_per_cost_interval=interval, measurements=measurements, **content
        )
    except (TypeError, KeyError, AttributeError, ValueError, IndexError, SequenceError) as error:
        raise RecordError(f"the calibration file lacks entries ({error}): {path}; {remedy}") from None


def _measurements(content: dict[str, Any]) -> Measurements:
    entries: dict[str, Any] = {
        "targets": tuple(content.pop("targets")),
        "paths": tuple(MeasuredPath(**{**path, "path": tuple(path["path"])}) for path in content.pop("paths")),
        "held_out": tuple(
            RankingQuality(**{**entry, "taus": tuple(entry["taus"]), "lead": entry["lead"] and tuple(entry["lead"])})
            for entry in content.pop("held_out")
        ),
        "intervals": {name: (ends[0], ends[1]) for name, ends in content.pop("intervals").items()},
        "notes": tuple(content.pop("notes")),
    }
    return Measurements(**entries, **content)

"""The record of a comparison: which paths were trained, what each reached on unseen cases, and what that shows."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, dataset_id, results_folder
from nnunet_seqtransfer.storage import read_record, replacing, write_record

FORMAT = 1
KIND = "comparison"
Role = Literal["scratch", "long", "direct", "planned", "runner-up", "largest", "modality", "random", "pair", "own"]
"""Why an arm is in; "long": scratch as long as a path, "direct": a nearest source, "modality": by names of channels."""


@dataclass(frozen=True)
class Arm:
    """One path to the target, trained in the same way as all others."""

    name: str
    """For people, unique in a comparison: "scratch", "21 -> 24 -> 4"."""
    sources: tuple[str, ...]
    "Full names of the sources in their order; none is scratch."
    roles: tuple[Role, ...]
    "Why it is in; several where, say, the nearest source is the largest too."
    extra_epochs: int = 0
    "Epochs of the target's stage on top of the usual ones: above 0 for scratch trained as long as a whole path."


@dataclass(frozen=True)
class Score:
    """One label of one case, predicted by one model."""

    arm: str
    "Name of the arm."
    fold: str
    "Fold of the target."
    seed: int
    "Seed of the trainings."
    case: str
    "Identifier of the case."
    label: str
    "Name of the label or region."
    dice: float
    "0 to 1; NaN where the label is neither in the reference nor in the prediction."
    nsd: float
    "Normalised surface distance, 0 to 1; NaN as Dice."


@dataclass(frozen=True)
class Curve:
    """How the target's stage of one arm learned."""

    arm: str
    "Name of the arm."
    fold: str
    "Fold of the target."
    seed: int
    "Seed of the trainings."
    pseudo_dice: tuple[float, ...]
    "nnU-Net's pseudo Dice after each epoch, mean over the labels; NaN where no label has one."
    ema: tuple[float, ...]
    "Its exponential moving average as nnU-Net computes it: 0.9 of the last value, 0.1 of the new one."
    dice: float
    "Mean Dice of the evaluated cases at the end, as nnU-Net's foreground mean."


@dataclass(frozen=True)
class Difference:
    """An arm against another on the same cases; each case is averaged over its labels and over the seeds first."""

    arm: str
    "Name of the arm."
    against: str
    "Name of the other."
    metric: Literal["dice", "nsd"]
    "What is compared."
    mean: float
    "Mean difference over the cases; above 0 where the arm is better."
    low: float
    "Lower end of its 95 % bootstrap interval; NaN below two cases."
    high: float
    "Upper end."
    p: float
    "Of Wilcoxon's signed-rank test, two-sided; NaN below two cases."
    p_holm: float
    "Corrected by Holm within its family: all arms against scratch, or the planned path against the others; by metric."
    cases: int
    "Cases that both have."


@dataclass(frozen=True)
class Saving:
    """How early an arm reaches what another arm has at its end: mean over folds and seeds of the smoothed curves."""

    arm: str
    "Name of the arm."
    against: str
    "Name of the other."
    reached: float
    "Smoothed pseudo Dice of the other at its end, see `curves.smoothed`."
    epochs: int | None
    "Epochs of the target's stage after which the arm has as much; None where it never has."
    of: int
    "Epochs of the other arm."

    @property
    def share(self) -> float | None:
        """Epochs needed, as a share of the other's."""
        return None if self.epochs is None else self.epochs / self.of


@dataclass(frozen=True)
class Ranking:
    """How well something that needs no training ranked the measured direct transfers."""

    metric: str
    """Name of the affinity metric, or of a trivial baseline ("largest source", "same modality", "random")."""
    spearman: float
    "Rank correlation of nearness and Dice; NaN where one of them does not vary."
    weighted_tau: float
    "Weighted Kendall's tau: exchanges at the top count more."
    regret: float
    "Best Dice minus that of its first choice."
    transfers: int
    "Direct transfers that were ranked."


@dataclass(frozen=True)
class Budget:
    """What a comparison trains, stages that arms share counted once."""

    stages: int
    "Trainings in all."
    finished: int
    "Of these, how many are finished."
    iterations: int
    "Iterations of those that are left."
    hours: float
    "About how long these take, in hours on the device asked for."
    target_iterations: int
    "Iterations of each arm's last stage: equal, but for scratch that is trained as long as a path."


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared."""

    target: str
    "Full name of the target."
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    folds: tuple[str, ...]
    "Folds of the target."
    seeds: tuple[int, ...]
    "Seeds of the trainings."
    tolerance: float
    "Of the normalised surface distance, in millimetres."
    evaluated_on: str
    "In words: which cases the scores are of."
    budget: Budget
    "As it was when the command was called last: `finished` by then, and what was left to do."
    arms: tuple[Arm, ...]
    "Scratch first where it is in."
    scores: tuple[Score, ...] = field(repr=False)
    "Of what is finished."
    curves: tuple[Curve, ...] = field(repr=False)
    "Of what is finished."
    differences: tuple[Difference, ...] = ()
    "Of arms that are finished for all folds and the same seeds as the other."
    savings: tuple[Saving, ...] = ()
    "Against scratch."
    rankings: tuple[Ranking, ...] = ()
    "None where fewer than three direct transfers are measured."
    provenance: Mapping[str, Any] = field(default_factory=dict)
    "Where it comes from: recipe, device, files and their SHA-256, versions."
    version: str = __version__
    "Version of this package that made it."

    @property
    def complete(self) -> bool:
        """Whether every arm is scored for every fold and seed."""
        there = {(score.arm, score.fold, score.seed) for score in self.scores}
        return len(there) == len(self.arms) * len(self.folds) * len(self.seeds)


def comparison_folder(
    target: str, plans: str, configuration: str, tag: str | None = None, test: str | None = None
) -> Path:
    """Where the record, its tables and pictures are kept; ``test``: full name of the test set's dataset."""
    name = f"compare_{plans}_{configuration}{f'_{tag}' if tag else ''}{f'_test{dataset_id(test)}' if test else ''}"
    return results_folder() / target / SEQTRANSFER_FOLDER / name


def comparison_path(
    target: str, plans: str, configuration: str, tag: str | None = None, test: str | None = None
) -> Path:
    """The record itself."""
    return comparison_folder(target, plans, configuration, tag, test) / "comparison.json"


def arm_name(sources: Iterable[str], target: str, extra_epochs: int = 0) -> str:
    """The name of an arm, by the numbers of its datasets."""
    numbers = [str(dataset_id(name)) for name in sources]
    if not numbers:
        return "scratch, as long" if extra_epochs else "scratch"
    return " -> ".join([*numbers, str(dataset_id(target))])


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Writes scores.csv and differences.csv for people, then the record beside them."""
    _write_table(path.with_name("scores.csv"), Score, comparison.scores)
    _write_table(path.with_name("differences.csv"), Difference, comparison.differences)
    write_record(path, KIND, FORMAT, _to_json(asdict(comparison)), compact=True)


def read_comparison(path: Path) -> Comparison:
    """Reads a record. Raises RecordError where it is missing, truncated, edited, or of another format."""
    remedy = "run nnUNetv2_seq_compare again"
    content = read_record(path, KIND, FORMAT, remedy)
    try:
        parts: dict[str, Any] = {
            name: tuple(kind(**_read_entry(kind, entry)) for entry in content.pop(name))
            for name, kind in _PARTS.items()
        }
        budget = Budget(**content.pop("budget"))
        provenance = content.pop("provenance")
        rest: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return Comparison(budget=budget, provenance=provenance, **parts, **rest)
    except (TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"the comparison lacks entries ({error}): {path}; {remedy}") from None


_PARTS: dict[str, type[Any]] = {
    "arms": Arm,
    "scores": Score,
    "curves": Curve,
    "differences": Difference,
    "savings": Saving,
    "rankings": Ranking,
}


def _read_entry(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_to_json` for one entry: NaN where a number is not there."""
    floats = {each.name for each in fields(kind) if each.type in ("float", "tuple[float, ...]")}
    return {name: _number(value) if name in floats else _tuple(value) for name, value in entry.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(item) for item in value)
    return math.nan if value is None else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _to_json(value: Any) -> Any:
    """Lists for tuples, and null for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_table(path: Path, kind: type[Any], entries: Iterable[Any]) -> None:
    with replacing(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [each.name for each in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)

"""The record of a comparison: trained paths, their Dice on unseen cases, and the differences."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, dataset_id, results_folder
from nnunet_seqtransfer.nnunet.validation import CaseDice
from nnunet_seqtransfer.storage import read_dataclass, replacing, write_dataclass
from nnunet_seqtransfer.tasks.path_syntax import numbers, whole_path
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

FORMAT = 3
"""Format 3 has arms that start from a model; without any, format 2 is written.

Format 1 (version 0.1.0) had surface distances and learning curves; it is refused, and made again in seconds."""
KIND = "comparison"
FILE, SCORES, DIFFERENCES, MEASUREMENTS = "comparison.json", "scores.csv", "differences.csv", "measurements.csv"


@dataclass(frozen=True)
class Arm:
    """One path to the target, trained in the same way as all others."""

    name: str
    """Unique name for people, such as "scratch" or "21 -> 24 -> 4"."""
    sources: tuple[str, ...]
    "Elements of the path before the target, see `path_syntax`; empty for scratch."
    roles: tuple[str, ...]
    "Reasons to train it, see `arms.KINDS`; several if the planned path is also the nearest source, say."
    extra_epochs: int = 0
    "Additional epochs on the target; above 0 only for scratch trained as long as a whole path."
    predicted: float | None = None
    "Gain in Dice over scratch that the plan predicts, -1 to 1; None without a plan or for a path it does not list."
    model: PretrainedModel | None = None
    "Model that the first stage starts from; None for random weights."


@dataclass(frozen=True)
class ModelScores:
    """One trained model with the Dice that it reaches on the evaluated cases."""

    arm: str
    "Name of the arm."
    fold: str
    "Fold of the target."
    seed: int
    "Training seed."
    cases: tuple[CaseDice, ...]
    "One entry per case and label."


@dataclass(frozen=True)
class Difference:
    """The mean Dice difference between two arms; each case is averaged over labels, folds and seeds first."""

    arm: str
    "Name of the arm."
    against: str
    "Name of the arm to subtract."
    mean: float
    "Mean difference over the cases; positive if the arm is better."
    low: float | None
    "Lower end of the 95 % bootstrap interval; None for fewer than two cases."
    high: float | None
    "Upper end of the interval; None for fewer than two cases."
    p: float | None
    "Two-sided p by Wilcoxon's signed-rank test; None for fewer than two cases."
    p_holm: float | None
    "p corrected by Holm for all comparisons with scratch, or for all comparisons with the planned path."
    cases: int
    "Cases that both arms have."


@dataclass(frozen=True)
class Ranking:
    """Agreement between a ranking (by a metric or a simple rule) and the measured direct transfers."""

    metric: str
    """Affinity metric, or "largest source", "same modality" or "random"."""
    spearman: float
    "Rank correlation between nearness and Dice, -1 to 1; 0 if either is constant."
    weighted_tau: float
    "Weighted Kendall's tau, which counts exchanges at the top more; 0 if either is constant."
    regret: float
    "Best measured Dice minus the first choice's Dice."
    transfers: int
    "Number of ranked transfers."


@dataclass(frozen=True)
class Budget:
    """The amount to train; a stage that several arms share counts once."""

    stages: int
    "Number of trainings."
    finished: int
    "Trainings that were finished when the command started."
    iterations: int
    "Iterations left to train."
    hours: float
    "Estimated hours for all that is left, with preprocessing and validation."
    target_iterations: int
    "Iterations per target stage, except for scratch trained as long as a path."


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared for one target."""

    target: str
    "Full name of the target."
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    folds: tuple[str, ...]
    "Folds of the target."
    seeds: tuple[int, ...]
    "Training seeds."
    test_set: str | None
    "Full name of the test set, or TARGET/imagesTs; None if folds are evaluated on their validation cases."
    cases: int
    "Number of evaluated cases."
    budget: Budget
    "State when the last call started."
    arms: tuple[Arm, ...]
    "Compared paths, scratch first."
    scores: tuple[ModelScores, ...] = field(repr=False)
    "Results for the finished models."
    differences: tuple[Difference, ...] = ()
    "Finished arms against scratch, and the planned path against the other arms."
    rankings: tuple[Ranking, ...] = ()
    "Quality of the distances; empty for fewer than three direct transfers."
    provenance: dict[str, Any] = field(default_factory=dict)
    "Recipe, device, versions, and files with their SHA-256."
    version: str = __version__
    "Package version that wrote the record."

    @property
    def complete(self) -> bool:
        """Return True if every arm is evaluated for every fold and seed."""
        done = {(one.arm, one.fold, one.seed) for one in self.scores}
        return len(done) == len(self.arms) * len(self.folds) * len(self.seeds)


def comparison_path(
    target: str, plans: str, configuration: str, tag: str | None = None, test: str | None = None
) -> Path:
    """Return the path of a record; the same folder holds tables, pictures and predictions.

    ``test`` is the full name of a test dataset.
    """
    # test sets have folders of their own, but share the trainings, which depend on the tag alone
    name = f"compare_{plans}_{configuration}{f'_{tag}' if tag else ''}{f'_test{dataset_id(test)}' if test else ''}"
    return results_folder() / target / SEQTRANSFER_FOLDER / name / FILE


def arm_name(sources: Sequence[str], target: str, extra_epochs: int = 0, model: PretrainedModel | None = None) -> str:
    """Return an arm's name in dataset numbers: "21+22 -> 24 -> 4", or "21* -> 4" from a model."""
    path = whole_path(sources, target)
    if path == (target,) and model is None:
        return "scratch, as long" if extra_epochs else "scratch"
    begin = [f"{numbers(model.dataset) if model.dataset else model.file.name}*"] if model else []
    return " -> ".join([*begin, *map(numbers, path)])


def write_comparison(path: Path, comparison: Comparison, measured: Sequence[Sequence[object]] = ()) -> None:
    """Write the tables scores.csv, differences.csv and measurements.csv, then the record next to them.

    ``measured`` has the rows for measurements.csv, see `differences.measurements`.
    """
    _write_table(
        path.with_name(SCORES),
        ("arm", "fold", "seed", "case", "label", "dice"),
        [
            (model.arm, model.fold, model.seed, one.case, one.label, one.dice)
            for model in comparison.scores
            for one in model.cases
        ],
    )
    header = ("arm", "against", "mean", "low", "high", "p", "p_holm", "cases")
    rows = [[getattr(one, name) for name in header] for one in comparison.differences]
    _write_table(path.with_name(DIFFERENCES), header, rows)
    _write_table(path.with_name(MEASUREMENTS), ("path", "target", "dice", "seed"), measured)
    # last: an existing record means that the tables are complete
    has_models = any(arm.model for arm in comparison.arms)
    write_dataclass(path, KIND, FORMAT if has_models else 2, comparison, compact=True)


def read_comparison(path: Path) -> Comparison:
    """Return the record at ``path``. Raises RecordError if it is missing, damaged, or has another format."""
    return read_dataclass(path, Comparison, KIND, FORMAT, "run nnUNetv2_seq_compare again; nothing is trained twice")


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)

"""A comparison: request, choice of the paths, and the record of what they reached on unseen cases."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, dataset_id, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.nnunet.validation import CaseDice
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.storage import read_dataclass, replacing, write_dataclass
from nnunet_seqtransfer.tasks.path_syntax import numbers, whole_path
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import WARMUP_EPOCHS, Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE
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
    "Reasons to train it, see `KINDS`; several if the planned path is also the nearest source, say."
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

    ``measured`` has the rows for measurements.csv, see `statistics.measurements`.
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


KINDS = ("scratch", "long", "direct", "planned", "runner-up")
"""Kinds of arms: the target alone; the target for as many iterations as the longest path; the nearest sources alone;
the plan's path; the plan's next sequences. Own paths come on top with the role "own"."""
RUNNERS_UP = 2
"""Number of sequences after the planned path."""
Sources = tuple[str, ...]
"""Elements of a path before the target, see `path_syntax`."""
Start = tuple[Sources, PretrainedModel | None]
"""Sources to train, and the model that the first stage starts from."""


@dataclass(frozen=True)
class CompareRequest:
    """Paths to compare, and how to train and evaluate them."""

    target: str
    "Name or number of the target."
    configuration: str = DEFAULT_CONFIGURATION
    "nnU-Net configuration."
    folds: tuple[str, ...] = ("0",)
    "Folds of the target."
    seeds: tuple[int, ...] = (0,)
    "Training seeds; every path is trained with each."
    plans: str = DEFAULT_PLANS
    "Name of the target's plans."
    affinity: Path | None = None
    "Affinity file to choose the paths by; None for the target's own, which is measured if it is missing."
    kinds: tuple[str, ...] = KINDS
    "Kinds to include, see `KINDS`."
    nearest: int = 2
    "Number of nearest sources to transfer from directly."
    paths: tuple[tuple[str, ...], ...] = ()
    "Additional paths: source names or numbers in order."
    recipe: Recipe = field(default_factory=Recipe)
    "Recipe for every stage; `seeds` replaces the seed."
    source_epochs: int = 250
    "Epochs per source stage."
    warmup_epochs: int = WARMUP_EPOCHS
    "Warm-up epochs for stages that start from another stage's weights."
    keep_heads: bool = True
    "True to keep segmentation heads if labels have equal names."
    replay: float = 0.0
    "Share of the batches of later stages from the datasets before, 0 to below 1."
    exclude_overlap: bool = False
    "True to train sources without cases that a fold validates on; if False, such cases are an error."
    test: str | None = None
    "Name or number of a test dataset; the target means imagesTs, None the folds' validation cases."
    mirroring: bool = True
    "True to predict the test set with nnU-Net's test time augmentation."
    tag: str | None = None
    "Name that keeps comparisons with different recipes apart."
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    "Device and checkpoints."
    model: PretrainedModel | None = None
    "A model whose weights one more arm starts from, without sources."
    min_coverage: float = DEFAULT_COVERAGE
    "Least share of the network's parameters that the model must provide, 0 to 1."


def choose_arms(
    affinity: Affinity,
    plan: SequencePlan | None,
    request: CompareRequest,
    own: Sequence[Sources] = (),
    without: str | None = None,
) -> tuple[Arm, ...]:
    """Return the arms, each path once with all roles: scratch first, then the planned path, then the others.

    Args:
        affinity: distances to the target; sources without local data (known by signature only) are left out.
        plan: the plan; None if neither the planned path nor runners-up are wanted.
        request: gives kinds, number of nearest sources, and source epochs.
        own: further paths by full names; the empty path is scratch.
        without: dataset that must not be a source, the test set.

    Raises SequenceError for an unknown kind, or if fewer than two paths are left.
    """
    unknown = [kind for kind in request.kinds if kind not in KINDS]
    if unknown:
        raise SequenceError(f"unknown kind of path {unknown[0]!r}; choose from {', '.join(KINDS)}")
    roles: dict[tuple[Start, int], list[str]] = {}
    for role, start in _wanted(affinity, plan, request, own, without):
        roles.setdefault((start, 0), []).append(role)
    # after all other paths: "long" depends on the longest of them
    longest = max((len(whole_path(path, affinity.target)) - 1 for (path, _), _ in roles), default=0)
    if "long" in request.kinds and longest:
        roles[((), None), longest * request.source_epochs] = ["long"]
    # scratch is what gains are measured against
    listed = [one for one in plan.candidates if len(one.path) > 1] if plan is not None else []
    gains = {plan.as_trained(one.path[:-1]): one.gain for one in listed} if plan is not None else {}
    arms = [
        Arm(
            name=arm_name(start[0], affinity.target, extra, start[1]),
            sources=start[0],
            roles=tuple(dict.fromkeys(names)),
            extra_epochs=extra,
            predicted=gains.get(start),
            model=start[1],
        )
        for (start, extra), names in roles.items()
    ]
    if len(arms) < 2:
        raise SequenceError(f"only {len(arms)} path to compare, at least two are needed; add more with -arms or -paths")
    # scratch and the plan first, so that an interrupted comparison has the pair that matters most
    return tuple(
        sorted(arms, key=lambda arm: ("scratch" not in arm.roles, "planned" not in arm.roles, len(arm.sources)))
    )


def _wanted(
    affinity: Affinity,
    plan: SequencePlan | None,
    request: CompareRequest,
    own: Sequence[Sources],
    without: str | None,
) -> Iterator[tuple[str, Start]]:
    tasks = [affinity.tasks[index] for index in affinity.ranking()]
    nearest = [task.dataset for task in tasks if task.registered and task.dataset != without]
    if "scratch" in request.kinds:
        yield "scratch", ((), None)
    if request.model is not None:
        yield "own", ((), request.model)
    if plan is not None and "planned" in request.kinds:
        yield "planned", plan.as_trained(plan.sources)
    if plan is not None and "runner-up" in request.kinds:
        yield from (("runner-up", plan.as_trained(path)) for path in _runners_up(plan, nearest))
    if "direct" in request.kinds:
        yield from (("direct", ((name,), None)) for name in nearest[: request.nearest])
    yield from (("own" if path else "scratch", (path, None)) for path in own)


def _runners_up(plan: SequencePlan, available: Sequence[str]) -> list[Sources]:
    """Return the plan's best allowed sequences (two sources or more), without the planned path."""
    # without the target, which is last
    paths = [candidate.path[:-1] for candidate in plan.candidates if not candidate.ruled_out]
    usable = {*available, *plan.models}
    found = [path for path in paths if len(path) > 1 and path != plan.sources and set(path) <= usable]
    return found[:RUNNERS_UP]

"""The record of a plan: the chosen path, what it is worth, what else was close, and which affinity it rests on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.planning.options import EpochTime, PlanOptions
from nnunet_seqtransfer.storage import read_dataclass, sha256, write_dataclass
from nnunet_seqtransfer.tasks.path_syntax import whole_path
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

FORMAT = 4
"""Format 4 has ready models; without any, format 3 is written."""
KIND = "sequence plan"
REMEDY = "run nnUNetv2_seq_plan again"


@dataclass(frozen=True)
class ReadyModel:
    """A finished model that a path can start from, so that its source is not trained."""

    dataset: str
    "Full name of the dataset that it was trained on."
    model: PretrainedModel
    "The checkpoint."
    coverage: float
    "Share of the target's network, without heads, that it gives, 0 to 1."
    channels: tuple[str, ...]
    "Input channel names."
    labels: tuple[str, ...]
    "Label or region names, without background."
    cases: int | None = None
    "Labelled cases of its dataset; None if unknown."


@dataclass(frozen=True)
class CandidatePath:
    """One path by dataset names and what it is expected to gain."""

    path: tuple[str, ...]
    "Full names in training order, the target last."
    gain: float
    "Expected gain over scratch of equal target epochs, in Dice; 0 for scratch."
    low: float
    "Lower end for that gain, 95 % interval for a single run."
    high: float
    "Upper end for the same interval."
    harm: float
    "Probability that the Dice ends below scratch, 0 to 1."
    epochs: float
    "Epochs that are still to train, all stages and folds together."
    gpu_hours: float
    "GPU hours that are still to train."
    ruled_out: Literal["", "must", "avoid", "cases", "budget"] = ""
    "Constraint that the path breaks; empty if it could be chosen."
    cost: float | None = None
    "Path cost by the published strategy; None elsewhere."
    clash: str = ""
    "Modalities of the last source and the target if they differ, such as ct against mr."


@dataclass(frozen=True)
class LongerScratch:
    """Scratch trained for as many iterations as the chosen path, or as direct transfer if scratch was chosen."""

    length: float
    "Iterations on the target, as a multiple of those of scratch."
    gpu_hours: float
    "GPU hours for that training."
    gain: float | None = None
    "Expected gain over scratch of ordinary length, in Dice; None if it was never measured."
    low: float | None = None
    "Lower end, 95 % interval."
    high: float | None = None
    "Upper end for the same interval."


@dataclass(frozen=True)
class LeftOut:
    """A dataset of the affinity that the plan does not use."""

    dataset: str
    "Full name."
    reason: Literal["signature", "overlap"]
    "Known by a signature file alone, so not trainable here; or holds cases of the target."


@dataclass(frozen=True)
class SequencePlan:
    """Path to train, and the expected gain."""

    target: str
    "Target's full name."
    plans: str
    "Target's plans name."
    configuration: str
    "nnU-Net configuration."
    sources: tuple[str, ...]
    "Elements of the path before the target, see `path_syntax`; none means training from scratch."
    strategy: str
    "Strategy name."
    metric: str
    "Metric name."
    affinity_file: str
    "Affinity's file name."
    candidates: tuple[CandidatePath, ...]
    "Best first; the chosen path is among them."
    affinity_sha256: str = ""
    "Affinity file's SHA-256."
    options: PlanOptions = field(default_factory=PlanOptions)
    "Options of the request."
    supported: bool = False
    "True if the interval of the chosen path's gain lies above 0."
    close: tuple[tuple[str, ...], ...] = ()
    "Paths that cannot be told apart from the chosen one: the resampled distances may turn both round, or 0.01 Dice."
    evidence: tuple[str, ...] = ()
    "Features that the gain of the chosen path, or of the best transfer if scratch was chosen, rests on."
    measured: tuple[int, int] = (0, 0)
    "Number of measured transfers and of targets that the gains were fitted on."
    calibration: str | None = None
    "Name of the user's measured transfers among them; None for the shipped ones alone."
    target_cases: int | None = None
    "Target's labelled cases; None if unknown."
    scratch_dice: float | None = None
    "Dice of the target trained from scratch; None if unknown. What is left to gain is 1 minus it."
    as_it_is: tuple[str, float] | None = None
    """Source with all labels of the target whose own network, without any further training, has the highest Dice on
    the target's labelled cases, and that Dice; None if there is none or nothing was probed."""
    resamples: int = 0
    "Resamples of the distances that `close` rests on; 0 if distances played no part."
    longer: LongerScratch | None = None
    "The rival of equal total epochs."
    gpu_hours: float = 0.0
    "GPU hours of the chosen path's stages that are still to train."
    epoch_time: EpochTime = field(default_factory=lambda: EpochTime(45.0, "published"))
    "Epoch time."
    finished: tuple[str, ...] = ()
    "Sources of the chosen path whose stage is trained and costs nothing."
    other_recipes: dict[str, tuple[int, int]] = field(default_factory=dict)
    "Sources of the chosen path whose stage is trained with other epochs and iterations, with these numbers."
    left_out: tuple[LeftOut, ...] = ()
    "Datasets of the affinity that were not used."
    communities: tuple[tuple[str, ...], ...] = ()
    "Sources by community, by the published strategy."
    models: dict[str, ReadyModel] = field(default_factory=dict)
    "Dataset -> ready model that every candidate path with this first source starts from."
    version: str = __version__
    "Package version that made the plan."

    @property
    def path(self) -> tuple[str, ...]:
        """Full names of the chosen path, the target last."""
        return whole_path(self.sources, self.target)

    @property
    def model(self) -> ReadyModel | None:
        """The ready model that the chosen path starts from; None if every source is trained."""
        return self.models.get(self.path[0])

    @property
    def to_train(self) -> tuple[str, ...]:
        """Full names of the sources that are trained: all but the one of a ready model."""
        return self.as_trained(self.sources)[0]

    def as_trained(self, sources: tuple[str, ...]) -> tuple[tuple[str, ...], PretrainedModel | None]:
        """Return the sources of a path that are trained, and the ready model before them, if there is one."""
        ready = self.models.get(sources[0]) if sources else None
        return (sources[1:], ready.model) if ready else (sources, None)

    def starred(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return a path with a star after the first source if it is a ready model."""
        return (f"{path[0]}*", *path[1:]) if path[0] in self.models else path

    @property
    def chosen(self) -> CandidatePath:
        """The candidate that was chosen."""
        return next(entry for entry in self.candidates if entry.path == self.path)


def plan_file(target: str, plans: str, configuration: str) -> Path:
    """Return where the plan of a target is kept."""
    return cache_folder(target) / f"sequence_{plans}_{configuration}.json"


def write_plan(path: Path, plan: SequencePlan) -> None:
    """Write the record."""
    write_dataclass(path, KIND, FORMAT if plan.models else 3, plan)


def read_plan(path: Path) -> SequencePlan:
    """Return a record. Raise RecordError if it is missing, truncated, edited, or of an older or newer format."""
    return read_dataclass(path, SequencePlan, KIND, FORMAT, REMEDY)


def changed_affinity(plan: SequencePlan) -> str | None:
    """Return a line for people if the affinity next to the plan is not the one that the plan rests on, else None.

    An affinity kept elsewhere (``-a``) or deleted is not looked at.
    """
    path = cache_folder(plan.target) / plan.affinity_file
    if not path.is_file() or sha256(path) == plan.affinity_sha256:
        return None
    return f"the affinity of {plan.target} has changed since this plan was made; nnUNetv2_seq_plan makes a new one"

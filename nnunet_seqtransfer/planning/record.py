"""The record of a plan: the path, why it was chosen, how sure that is, and which affinity it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.storage import read_record, sha256, write_record

FORMAT = 2
KIND = "sequence plan"


@dataclass(frozen=True)
class CandidatePath:
    """One path by dataset names, and its cost part by part."""

    path: tuple[str, ...]
    "Full names, the target last."
    cost: float
    "Sum of the parts."
    start_cost: float
    "Of training the first from nothing."
    hop_costs: tuple[float, ...]
    "Of each hop."
    search_cost: float
    "The published strategy's distance from landmark to target; 0 elsewhere."
    gpu_hours: float = 0.0
    "Of its stages that are still to train."
    ruled_out: str = ""
    "Why it could not be chosen, as a clause; empty where it could."


@dataclass(frozen=True)
class Win:
    """How often one path is chosen when the cases are drawn again."""

    path: tuple[str, ...]
    "Full names, the target last."
    share: float
    "Of the resamples, 0 to 1."


@dataclass(frozen=True)
class Against:
    """The cheapest path against the cheapest of a simpler kind."""

    path: tuple[str, ...]
    "That simpler path: full names, the target last."
    saved: float
    "What the cheapest path costs less."
    low: float
    "Lower end of the 95 % interval of that."
    high: float
    "Upper end."
    share: float
    "Share of the resamples in which it costs less than every path of that kind."


@dataclass(frozen=True)
class Gain:
    """The predicted change of Dice from another path to the chosen one."""

    path: tuple[str, ...]
    "That other path: full names, the target last."
    mean: float
    "Predicted change, -1 to 1."
    low: float
    "Lower end of the 95 % interval of a single run."
    high: float
    "Upper end."


@dataclass(frozen=True)
class SequencePlan:
    """What to train, and why."""

    target: str
    "Full name of the target."
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    sources: tuple[str, ...]
    "Full names of the sources in their order; none means training from scratch."
    strategy: str
    "Name of the strategy."
    metric: str
    "Name of the metric."
    affinity_file: str
    "File name of the affinity that it rests on."
    candidates: tuple[CandidatePath, ...]
    "Cheapest first."
    explanation: tuple[str, ...]
    "Why, a sentence each."
    affinity_sha256: str = ""
    "SHA-256 of that file."
    options: PlanOptions = field(default_factory=PlanOptions)
    "What was asked for."
    constants: Mapping[str, float] = field(default_factory=dict)
    "Constants of the cost, by their name in the cost model."
    calibration: str | None = None
    "Name of the calibration that the constants come from; None where they are guesses or given."
    resamples: int = 0
    "Resamples of the cases that the shares count; 0 where there are none."
    wins: tuple[Win, ...] = ()
    "Every path chosen in some resample, the most frequent first."
    compared: tuple[Against, ...] = ()
    "The cheapest path against simpler kinds, the simplest first."
    supported: bool | None = None
    "Whether the data tell the cheapest path from all simpler ones; None where nothing was resampled or compared."
    gains: tuple[Gain, ...] = ()
    "Predicted changes of Dice; none without a calibration."
    gpu_hours: float = 0.0
    "Of the chosen path's stages that are still to train."
    left_out: tuple[str, ...] = ()
    "Datasets of the affinity that cannot be trained on here."
    version: str = __version__
    "Version of this package that made it."


def plan_path(target: str, plans: str, configuration: str) -> Path:
    """Where the plan of a target is kept."""
    return cache_folder(target) / f"sequence_{plans}_{configuration}.json"


def write_plan(path: Path, plan: SequencePlan) -> None:
    """Writes the record."""
    write_record(path, KIND, FORMAT, asdict(plan))


def read_plan(path: Path) -> SequencePlan:
    """Reads a record. Raises RecordError where it is missing, truncated, edited, or of another format."""
    remedy = "run nnUNetv2_seq_plan again"
    content = read_record(path, KIND, FORMAT, remedy)
    if "affinity_sha256" not in content:
        raise RecordError(f"the sequence plan was made by an older version: {path}; {remedy}")
    try:
        records: dict[str, Any] = {
            "candidates": _records(CandidatePath, content.pop("candidates")),
            "wins": _records(Win, content.pop("wins")),
            "compared": _records(Against, content.pop("compared")),
            "gains": _records(Gain, content.pop("gains")),
            "options": PlanOptions.from_json(content.pop("options")),
        }
        return SequencePlan(**records, **{name: _tuple(value) for name, value in content.items()})
    except (TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"the sequence plan lacks entries ({error}): {path}; {remedy}") from None


def changed_affinity(plan: SequencePlan) -> str | None:
    """A line for a user where the affinity beside the plan is not the one that it rests on any more, else None.

    An affinity kept elsewhere (``-a``), or deleted since, is not looked at.
    """
    path = cache_folder(plan.target) / plan.affinity_file
    if not path.is_file() or sha256(path) == plan.affinity_sha256:
        return None
    return f"the affinity of {plan.target} has changed since this plan was made; nnUNetv2_seq_plan makes a new one"


def _records(kind: type[Any], entries: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(kind(**{name: _tuple(value) for name, value in entry.items()}) for entry in entries)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

"""The record of a plan: the path, why it was chosen, and which affinity it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.affinity import Affinity
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.host.folders import cache_folder
from nnunet_seqtransfer.sequence.explanation import explain
from nnunet_seqtransfer.sequence.planner import SequencePlanner
from nnunet_seqtransfer.sequence.problem import Candidate, SequenceProblem
from nnunet_seqtransfer.storage import read_record, write_record

FORMAT = 1
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
    version: str = field(default=__version__)
    "Version of this package that made it."


def make_plan(
    affinity: Affinity, affinity_file: Path, planner: SequencePlanner, strategy: str, max_sources: int, top: int
) -> SequencePlan:
    """Plans a sequence on an affinity. Raises SequenceError where nothing can be planned."""
    problem = SequenceProblem.checked(
        affinity.names,
        affinity.matrix(),
        len(affinity.names) - 1,
        [task.labelled_cases for task in affinity.tasks],
        channels=[task.channels for task in affinity.tasks],
        labels=[task.labels for task in affinity.tasks],
    )
    decision = planner.plan(problem, max_sources, top)
    return SequencePlan(
        target=affinity.target,
        plans=affinity.plans,
        configuration=affinity.configuration,
        sources=tuple(problem.names[index] for index in decision.chosen.path[:-1]),
        strategy=strategy,
        metric=affinity.metric,
        affinity_file=affinity_file.name,
        candidates=tuple(_named(candidate, problem) for candidate in decision.candidates),
        explanation=explain(decision, problem),
    )


def _named(candidate: Candidate, problem: SequenceProblem) -> CandidatePath:
    return CandidatePath(
        path=tuple(problem.names[index] for index in candidate.path),
        cost=candidate.cost,
        start_cost=candidate.start_cost,
        hop_costs=candidate.hop_costs,
        search_cost=candidate.search_cost,
    )


def plan_path(target: str, plans: str, configuration: str) -> Path:
    """Where the plan of a target is kept."""
    return cache_folder(target) / f"sequence_{plans}_{configuration}.json"


def write_plan(path: Path, plan: SequencePlan) -> None:
    """Writes the record."""
    write_record(path, KIND, FORMAT, asdict(plan))


def read_plan(path: Path) -> SequencePlan:
    """Reads a record. Raises RecordError where it is missing, truncated, edited, or of a newer format."""
    remedy = "run nnUNetv2_seq_plan again"
    content = read_record(path, KIND, FORMAT, remedy)
    try:
        candidates = tuple(
            CandidatePath(**{**entry, "path": tuple(entry["path"]), "hop_costs": tuple(entry["hop_costs"])})
            for entry in content.pop("candidates")
        )
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return SequencePlan(candidates=candidates, **{**content, **lists})
    except (TypeError, KeyError) as error:
        raise RecordError(f"the sequence plan lacks entries ({error}): {path}; {remedy}") from None

"""From an affinity to a plan: the problem and its constraints, the decision and how sure it is, and the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.affinity import Affinity
from nnunet_seqtransfer.affinity.calibration import Calibration
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.resamples import read_resamples
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.sequence.cost import CostModel
from nnunet_seqtransfer.sequence.explanation import explain
from nnunet_seqtransfer.sequence.options import (
    AUTO,
    STRATEGIES,
    PlanOptions,
    cost_model,
    plan_constraints,
    prices,
    to_train,
)
from nnunet_seqtransfer.sequence.plan import Against, CandidatePath, Gain, SequencePlan, Win
from nnunet_seqtransfer.sequence.planner import planner
from nnunet_seqtransfer.sequence.prices import EpochTime, Finished, find_epoch_time, find_finished
from nnunet_seqtransfer.sequence.problem import Candidate, Constraints, Decision, SequenceProblem
from nnunet_seqtransfer.sequence.robustness import Robustness, assess, chooser, fall_back
from nnunet_seqtransfer.sequence.sensitivity import Sensitivity, sensitivity
from nnunet_seqtransfer.sequence.verdict import certainty, effort, fallen_back, gain_sentences, gains
from nnunet_seqtransfer.storage import sha256

EVERY = 1_000_000
"""More candidates than the published strategy ever has: all of them compete in the resamples."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that a decision depends on, ready for the planners."""

    affinity: Affinity
    "What was measured."
    affinity_file: Path
    "Where that is kept; its resamples lie beside it."
    options: PlanOptions
    "What was asked for."
    calibration: Calibration | None
    "Where the constants come from; None for guesses or given ones."
    problem: SequenceProblem
    "The tasks that can be trained on."
    model: CostModel
    "The scale of the costs."
    constraints: Constraints
    "The constraints by index."
    epoch: EpochTime
    "How long an epoch takes."
    finished: Finished
    "What is trained already."
    resamples: NDArray[np.floating] | None = field(repr=False)
    "(B, n, n) distances of the problem's tasks, NaN where a pair was not resampled; None where there are none."
    left_out: tuple[str, ...]
    "Tasks of the affinity that cannot be trained on here."
    trained_for: str
    "The target whose source stages are used: the plan's own, or another that shares them."


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was decided."""

    cheapest: Decision
    "By the distances as they are."
    robustness: Robustness | None
    "What the resamples say of it."
    decision: Decision
    "What will be trained: with strategy auto perhaps something simpler, with several targets something shared."
    sensitivity: Sensitivity
    "How the cheapest path of all changes with the constants."
    notes: tuple[str, ...] = ()
    "Sentences on why that differs from the cheapest."


def prepare(
    affinity: Affinity,
    affinity_file: Path,
    options: PlanOptions,
    calibration: Calibration | None = None,
    trained_for: str | None = None,
) -> Setting:
    """The setting for an affinity. Raises SequenceError where nothing can be planned on it as asked."""
    if options.strategy not in STRATEGIES:
        raise SequenceError(f"unknown strategy {options.strategy!r}; choose one of {', '.join(STRATEGIES)}")
    kept = [place for place, task in enumerate(affinity.tasks) if task.registered]
    tasks = [affinity.tasks[place] for place in kept]
    combination = calibration.combination if calibration else affinity.combination
    problem = SequenceProblem.checked(
        [task.dataset for task in tasks],
        (combination.distances(affinity.components) if calibration else affinity.matrix())[np.ix_(kept, kept)],
        len(tasks) - 1,
        [task.labelled_cases for task in tasks],
        channels=[task.channels for task in tasks],
        labels=[task.labels for task in tasks],
    )
    stages = (trained_for or affinity.target, affinity.plans, affinity.configuration)
    epoch = find_epoch_time(options.training, *stages)
    finished = find_finished(*stages, options.training)
    return Setting(
        affinity=affinity,
        affinity_file=affinity_file,
        options=options,
        calibration=calibration,
        problem=problem,
        model=cost_model(options, affinity.unit, calibration),
        constraints=plan_constraints(options, problem, epoch, finished),
        epoch=epoch,
        finished=finished,
        resamples=_resamples(affinity, affinity_file, combination, kept),
        left_out=tuple(task.dataset for task in affinity.tasks if not task.registered),
        trained_for=trained_for or affinity.target,
    )


def decide(setting: Setting) -> Outcome:
    """Chooses a path and looks how sure that is. Raises SequenceError where no path obeys the constraints."""
    options, problem, constraints = setting.options, setting.problem, setting.constraints
    published = options.strategy == "published"
    strategy = STRATEGIES[0] if options.strategy == AUTO else options.strategy
    made = planner(strategy, setting.model, options.communities)
    everything = made.plan(problem, options.max_sources, EVERY if published else options.top, constraints)
    robustness = None
    if setting.resamples is not None:
        choose = chooser(made, problem, everything, options.max_sources, constraints)
        robustness = assess(problem, setting.resamples, everything, choose, setting.model, constraints)
    cheapest = _shortened(everything, options.top)
    decision = fall_back(cheapest, robustness) if options.strategy == AUTO else cheapest
    weak = robustness.unsupported if robustness else None
    notes = (fallen_back(weak, problem),) if weak and decision is not cheapest else ()
    flips = sensitivity(problem, setting.model, options.max_sources, constraints)
    return Outcome(cheapest, robustness, decision, flips, notes)


def make_plan(setting: Setting, outcome: Outcome) -> SequencePlan:
    """The record of what was decided."""
    problem, robustness, decision = setting.problem, outcome.robustness, outcome.decision
    chosen = decision.chosen
    others = [decision.best("direct"), decision.best("scratch") if problem.case_counts else None]
    gained = gains(setting.calibration, chosen.path, [other.path for other in others if other], setting.model, problem)
    explanation = (
        *explain(decision, problem),
        *certainty(outcome.cheapest, robustness, problem),
        *outcome.notes,
        *gain_sentences(setting.calibration, gained, problem, setting.affinity.calibration),
        *effort(chosen.path, setting.options, setting.constraints, problem, setting.epoch, setting.finished),
        *_shared(setting),
        *_left_out(setting.left_out),
    )
    compared = robustness.comparisons if robustness else ()
    return SequencePlan(
        target=setting.affinity.target,
        plans=setting.affinity.plans,
        configuration=setting.affinity.configuration,
        sources=named(chosen.path[:-1], problem),
        strategy=setting.options.strategy,
        metric=setting.affinity.metric,
        affinity_file=setting.affinity_file.name,
        candidates=tuple(_candidate(candidate, setting, decision) for candidate in decision.candidates),
        explanation=explanation,
        affinity_sha256=sha256(setting.affinity_file),
        options=setting.options,
        constants=asdict(setting.model),
        calibration=setting.calibration.name if setting.calibration else None,
        resamples=robustness.resamples if robustness else 0,
        wins=tuple(Win(named(path, problem), share) for path, share in robustness.wins) if robustness else (),
        compared=tuple(Against(named(c.path, problem), c.saved, c.low, c.high, c.share) for c in compared),
        supported=robustness.unsupported is None if robustness and compared else None,
        gains=tuple(Gain(named(path, problem), *gain) for path, gain in gained),
        gpu_hours=gpu_hours(chosen.path, setting),
        flips=outcome.sensitivity.flips,
        left_out=setting.left_out,
        trained_for=setting.trained_for if setting.trained_for != setting.affinity.target else None,
    )


def named(path: tuple[int, ...], problem: SequenceProblem) -> tuple[str, ...]:
    """A path by full names."""
    return tuple(problem.names[task] for task in path)


def gpu_hours(path: tuple[int, ...], setting: Setting) -> float:
    """GPU hours of the stages of ``path`` that are still to train."""
    hours = prices(setting.options.training, setting.problem, setting.epoch, "GPU hours")
    return sum(hours[part[-1]] for part in to_train(path, setting.constraints))


def _resamples(
    affinity: Affinity, affinity_file: Path, combination: Combination, kept: list[int]
) -> NDArray[np.floating] | None:
    """(B, n, n) resampled distances of the kept tasks, NaN for tasks of a single case, which do not scatter."""
    every = read_resamples(affinity_file, affinity, combination)
    if every is None:
        return None
    single = [place for place, task in enumerate(affinity.tasks) if len(task.sampled_cases) < 2]
    every[:, single, :] = np.nan
    every[:, :, single] = np.nan
    return every[:, np.asarray(kept)[:, None], np.asarray(kept)]


def _shortened(decision: Decision, top: int) -> Decision:
    """``decision`` with its ``top`` first candidates, and those that it names."""
    kinds = [
        next((path for path in decision.candidates if path.kind == kind and path.path not in ruled_out), None)
        for kind in ("direct", "sequence")
        for ruled_out in ({}, decision.ruled_out)
    ]
    needed = {decision.chosen, *(path for path in kinds if path), decision.best("scratch")}
    kept = (path for place, path in enumerate(decision.candidates) if place < top or path in needed)
    return replace(decision, candidates=tuple(kept))


def _candidate(candidate: Candidate, setting: Setting, decision: Decision) -> CandidatePath:
    return CandidatePath(
        path=named(candidate.path, setting.problem),
        cost=candidate.cost,
        start_cost=candidate.start_cost,
        hop_costs=candidate.hop_costs,
        search_cost=candidate.search_cost,
        gpu_hours=gpu_hours(candidate.path, setting),
        ruled_out=decision.ruled_out.get(candidate.path, ""),
    )


def _shared(setting: Setting) -> tuple[str, ...]:
    if setting.trained_for == setting.affinity.target:
        return ()
    return (f"Its source stages are those trained for {setting.trained_for}, which has plans that train them alike.",)


def _left_out(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"Left out, since known only by a signature file and not registered here: {', '.join(names)}.",)

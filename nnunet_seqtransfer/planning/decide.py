"""From a setting to a plan: the decision, how sure it is, and the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from nnunet_seqtransfer.planning.explanation import explain
from nnunet_seqtransfer.planning.options import AUTO, STRATEGIES
from nnunet_seqtransfer.planning.planner import planner
from nnunet_seqtransfer.planning.problem import Candidate, Decision
from nnunet_seqtransfer.planning.record import Against, CandidatePath, Gain, SequencePlan, Win
from nnunet_seqtransfer.planning.robustness import Robustness, assess, chooser, fall_back
from nnunet_seqtransfer.planning.setting import Setting, gpu_hours, named
from nnunet_seqtransfer.planning.verdict import certainty, effort, fallen_back, gain_sentences, gains
from nnunet_seqtransfer.storage import sha256

EVERY = 1_000_000
"""More candidates than the published strategy ever has: all of them compete in the resamples."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was decided."""

    cheapest: Decision
    "By the distances as they are."
    robustness: Robustness | None
    "What the resamples say of it."
    decision: Decision
    "What will be trained: with strategy auto perhaps something simpler."
    notes: tuple[str, ...] = ()
    "Sentences on why that differs from the cheapest."


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
    return Outcome(cheapest, robustness, decision, notes)


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
        left_out=setting.left_out,
    )


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


def _left_out(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"Left out, since known only by a signature file and not registered here: {', '.join(names)}.",)

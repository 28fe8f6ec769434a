"""The report in sentences: the decision, its reasons, and the result."""

from __future__ import annotations

from nnunet_seqtransfer.nnunet.validation import case_dice, mean_dice
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report.page.findings import Findings
from nnunet_seqtransfer.report.page.naming import arrows, counted, decimals, listed, path_words


def decision(found: Findings) -> str:
    """What is trained and why, in one sentence."""
    request = found.run.request
    begin = f", beginning with the weights of {request.landmark.file.name}" if request.landmark else ""
    if request.sources:
        what = f"{request.target} is trained after {' and then '.join(request.sources)}{begin}"
    else:
        what = f"{request.target} is trained {'alone' if begin else 'from scratch'}{begin}"
    return f"{what}{_reason(found)}."


def _reason(found: Findings) -> str:
    """Why, as what follows the first half of a sentence."""
    if found.plan is None:
        return ", as it was asked for: there is no plan for this target"
    if not found.follows_plan:
        return f", as it was asked for: the plan proposes {_proposal(found.plan)}"
    prices = {entry.path: entry for entry in found.plan.candidates}
    chosen = prices.get((*found.plan.sources, found.plan.target))
    if chosen is None or not chosen.cost > 0:
        return ", as planned"
    allowed = [entry for entry in found.plan.candidates if not entry.ruled_out and entry.cost > 0]
    is_cheapest = all(chosen.cost <= entry.cost for entry in allowed)
    which = "the cheapest" if is_cheapest else "the simplest that the data cannot tell from the cheapest"
    other = _other(found.plan, allowed)
    against = f" against {decimals(other[1].cost, 2)} {other[0]}" if other else ""
    certain = {True: "; the data support it", False: "; the data do not tell it from simpler ones", None: ""}
    support = certain[found.plan.supported] if is_cheapest else ""
    price = f"at a cost of {decimals(chosen.cost, 2)}{against}"
    return f": of the paths that were compared this is {which}, {price}{support}"


def _other(plan: SequencePlan, allowed: list[CandidatePath]) -> tuple[str, CandidatePath] | None:
    """What the chosen path is held against: scratch, or the best transfer where scratch was chosen."""
    if plan.sources:
        scratch = next((entry for entry in allowed if len(entry.path) == 1), None)
        return None if scratch is None else ("for training from scratch", scratch)
    best = min((entry for entry in allowed if len(entry.path) > 1), key=lambda entry: entry.cost, default=None)
    return None if best is None else (f"for the best transfer, {path_words(best.path)}", best)


def _proposal(plan: SequencePlan) -> str:
    return path_words((*plan.sources, plan.target)) if plan.sources else "training from scratch"


def reasons(found: Findings) -> list[str]:
    """Why, as the plan says it; what it takes to train is left out, since the run has its own recipe."""
    plan = found.plan
    if plan is None:
        return ["There is no plan of this target: the path was asked for."] if found.affinity else []
    told = [arrows(line) for line in plan.explanation if not line.startswith("To train: ")]
    if not found.follows_plan:
        told.insert(0, "What follows is about the path that is planned now, which is not the one of this run.")
    return told


def result(found: Findings) -> str:
    """What came of it so far, in a sentence or two."""
    done = sum(stage.status == "finished" for stage in found.stages)
    progress = f"{done} of {counted(len(found.stages), 'stage')} finished"
    if not found.cases:
        return f"{progress}; no fold of the target has been validated yet."
    scores = f"Dice {decimals(mean_dice(case_dice(found.cases)))} {_where(found)}"
    few = " With so few cases this is a rough figure." if len(found.cases) < 10 else ""
    return f"{scores}; {progress}.{few}"


def _where(found: Findings) -> str:
    """On which cases the result was seen."""
    cases = counted(len(found.cases), "case")
    if found.trained_on_cases:
        return f"on the training cases themselves ({cases}), since fold all holds none out"
    folds = list(dict.fromkeys(case.fold for case in found.cases))
    shared = ", some of which sources may hold" if found.sources_may_hold_cases else ""
    return f"in the validation of fold{'' if len(folds) == 1 else 's'} {listed(folds)} ({cases}{shared})"

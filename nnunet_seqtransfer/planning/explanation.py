"""Why a path was chosen, in plain sentences with the numbers behind them."""

from __future__ import annotations

import math

from nnunet_seqtransfer.planning.problem import Candidate, Decision, Kind, SequenceProblem


def explain(decision: Decision, problem: SequenceProblem) -> tuple[str, ...]:
    """Two to five sentences: what the chosen path costs, part by part, what the others cost, and why it was chosen."""
    if decision.chosen.kind == "scratch":
        return _scratch_wins(decision, problem)
    return (_cost(decision.chosen, problem), *_others(decision, problem), *_reason(decision, problem), *decision.notes)


def _scratch_wins(decision: Decision, problem: SequenceProblem) -> tuple[str, ...]:
    chosen, direct = decision.chosen, decision.best("direct")
    target = problem.names[problem.target]
    first = f"{target} is trained from scratch"
    if chosen.start_cost:
        first += f", which costs {_number(chosen.cost)}{_cases(problem, problem.target)}"
    if direct is None:
        return f"{first}.", "No source was allowed, or none reaches the target."
    second = f"{_via(direct, problem)} costs {_number(direct.cost)}"
    if direct.path in decision.ruled_out:
        return f"{first}.", f"{_upper(second)}, but is ruled out: it {decision.ruled_out[direct.path]}."
    if direct.cost < chosen.cost:
        return f"{first}.", f"{_upper(second)}."
    second = "Every source is too far away or has too few cases"
    return f"{first}.", f"{second}: the best of them, {_via(direct, problem)}, costs {_number(direct.cost)}."


def _cost(candidate: Candidate, problem: SequenceProblem) -> str:
    parts: list[str] = []
    if candidate.start_cost:
        parts.append(f"start {_number(candidate.start_cost)}{_cases(problem, candidate.path[0])}")
    for i, j, cost in zip(candidate.path[:-1], candidate.path[1:], candidate.hop_costs, strict=True):
        parts.append(f"{problem.names[i]} -> {problem.names[j]} {_number(cost)}")
    if candidate.search_cost:
        parts.append(f"search cost {_number(candidate.search_cost)}")
    return f"{_path(candidate, problem)} costs {_number(candidate.cost)}: {', '.join(parts)}."


def _others(decision: Decision, problem: SequenceProblem) -> tuple[str, ...]:
    """One sentence on direct transfer and scratch, or none where neither can be compared."""
    chosen, scratch = decision.chosen, decision.best("scratch")
    parts: list[str] = []
    for direct in dict.fromkeys((decision.best("direct"), _allowed(decision, "direct"))):
        if direct is not None and direct != chosen:
            parts.append(f"{_via(direct, problem)} costs {_number(direct.cost)}{_but(direct, decision)}")
    # A scratch that is cheaper and was not chosen has no price of its own (see CostModel), or is ruled out.
    if scratch is not None and scratch.cost > chosen.cost:
        parts.append(f"scratch costs {_number(scratch.cost)}{_but(scratch, decision)}")
    elif scratch is not None and scratch.path in decision.ruled_out:
        parts.append(f"scratch is ruled out: it {decision.ruled_out[scratch.path]}")
    return (f"{_upper('; '.join(parts) if decision.ruled_out else ', '.join(parts))}.",) if parts else ()


def _reason(decision: Decision, problem: SequenceProblem) -> tuple[str, ...]:
    """Why the chosen path is the chosen one; nothing where more than its cost decided (see `verdict` and `joint`)."""
    chosen, direct, sequence = decision.chosen, _allowed(decision, "direct"), _allowed(decision, "sequence")
    if decision.strategy in ("auto", "shared"):
        return ()
    if chosen.kind == "sequence":
        return (_why_sequence(decision, problem, direct),)
    if direct is not None and direct.order(problem.names) < chosen.order(problem.names):
        return (f"The {decision.strategy} strategy goes to the target directly only from a landmark.",)
    if sequence is None:
        return ("No path with an intermediate is among the candidates.",)
    return (f"No intermediate pays: the best, {_path(sequence, problem)}, costs {_number(sequence.cost)}.",)


def _why_sequence(decision: Decision, problem: SequenceProblem, direct: Candidate | None) -> str:
    chosen = decision.chosen
    if direct is None:
        return "Direct transfer is ruled out, so the cheapest path that is allowed is taken."
    if direct.cost <= chosen.cost:
        return f"The {decision.strategy} strategy takes an intermediate without comparing it with direct transfer."
    hops, single = math.fsum(chosen.hop_costs), math.fsum(direct.hop_costs)
    if hops < single:
        return (
            f"The intermediate pays because the {len(chosen.hop_costs)} hops cost {_number(hops)} together, "
            f"the single hop from {problem.names[direct.path[0]]} {_number(single)}."
        )
    saved = direct.start_cost + direct.search_cost - chosen.start_cost - chosen.search_cost
    return (
        f"The longer way pays because starting with {problem.names[chosen.path[0]]} saves {_number(saved)}, "
        f"more than the {_number(hops - single)} that its hops cost on top."
    )


def _allowed(decision: Decision, kind: Kind) -> Candidate | None:
    """The cheapest candidate of one kind that could be chosen."""
    return next(
        (path for path in decision.candidates if path.kind == kind and path.path not in decision.ruled_out), None
    )


def _but(candidate: Candidate, decision: Decision) -> str:
    clause = decision.ruled_out.get(candidate.path)
    return f", but is ruled out: it {clause}" if clause else ""


def _upper(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _path(candidate: Candidate, problem: SequenceProblem) -> str:
    return " -> ".join(problem.names[task] for task in candidate.path)


def _via(direct: Candidate, problem: SequenceProblem) -> str:
    return f"direct transfer from {problem.names[direct.path[0]]}"


def _cases(problem: SequenceProblem, task: int) -> str:
    if problem.case_counts is None:
        return ""
    count = problem.case_counts[task]
    return f" ({count} case{'' if count == 1 else 's'})"


def _number(value: float) -> str:
    """Two decimals, or two digits where decimals would hide a small number."""
    return f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value:.2f}"

"""What the constraints on a path mean for a problem: whether they make sense, and what they rule out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem
from nnunet_seqtransfer.planning.search import PathCosts, cheapest_paths

MOST_MUST = 8
"""Most sources that a path can be asked to go through; the exact search doubles its work with each."""


def check_constraints(constraints: Constraints, problem: SequenceProblem, max_sources: int) -> None:
    """Raises SequenceError where the constraints contradict the problem, the number of sources, or one another."""
    must, avoid = set(constraints.must), set(constraints.avoid)
    for what, tasks in (("must", must), ("avoid", avoid), *(("finished", set(path)) for path in constraints.finished)):
        _check_sources(what, tasks, problem)
    twice = next((path for path in constraints.finished if len(set(path)) < len(path)), ())
    if twice:
        raise SequenceError(f"finished has a path that repeats a task: {_list(twice, problem)}; name each task once")
    if must & avoid:
        raise SequenceError(f"must and avoid both name {_list(must & avoid, problem)}; take it from one of them")
    if len(must) > min(max_sources, MOST_MUST):
        most = f"a path may have at most {max_sources}" if max_sources < len(must) else f"at most {MOST_MUST} can be"
        raise SequenceError(f"must names {len(must)} sources, but {most}; name fewer, or allow more sources")
    if avoid == set(problem.sources):
        raise SequenceError(f"avoid names every source of {problem.names[problem.target]}; leave at least one")
    if constraints.landmark_cases < 0 or (constraints.landmark_cases > 0 and problem.case_counts is None):
        why = "it has to be 0 or more" if constraints.landmark_cases < 0 else "the tasks' case counts are not known"
        raise SequenceError(f"a landmark of at least {constraints.landmark_cases} cases makes no sense: {why}")
    _check_prices(constraints, problem)


def restricted(graph: PathCosts, constraints: Constraints, problem: SequenceProblem) -> PathCosts:
    """``graph`` without the tasks to be avoided, and without starts on sources of too few cases."""
    start, hop = graph.start.copy(), graph.hop.copy()
    avoid = list(constraints.avoid)
    start[avoid] = hop[avoid, :] = hop[:, avoid] = np.inf
    if constraints.landmark_cases and problem.case_counts is not None:
        small = np.array(problem.case_counts) < constraints.landmark_cases
        small[problem.target] = False
        start[small] = np.inf
    return replace(graph, start=start, hop=hop)


def broken(constraints: Constraints, problem: SequenceProblem, path: Sequence[int]) -> str | None:
    """The first constraint that ``path`` breaks, as a clause that follows its name, or None."""
    sources = path[:-1]
    missing, avoided = set(constraints.must) - set(sources), set(constraints.avoid) & set(sources)
    if missing:
        return f"does not go through {_list(missing, problem)}, as it must"
    if avoided:
        return f"goes through {_list(avoided, problem)}, which is to be avoided"
    if sources and constraints.landmark_cases and problem.case_counts is not None:
        cases = problem.case_counts[path[0]]
        if cases < constraints.landmark_cases:
            return f"starts on {cases} labelled cases, fewer than {constraints.landmark_cases}"
    if not constraints.affords(path):
        return f"costs {constraints.price(path):g}, above the budget of {constraints.budget:g}"
    return None


def why_impossible(
    graph: PathCosts, constraints: Constraints, problem: SequenceProblem, max_sources: int
) -> SequenceError:
    """The error that names the constraint which leaves no path at all, on an unrestricted ``graph``."""
    through = f"path of at most {max_sources} sources through {_list(set(constraints.must), problem)}"
    least = cheapest_price(graph, constraints, problem, max_sources)
    if least is not None:
        return SequenceError(
            f"the budget of {constraints.budget:g} is too small: the cheapest {through} costs {least:g}; raise it"
        )
    anywhere = replace(constraints, landmark_cases=0)
    if constraints.landmark_cases and cheapest_price(graph, anywhere, problem, max_sources) is not None:
        return SequenceError(
            f"no {through} starts on a landmark of at least {constraints.landmark_cases} cases; ask for fewer cases"
        )
    return SequenceError(f"there is no {through}: distances are missing; leave a source out of must, or allow more")


def cheapest_price(
    graph: PathCosts, constraints: Constraints, problem: SequenceProblem, max_sources: int
) -> float | None:
    """The least price of any path, the budget aside, or None where there is no path; 0 without prices."""
    prices = np.zeros(len(problem.names)) if constraints.prices is None else np.array(constraints.prices)
    # The same search, with prices for costs: hops are free, stages are not.
    free = replace(graph, start=np.zeros_like(graph.start), hop=np.where(np.isfinite(graph.hop), 0.0, np.inf))
    priced = restricted(replace(free, stage=prices), constraints, problem)
    unlimited = replace(constraints, budget=math.inf)
    found = cheapest_paths(priced, max_sources=max_sources, top=1, constraints=unlimited)
    return constraints.price(found[0].path) if found else None


def _check_sources(what: str, tasks: set[int], problem: SequenceProblem) -> None:
    for task in sorted(tasks):
        if task == problem.target:
            raise SequenceError(f"{what} names {problem.names[task]}, which is the target; name sources only")
        if not 0 <= task < len(problem.names):
            raise SequenceError(f"{what} names task {task}, which is no index of the {len(problem.names)} tasks")


def _check_prices(constraints: Constraints, problem: SequenceProblem) -> None:
    if not constraints.budget >= 0:
        raise SequenceError(f"a budget of {constraints.budget:g} makes no sense; give 0 or more")
    if constraints.prices is None:
        if constraints.budget < math.inf:
            raise SequenceError("a budget needs the prices of the stages; give one price for each task")
        return
    if len(constraints.prices) != len(problem.names):
        raise SequenceError(f"{len(constraints.prices)} prices for {len(problem.names)} tasks; give one for each task")
    for name, price in zip(problem.names, constraints.prices, strict=True):
        if not (price >= 0 and math.isfinite(price)):
            raise SequenceError(f"the price of a stage on {name} is {price:g}; give a finite number, 0 or more")
    if not constraints.affords((problem.target,)):
        target, price = problem.names[problem.target], constraints.prices[problem.target]
        raise SequenceError(
            f"the budget of {constraints.budget:g} is below the {price:g} that the stage on {target} costs, "
            "which even training from scratch needs; raise the budget"
        )


def _list(tasks: Sequence[int] | set[int], problem: SequenceProblem) -> str:
    """Names: those of a path in its order, those of a set sorted."""
    names = [problem.names[task] for task in tasks]
    return ", ".join(sorted(names) if isinstance(tasks, set) else names)

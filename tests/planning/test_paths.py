"""The default strategy: equal to brute force, under every constraint, and one line for what cannot be met."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from nnunet_seqtransfer.errors import Problems, SequenceError
from nnunet_seqtransfer.planning.decide import decide, plan_sequence, strategies
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import Evidence, shipped_table
from nnunet_seqtransfer.planning.paths import MOST_HARM, Decision, Request
from nnunet_seqtransfer.planning.problem import Constraints, Path, SequenceProblem

METRIC = "descriptors"
MODEL = GainModel(shipped_table().rows, METRIC)
STRATEGIES = ("gain", "published")


def make_request(seed: int, size: int | None = None, **changes: object) -> Request:
    """4 to 8 tasks with random evidence and every kind of constraint; some cannot be met."""
    rng = np.random.default_rng(seed)
    n = size or int(rng.integers(4, 9))
    distances = rng.integers(1, 6, (n, n)) / 4
    distances[rng.random((n, n)) < rng.choice([0.0, 0.2])] = np.nan
    names = [f"Dataset{number:03}" for number in rng.permutation(n)]
    target = int(rng.integers(n))
    evidence = [
        Evidence(
            components={name: float(rng.uniform(0, 2)) for name in ("image", "contrast", "label")},
            label_match=float(rng.choice([0.5, 1.0])),
            channel_match=1.0,
            cases=int(rng.integers(2, 200)),
        )
        for _ in range(n)
    ]
    labels = [(("heart", "liver")[rng.integers(2)],) for _ in range(n)]
    problem = SequenceProblem.checked(
        names, distances, target, evidence=evidence, channels=[("T1",)] * n, labels=labels
    )
    shuffled = rng.permutation(problem.sources).tolist()
    constraints = Constraints(
        must=tuple(shuffled[: rng.choice([0, 0, 1, 2])]),
        avoid=tuple(shuffled[2 : 2 + rng.integers(0, 2)]),
        landmark_cases=int(rng.choice([0, 20])),
        budget=float(rng.choice([2.0, 3.0, np.inf])),
        source_price=1.0,
        target_price=1.0,
        finished=frozenset({(shuffled[-1],), tuple(shuffled[-2:])}),
    )
    scratch = (None, 0.5)[seed % 2]
    given = {"constraints": constraints, "listed": 4, "scratch_dice": scratch, **changes}
    return Request(problem, MODEL, **given)  # type: ignore[arg-type]


def obeys(request: Request, path: Path) -> bool:
    """Whether a path meets every constraint, spelt out."""
    constraints, sources = request.constraints, path[:-1]
    stages = sum(tuple(path[: k + 1]) not in constraints.finished for k in range(len(sources)))
    return (
        set(constraints.must) <= set(sources)
        and not set(constraints.avoid) & set(sources)
        and (not sources or request.problem.evidence[sources[0]].cases >= constraints.landmark_cases)
        and 1.0 + stages <= constraints.budget
    )


def brute_force(request: Request) -> Path | None:
    """The best allowed path by looking at all; scratch, if it is allowed, instead of a path that may well harm."""
    best, scratch = highest_gain(request), (request.problem.target,)
    if best is None or best == scratch or not obeys(request, scratch):
        return best
    evidence = [request.problem.evidence[source] for source in best[:-1]]
    return best if request.model.predict(evidence, request.scratch_dice).harm < MOST_HARM else scratch


def highest_gain(request: Request) -> Path | None:
    """The best of scratch and singles, unless a near pair is better enough."""
    problem, model = request.problem, request.model
    usable = [s for s in problem.sources if np.isfinite(problem.distances[s, problem.target])]
    gains = {
        (*path, problem.target): model.predict([problem.evidence[s] for s in path], request.scratch_dice).gain
        for length in range(3)
        for path in permutations(usable, length)
    }
    allowed = {path: gain for path, gain in gains.items() if obeys(request, path)}
    pairs = {path: gain for path, gain in allowed.items() if len(path) == 3}
    if not request.constraints.must:
        pairs = {p: g for p, g in pairs.items() if all(model.near(problem.evidence[s]) for s in p[:-1])}
    simple = max((path for path in allowed if len(path) < 3), key=allowed.__getitem__, default=None)
    pair = max(pairs, key=pairs.__getitem__, default=None)
    if simple is None or pair is None:
        return simple or pair
    near = all(model.near(problem.evidence[source]) for source in pair[:-1])
    margin = model.pair_rule([problem.evidence[source] for source in pair[:-1]], request.scratch_dice).margin
    return pair if near and pairs[pair] - allowed[simple] > margin else simple


def decided(strategy: str, seeds: int = 80) -> list[tuple[Request, Decision]]:
    """Every random request that can be met, and what the strategy chose."""
    found = []
    for seed in range(seeds):
        request = make_request(seed)
        try:
            found.append((request, decide(request, strategy)))
        except SequenceError as error:
            assert "\n" not in str(error)
    assert len(found) > seeds // 4
    return found


def test_equal_to_brute_force() -> None:
    """The chosen path is the one that looking at every path gives; an error is raised only if there is none."""
    chosen = 0
    for seed in range(150):
        request = make_request(seed)
        best = brute_force(request)
        if best is None:
            with pytest.raises(SequenceError):
                decide(request, "gain")
            continue
        made = decide(request, "gain").chosen.path
        gains = [
            request.model.predict([request.problem.evidence[s] for s in path[:-1]], request.scratch_dice).gain
            for path in (made, best)
        ]
        assert gains[0] == pytest.approx(gains[1]) and len(made) == len(best), seed
        chosen += len(made) > 1
    assert chosen > 40


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_chosen_obeys_every_constraint(strategy: str) -> None:
    """Whatever the strategy."""
    for request, made in decided(strategy):
        assert obeys(request, made.chosen.path) and not made.chosen.ruled_out
        assert made.chosen.path[-1] == request.problem.target


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scratch_and_a_direct_path_stay_listed(strategy: str) -> None:
    """Both are candidates even if ruled out, which is then recorded; avoided tasks never are."""
    ruled_out = 0
    for request, made in decided(strategy):
        problem, avoid = request.problem, set(request.constraints.avoid)
        reachable = [s for s in problem.sources if s not in avoid and np.isfinite(problem.distances[s, problem.target])]
        assert made.best("scratch") is not None
        assert (made.best("direct") is not None) == bool(reachable)
        for candidate in made.candidates:
            assert not set(candidate.path) & avoid
            assert bool(candidate.ruled_out) == (not obeys(request, candidate.path))
            ruled_out += bool(candidate.ruled_out)
    assert ruled_out > 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_relabelling_changes_nothing(strategy: str) -> None:
    """The same tasks and constraints in another order give the same paths by name, ties included."""
    for request, made in decided(strategy, 40):
        problem, constraints = request.problem, request.constraints
        order = np.random.default_rng(0).permutation(len(problem.names)).tolist()
        place = {task: position for position, task in enumerate(order)}
        moved = SequenceProblem.checked(
            [problem.names[task] for task in order],
            problem.distances[np.ix_(order, order)],
            place[problem.target],
            evidence=[problem.evidence[task] for task in order],
            channels=[problem.channels[task] for task in order],
            labels=[problem.labels[task] for task in order],
        )
        again = Constraints(
            tuple(place[task] for task in constraints.must),
            tuple(place[task] for task in constraints.avoid),
            constraints.landmark_cases,
            constraints.budget,
            1.0,
            1.0,
            frozenset(tuple(place[task] for task in path) for path in constraints.finished),
        )
        other = decide(Request(moved, request.model, again, 2, 4, request.scratch_dice), strategy)
        named = [
            [tuple(tasks.names[task] for task in candidate.path) for candidate in one.candidates]
            for tasks, one in ((problem, made), (moved, other))
        ]
        assert named[0] == named[1]


def line(*distances: float, **known: float) -> SequenceProblem:
    """Sources at these distances from the target, with equal names unless told otherwise."""
    n = len(distances) + 1
    table = np.full((n, n), 0.5)
    table[:-1, -1] = distances
    given = {"label_match": 1, "channel_match": 1, "cases": 20} | known
    evidence = [
        Evidence(dict.fromkeys(("image", "contrast", "label"), d), d, **given)  # type: ignore[arg-type]
        for d in (*distances, 0.0)
    ]
    return SequenceProblem.checked([f"Dataset{k:03}" for k in range(n)], table, n - 1, evidence=evidence)


def test_many_cases_never_lift_a_far_source() -> None:
    """The nearest source is chosen, however large the others are; equal ones tie by cases."""
    problem = line(0.3, 0.31)
    near, far, target = problem.evidence
    many = [near, replace(far, cases=9999), target]
    large = SequenceProblem.checked(problem.names, problem.distances, 2, evidence=many)
    assert decide(Request(large, MODEL), "gain").chosen.path == (0, 2)


def test_far_sources_of_other_names_are_refused() -> None:
    """With a good scratch the honest answer is scratch; the best transfer is listed with its chance of harm."""
    problem = line(9.0, 8.0, label_match=0, channel_match=0)
    made = decide(Request(problem, MODEL, scratch_dice=0.8), "gain")
    assert made.chosen.kind == "scratch" and made.chosen.prediction.gain == 0
    best = made.best("direct")
    assert best is not None and best.prediction.gain < 0 and best.prediction.harm > 0.5


def test_no_sequence_wins_by_the_shipped_measurements() -> None:
    """However near both sources are, the rule of pairs asks for more than they promise; must still gets one."""
    request = Request(line(0.01, 0.02), MODEL, scratch_dice=0.3)
    assert decide(request, "gain").chosen.path == (0, 2)
    forced = Request(line(0.01, 0.02), MODEL, Constraints(must=(0, 1)), scratch_dice=0.3)
    assert decide(forced, "gain").chosen.kind == "sequence"


@pytest.mark.parametrize(
    ("constraints", "most", "words"),
    [
        (Constraints(must=(3,)), 2, "must names Dataset003, which is the target"),
        (Constraints(must=(0,), avoid=(0,)), 2, "must and avoid both name Dataset000"),
        (Constraints(must=(0, 1)), 1, "must names 2 sources, but a path may have at most 1; allow more sources"),
        (Constraints(must=(0, 1, 2)), 2, "name fewer"),
        (Constraints(avoid=(0, 1, 2)), 2, "avoid names every source of Dataset003"),
        (Constraints(budget=0.5, target_price=1.0), 2, "the budget of 0.5 is below the 1 that the stage on Dataset003"),
        (Constraints(must=(0,), budget=1.5, source_price=1.0, target_price=1.0), 2, "is too small: .* costs 2; raise"),
        (Constraints(must=(0, 1), landmark_cases=21), 2, "starts on at least 21 labelled cases"),
        (Constraints(), 3, "at most 3 sources are not possible"),
    ],
)
def test_what_cannot_be_met_is_one_line(constraints: Constraints, most: int, words: str) -> None:
    """It names the constraint."""
    request = Request(line(0.3, 0.5, 0.7), MODEL, constraints, most)
    with pytest.raises(SequenceError, match=words) as refused:
        decide(request, "gain")
    assert "\n" not in str(refused.value)


def test_contradictions_are_reported_together() -> None:
    """All of them, one line each."""
    constraints = Constraints(must=(0, 1, 2), avoid=(0,), budget=0.5, target_price=1.0)
    with pytest.raises(Problems) as refused:
        decide(Request(line(0.3, 0.5, 0.7), MODEL, constraints), "gain")
    assert len(refused.value.problems) == 3


def test_strategies_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and registered ones are found; others, and communities for a strategy without, are refused."""

    class First:
        def plan(self, request: Request) -> Decision:
            scratch = request.candidate((request.problem.target,))
            return Decision(scratch, (scratch,), "first")

    class Point:
        name = "first"

        def load(self) -> type[First]:
            return First

    monkeypatch.setattr("nnunet_seqtransfer.planning.decide.entry_points", lambda group: [Point()])
    assert set(strategies()) == {"gain", "published", "first"}
    request = Request(line(0.3, 0.5), MODEL)
    assert decide(request, "first").chosen.kind == "scratch"
    with pytest.raises(SequenceError, match="unknown strategy 'nearest'; choose one of"):
        decide(request, "nearest")
    with pytest.raises(SequenceError, match="strategy gain has no communities"):
        decide(Request(line(0.3, 0.5), MODEL, communities=2), "gain")


def test_a_plain_table_of_distances() -> None:
    """The nearest source by default; avoid, must and names are obeyed; a better scratch refuses all of them."""
    table = [[0, 0.9, 1.2, 0.4], [0.9, 0, 0.2, 0.5], [1.2, 0.2, 0, 0.1], [0.4, 0.5, 0.1, 0]]
    assert plan_sequence(table, 2, scratch_dice=0.4).chosen.path == (3, 2)
    assert plan_sequence(table, 2, avoid=[3], scratch_dice=0.4).chosen.path == (1, 2)
    assert plan_sequence(table, 2, must=[0], max_sources=1).chosen.path == (0, 2)
    assert plan_sequence(table, 2, max_sources=0).chosen.path == (2,)
    assert plan_sequence(table, 2, scratch_dice=0.99).chosen.path == (2,)
    with pytest.raises(SequenceError, match=r"max_sources is 1\.5; give a whole number"):
        plan_sequence(table, 2, max_sources=1.5)  # type: ignore[arg-type]


def test_a_thousand_sources_take_no_time() -> None:
    """One decision, the fits included, on a machine that may be busy."""
    request = make_request(1, 1001, constraints=Constraints(), listed=10)
    begin = time.process_time()
    decide(request, "gain")
    assert time.process_time() - begin < 1.0

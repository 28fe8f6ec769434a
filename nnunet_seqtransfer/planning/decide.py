"""From an affinity to a plan: the evidence on each source, the chosen path, and how sure it is."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path as FilePath
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_seqtransfer.affinity.name_match import Names, match_names
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry, read_resamples
from nnunet_seqtransfer.errors import SequenceError, raise_collected
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import Evidence, MeasuredTable, shipped_table, track_records
from nnunet_seqtransfer.planning.options import DEFAULT_STRATEGY, MOST_SOURCES, History, PlanOptions, Unit
from nnunet_seqtransfer.planning.paths import Candidate, Decision, GainStrategy, Request, Strategy
from nnunet_seqtransfer.planning.problem import Constraints, Path, SequenceProblem, whole
from nnunet_seqtransfer.planning.published import PublishedStrategy
from nnunet_seqtransfer.planning.record import CandidatePath, LeftOut, LongerScratch, ReadyModel, SequencePlan
from nnunet_seqtransfer.storage import sha256

STRATEGY_GROUP = "nnunet_seqtransfer.strategies"
"""Group of Python entry points; each names a class without arguments that follows `paths.Strategy`."""
SAME = 0.01
"""Gains that differ by no more than this Dice cannot be told apart."""
MOST_CLOSE = 5
"""Paths that are named as close."""


@dataclass(frozen=True)
class Known:
    """Evidence and facts about the datasets that an affinity does not hold. All optional."""

    zero_shot: Mapping[str, float] = field(default_factory=dict)
    "Full name of a source -> Dice of that network on the target's labelled cases."
    shared: frozenset[str] = frozenset()
    "Full names of the sources that hold cases of the target."
    own: MeasuredTable | None = None
    "The user's own measured transfers."
    models: Mapping[str, ReadyModel] = field(default_factory=dict)
    "Full name of a source -> ready model, used by the strategy gain."


def strategies() -> dict[str, Callable[[], Strategy]]:
    """Return the maker of every strategy by name: ours, and those that installed packages register."""
    own: dict[str, Callable[[], Strategy]] = {"gain": GainStrategy, "published": PublishedStrategy}
    others = {point.name: point for point in entry_points(group=STRATEGY_GROUP)}
    return {**{name: lambda p=point: cast("Strategy", p.load()()) for name, point in others.items()}, **own}  # type: ignore[misc]


def decide(request: Request, strategy: str) -> Decision:
    """Return the decision of a strategy. Raises SequenceError, with the valid names, if there is no such strategy."""
    known = strategies()
    if strategy not in known:
        raise SequenceError(f"unknown strategy {strategy!r}; choose one of {', '.join(known)}")
    if request.communities is not None and strategy != "published":
        raise SequenceError(f"strategy {strategy} has no communities; leave their number out, or choose published")
    return known[strategy]().plan(request)


def plan_sequence(
    distances: ArrayLike,
    target: int,
    case_counts: Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    max_sources: int = MOST_SOURCES,
    must: Sequence[int] = (),
    avoid: Sequence[int] = (),
    scratch_dice: float | None = None,
) -> Decision:
    """Return the path of the highest expected gain on a plain table of distances.

    The distances to the target are standardised among each other: they rank the sources, while the level of the gain
    comes from the shipped measurements.

    Args:
        distances: (n, n), 0 or more: [i, j] from task i to task j; NaN or inf if there is none.
        target: index of the task to end with.
        case_counts: (n,) labelled cases, which break ties.
        names: (n,) unique names; the indices if None.
        max_sources: most sources before the target, 0 to 2.
        must: indices of sources that the path goes through.
        avoid: indices of sources that it does not go through.
        scratch_dice: Dice of the target trained from scratch, 0 to 1, if known.

    Raises SequenceError, or Problems with several, if these make no sense or no path obeys them.

    Example:
        >>> plan_sequence([[0, 0.9, 1.2], [0.9, 0, 0.2], [1.2, 0.2, 0]], 2, scratch_dice=0.4).chosen.path
        (1, 2)
    """
    count = len(np.atleast_1d(np.asarray(distances, dtype=object)))
    given = [str(index) for index in range(count)] if names is None else names
    problem = SequenceProblem.checked(given, distances, target, case_counts)
    constraints = Constraints(
        must=tuple(whole("a source in must", task) for task in must),
        avoid=tuple(whole("a source in avoid", task) for task in avoid),
    )
    model = GainModel(shipped_table().rows, "", [problem.evidence[source] for source in problem.sources])
    maximum = whole("max_sources", max_sources)
    return GainStrategy().plan(Request(problem, model, constraints, maximum, scratch_dice=scratch_dice))


def make_plan(
    affinity: Affinity, affinity_file: FilePath, options: PlanOptions, history: History, known: Known
) -> SequencePlan:
    """Return the plan for the target of an affinity; nothing is written. Resamples lie next to ``affinity_file``.

    Raises SequenceError, or Problems with several, if nothing can be planned as asked.
    """
    finished, trained = history.finished(options.training), history.trained
    known = replace(known, models=_models(known, options, finished))
    ready: dict[tuple[str, ...], tuple[int, int]] = {(name,): options.training.of_source for name in known.models}
    history = replace(history, trained={**trained, **ready})
    left_out = _left_out(affinity, known, allow_overlap=options.allow_overlap)
    gone = {entry.dataset for entry in left_out}
    kept = [place for place, task in enumerate(affinity.tasks) if task.dataset not in gone]
    problem = problem_of(affinity, gone, known)
    compared = {task.dataset for task in affinity.tasks if task.registered}
    request = _request(problem, affinity.metric, options, history, known, gone)
    only_first = frozenset(task for task in problem.sources if problem.names[task] not in compared)
    request = replace(request, constraints=replace(request.constraints, only_first=only_first))
    decision = decide(request, options.strategy)
    best = next((path for path in decision.candidates if len(path.path) > 1), decision.chosen)
    features = request.model.known(problem.evidence[best.path[-2]]) if len(best.path) > 1 else ()
    # Resampled distances say nothing if the gains do not rest on distances.
    resampled = _resampled_evidence(affinity, affinity_file, kept, problem) if "closeness" in features else []
    listed = tuple(_candidate(request, path, options, history) for path in decision.candidates)
    first = {entry.path[0] for entry in listed}
    chosen = decision.chosen
    sources = _named(problem, chosen.path[:-1])
    beginnings = [sources[: k + 1] for k in range(len(sources))]
    table = shipped_table()
    rows = [row for row in (*table.rows, *(known.own.rows if known.own else ())) if row.sources]
    return SequencePlan(
        target=affinity.target,
        plans=affinity.plans,
        configuration=affinity.configuration,
        sources=sources,
        strategy=options.strategy,
        metric=affinity.metric,
        affinity_file=affinity_file.name,
        candidates=listed,
        affinity_sha256=sha256(affinity_file),
        options=options,
        supported=bool(sources) and chosen.prediction.low > 0,
        close=tuple(_named(problem, path) for path in _close(request, decision, resampled)),
        evidence=features,
        measured=(len(rows), len({row.target for row in rows})),
        calibration=known.own.name if known.own else None,
        target_cases=affinity.tasks[-1].labelled_cases,
        scratch_dice=request.scratch_dice,
        as_it_is=_as_it_is(problem, known),
        resamples=len(resampled),
        longer=_longer(request, max(1, len(sources)), options, history),
        gpu_hours=_price(request, chosen.path, options, history, "GPU hours"),
        epoch_time=history.epoch,
        finished=tuple(path[-1] for path in beginnings if path in finished),
        other_recipes={
            path[-1]: trained[path] for path in beginnings if path in trained.keys() - finished - ready.keys()
        },
        left_out=left_out,
        models={name: model for name, model in known.models.items() if name in first},
        communities=tuple(_named(problem, community) for community in decision.communities),
    )


def _as_it_is(problem: SequenceProblem, known: Known) -> tuple[str, float] | None:
    """Return the best source that segments the target's labels without further training, and its Dice."""
    probed = [source for source in problem.sources if problem.names[source] in known.zero_shot]
    # networks with other labels have outputs that nobody can name
    able = [problem.names[source] for source in probed if problem.evidence[source].label_match == 1]
    return max(((name, known.zero_shot[name]) for name in able), key=lambda one: one[1], default=None)


def _models(known: Known, options: PlanOptions, finished: Collection[tuple[str, ...]]) -> dict[str, ReadyModel]:
    """Return the ready models that paths start from. A finished stage of the target's own network goes before."""
    if options.strategy != DEFAULT_STRATEGY:  # others were not made for sources without distances
        return {}
    of_stages = {path[0] for path in finished}
    hidden = set() if options.allow_overlap else known.shared
    return {name: model for name, model in known.models.items() if name not in of_stages | hidden}


def _left_out(affinity: Affinity, known: Known, *, allow_overlap: bool) -> tuple[LeftOut, ...]:
    elsewhere = [task.dataset for task in affinity.tasks if not task.registered]
    found = [LeftOut(name, "signature") for name in elsewhere if name not in known.models]
    if not allow_overlap:
        here = {task.dataset for task in affinity.tasks[:-1] if task.registered}
        found += [LeftOut(name, "overlap") for name in sorted(known.shared & here)]
    return tuple(found)


def problem_of(affinity: Affinity, without: Collection[str] = (), known: Known | None = None) -> SequenceProblem:
    """Return the tasks of an affinity, but for some datasets, with the evidence on each source."""
    known = known or Known()
    kept = [place for place, task in enumerate(affinity.tasks) if task.dataset not in without]
    tasks = [affinity.tasks[place] for place in kept]
    target = tasks[-1]
    # After the target come ready models of datasets that were never compared: names are all that is known of them.
    tasks += [
        TaskEntry(name, ready.channels, ready.labels, ready.cases or 1, (), "", registered=False)
        for name, ready in known.models.items()
        if name not in affinity.names
    ]
    distances = np.full((len(tasks), len(tasks)), np.inf)
    distances[: len(kept), : len(kept)] = affinity.matrix()[np.ix_(kept, kept)]
    places = [*kept, *[None] * (len(tasks) - len(kept))]
    records = track_records((*shipped_table().rows, *(known.own.rows if known.own else ())), target.dataset)
    evidence = []
    for place, task, distance in zip(places, tasks, distances[:, len(kept) - 1], strict=True):
        names = match_names(task, target)
        record, targets = records.get(task.dataset, (None, 0))
        evidence.append(
            Evidence(
                components={}
                if place is None
                else {name: float(values[place][-1]) for name, values in affinity.components.items()},
                distance=float(distance) if math.isfinite(distance) else None,
                label_match=names.labels,
                channel_match=names.channels,
                zero_shot=known.zero_shot.get(task.dataset),
                track_record=record,
                track_targets=targets,
                cases=task.labelled_cases,
            )
        )
    return SequenceProblem.checked(
        [task.dataset for task in tasks],
        distances,
        len(kept) - 1,
        [task.labelled_cases for task in tasks],
        evidence=evidence,
        channels=[task.channels for task in tasks],
        labels=[task.labels for task in tasks],
    )


def _request(
    problem: SequenceProblem, metric: str, options: PlanOptions, history: History, known: Known, gone: set[str]
) -> Request:
    places = {name: index for index, name in enumerate(problem.names)}
    raise_collected([_not_usable(name, gone) for name in options.must if name not in places])
    rows = (*shipped_table().rows, *(known.own.rows if known.own else ()))
    given = options.scratch_dice
    return Request(
        problem=problem,
        model=GainModel(rows, metric, [problem.evidence[source] for source in problem.sources]),
        constraints=Constraints(
            must=tuple(places[name] for name in options.must),
            avoid=tuple(places[name] for name in options.avoid if name in places),
            landmark_cases=options.landmark_cases,
            budget=math.inf if options.budget is None else options.budget,
            **_prices(problem, options, history, options.budget_unit),
            finished=frozenset(
                tuple(places[name] for name in path)
                for path in history.finished(options.training)
                if all(name in places for name in path)
            ),
        ),
        max_sources=options.max_sources,
        listed=options.listed,
        scratch_dice=history.scratch_dice if given is None else given,
        communities=options.communities,
    )


def _not_usable(name: str, gone: set[str]) -> SequenceError:
    if name in gone:
        return SequenceError(
            f"{name} must be on the path, but it is left out: it is not registered here or holds "
            "cases of the target; leave it out of -must, or use --allow_overlap"
        )
    return SequenceError(
        f"{name} must be on the path, but is not among the sources of the affinity; run nnUNetv2_seq_affinity with it"
    )


def _resampled_evidence(
    affinity: Affinity, affinity_file: FilePath, kept: Sequence[int], problem: SequenceProblem
) -> list[tuple[Evidence, ...]]:
    """Return the evidence of all tasks for each resample of the cases; none without resamples.

    What was not resampled stays as it is, as do tasks of a single case, which do not scatter.
    """
    resamples = read_resamples(affinity_file, affinity)
    if resamples is None:
        return []
    components = {name: values[:, list(kept)] for name, values in resamples.to_target(len(affinity.tasks)).items()}
    combined = affinity.combination.distances(components)
    scatters = [len(affinity.tasks[place].sampled_cases) > 1 for place in kept]
    if not scatters[-1] or np.isnan(combined[:, :-1]).all():
        return []
    return [
        tuple(
            replace(
                known,
                components={name: float(values[b, task]) for name, values in components.items()},
                distance=float(combined[b, task]),
            )
            if task < len(kept) and scatters[task] and not np.isnan(combined[b, task])
            else known
            for task, known in enumerate(problem.evidence)
        )
        for b in range(len(combined))
    ]


def _close(request: Request, decision: Decision, resampled: Sequence[Sequence[Evidence]]) -> tuple[Path, ...]:
    """Return the paths that cannot be told apart from the chosen one, the best first.

    That is so if the interval of the difference over the resampled distances holds 0, or for a gain within `SAME`.
    Scratch and a transfer are told apart by the probability of harm instead.
    """
    chosen = decision.chosen
    rivals = [path for path in decision.candidates if path != chosen and not path.ruled_out and path.kind != "scratch"]
    if chosen.kind == "scratch":
        return ()
    involved = sorted({task for path in (chosen, *rivals) for task in path.path[:-1]})
    at = {task: place for place, task in enumerate(involved)}
    samples = [[evidence[task] for task in involved] for evidence in (request.problem.evidence, *resampled)]
    alone = np.array([request.model.gains(sample, request.scratch_dice) for sample in samples])
    rule = request.model.pair_rule(samples[0], request.scratch_dice)

    def gains(path: Candidate) -> NDArray[np.float64]:
        parts = [alone[:, at[task]] for task in path.path[:-1]]
        return parts[0] if len(parts) == 1 else rule.gain(parts[0], parts[1])

    found = []
    for path in rivals:
        behind = gains(chosen) - gains(path)
        low = float(np.quantile(behind[1:], 0.025)) if resampled else math.inf
        if behind[0] <= SAME or low <= 0:
            found.append(path.path)
    return tuple(found[:MOST_CLOSE])


def _candidate(request: Request, candidate: Candidate, options: PlanOptions, history: History) -> CandidatePath:
    problem, prediction = request.problem, candidate.prediction
    return CandidatePath(
        path=_named(problem, candidate.path),
        gain=prediction.gain,
        low=prediction.low,
        high=prediction.high,
        harm=prediction.harm,
        epochs=_price(request, candidate.path, options, history, "epochs"),
        gpu_hours=_price(request, candidate.path, options, history, "GPU hours"),
        ruled_out=candidate.ruled_out,  # type: ignore[arg-type]
        cost=candidate.cost,
        clash=_clash(problem, candidate.path),
    )


def _clash(problem: SequenceProblem, path: Path) -> str:
    """Return the modalities of the last source and the target if they differ."""
    if len(path) < 2 or problem.channels is None or problem.labels is None:
        return ""
    ours, theirs = path[-2], path[-1]
    source, target = (Names(problem.channels[task], problem.labels[task]) for task in (ours, theirs))
    return match_names(source, target).clash or ""


def _price(request: Request, path: Path, options: PlanOptions, history: History, unit: Unit) -> float:
    return replace(request.constraints, **_prices(request.problem, options, history, unit)).price(path)


def _prices(problem: SequenceProblem, options: PlanOptions, history: History, unit: Unit) -> dict[str, Any]:
    """Return the prices of stages, as `Constraints` has them."""
    training = options.training
    prices: tuple[float, float, Mapping[int, float]]
    if unit == "epochs":
        prices = training.source_epochs, training.epochs * training.folds, {}
    else:
        extra = {place: history.preprocessing.get(name, 0.0) for place, name in enumerate(problem.names)}
        prices = history.source_hours, history.target_hours, extra
    return dict(zip(("source_price", "target_price", "preprocessing"), prices, strict=True))


def _longer(request: Request, sources: int, options: PlanOptions, history: History) -> LongerScratch:
    length = options.training.longer(sources)
    epochs = (length - 1) * options.training.epochs * options.training.folds
    hours = history.target_hours + epochs * history.epoch.seconds / 3600
    iterations = options.training.epochs * options.training.iterations
    predicted = request.model.longer(iterations, length, request.scratch_dice)
    if predicted is None:
        return LongerScratch(length, hours)
    return LongerScratch(length, hours, predicted.gain, predicted.low, predicted.high)


def _named(problem: SequenceProblem, path: Path) -> tuple[str, ...]:
    return tuple(problem.names[task] for task in path)

"""What a plan says beside its cost, in sentences: how sure it is, what it gains in Dice, and what it takes to train."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_seqtransfer.calibration.record import Calibration
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, dataset_id
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.options import PlanOptions, prices, to_train
from nnunet_seqtransfer.planning.prices import EpochTime, Finished
from nnunet_seqtransfer.planning.problem import UNCONSTRAINED, Constraints, Decision, SequenceProblem
from nnunet_seqtransfer.planning.robustness import SURE, Comparison, Robustness

FEWEST_SHARE = 0.005
"""Paths that win in fewer resamples are not told one by one."""
MOST_TOLD = 4
"""Paths whose shares are told."""
UNKNOWN = (
    "How sure this is is not known: there are no resampled distances with this affinity; "
    "run nnUNetv2_seq_affinity again, with two cases or more of each task."
)
NOT_DICE = "Costs are not Dice: without a calibration (-weights FILE) no gain in Dice is predicted."


def short_path(path: Sequence[str]) -> str:
    """A path by its sources' numbers: "21 -> 24", "21 alone" (direct transfer), "scratch"; the target is left out."""
    sources = [str(dataset_id(name)) if DATASET_NAME.fullmatch(name) else name for name in path[:-1]]
    return {0: "scratch", 1: f"{''.join(sources)} alone"}.get(len(sources), " -> ".join(sources))


def percent(share: float) -> str:
    """A share of 0 to 1 as "83 %"; never 0 or 100 where it is neither."""
    whole = round(100 * share)
    if share < 1 <= whole / 100:
        return "over 99 %"
    return "under 1 %" if whole == 0 < share else f"{whole} %"


def certainty(decision: Decision, robustness: Robustness | None, problem: SequenceProblem) -> tuple[str, ...]:
    """How often which path wins, and whether the data support more than a simpler one.

    ``decision`` is the one before a fall-back.
    """
    if robustness is None:
        return (UNKNOWN,)
    shown = [entry for entry in robustness.wins[:MOST_TOLD] if entry[1] >= FEWEST_SHARE]
    told = [f"{_short(path, problem)} in {percent(share)}" for path, share in shown]
    rest = 1 - sum(share for _, share in shown)
    if rest >= FEWEST_SHARE:
        told.append(f"others in {percent(rest)}")
    told[0] = f"{_short(shown[0][0], problem)} wins in {percent(shown[0][1])} of {robustness.resamples} resamples"
    return (f"{'; '.join(told)}.", *_support(decision, robustness, problem), *_held_fixed(robustness, problem))


def fallen_back(comparison: Comparison, problem: SequenceProblem) -> str:
    """What strategy auto did."""
    return f"So {_words(comparison.path, problem)} is taken, the simplest path that the data cannot tell from the best."


def gains(
    calibration: Calibration | None,
    chosen: tuple[int, ...],
    others: Sequence[tuple[int, ...]],
    model: CostModel,
    problem: SequenceProblem,
) -> tuple[tuple[tuple[int, ...], tuple[float, float, float]], ...]:
    """For each other path, the predicted change of Dice (mean, low, high) from it to the chosen one.

    What is trained already costs the same Dice as what is not, so that finished stages count like others here.
    """
    if calibration is None:
        return ()
    graph = model.graph(problem)
    cost = graph.candidate(chosen, UNCONSTRAINED).cost
    return tuple(
        (path, calibration.gain(graph.candidate(path, UNCONSTRAINED).cost, cost)) for path in others if path != chosen
    )


def gain_sentences(
    calibration: Calibration | None,
    gained: Sequence[tuple[tuple[int, ...], tuple[float, float, float]]],
    problem: SequenceProblem,
    weighed_by: str | None,
) -> tuple[str, ...]:
    """The gain in Dice, or that costs are not Dice; ``weighed_by`` is the calibration of the affinity."""
    if calibration is None:
        if weighed_by is None:
            return (NOT_DICE,)
        return (f"The distances were weighed by the calibration {weighed_by}; -weights FILE plans with all of it.",)
    parts = [
        f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) against {_words(path, problem)}" for path, (mean, low, high) in gained
    ]
    if not parts:
        return ()
    told = "; ".join(parts)
    sentences = [f"Predicted change of Dice, with 95 % intervals of a single run: {told} ({calibration.origin})."]
    as_good = " and ".join(other.ranking for other in calibration.measurements.not_beaten)
    if as_good:
        sentences.append(f"Held out, that calibration did not surely rank better than {as_good}: trust it accordingly.")
    return tuple(sentences)


def effort(
    path: tuple[int, ...],
    options: PlanOptions,
    constraints: Constraints,
    problem: SequenceProblem,
    epoch: EpochTime,
    finished: Finished,
) -> tuple[str, ...]:
    """What is still to train, and what is there already."""
    left = to_train(path, constraints)
    training = options.training
    epochs = prices(training, problem, epoch, "epochs")
    hours = prices(training, problem, epoch, "GPU hours")
    folds = f" in each of {training.folds} folds" if training.folds > 1 else ""
    stages = [f"{training.source_epochs} epochs on {problem.names[part[-1]]}" for part in left[:-1]]
    stages.append(f"{training.epochs} epochs on {problem.names[path[-1]]}{folds}")
    first = (
        f"To train: {', '.join(stages)}; in all {sum(epochs[part[-1]] for part in left):g} epochs, about "
        f"{sum(hours[part[-1]] for part in left):.1f} GPU hours at {epoch.seconds:.3g} s an epoch ({epoch.origin})."
    )
    done = [problem.names[path[k]] for k in range(len(path) - 1) if path[: k + 1] not in left]
    trained = (f"Trained already, so it costs nothing: {', '.join(done)}.",) if done else ()
    names = [problem.names[task] for task in path]
    others = (
        f"{names[k]} is trained with {other}: that does not count, and training it otherwise needs a -tag."
        for k in range(len(path) - 1)
        if (other := finished.other_recipes.get(tuple(names[: k + 1])))
    )
    return (first, *trained, *others)


def _support(decision: Decision, robustness: Robustness, problem: SequenceProblem) -> tuple[str, ...]:
    scale = " on the scale of the exact strategy" if decision.strategy == "published" else ""
    weak = robustness.unsupported
    if weak is not None:
        what = "a transfer" if weak.kind == "scratch" else "an intermediate"
        return (
            f"The data do not support {what}: {_short(decision.chosen.path, problem)} costs less than {_every(weak)}"
            f"{scale} in only {percent(weak.share)} of the resamples, {percent(SURE)} are asked for "
            f"({_saved(weak, problem)}).",
        )
    what = "an intermediate" if decision.chosen.kind == "sequence" else "a transfer"
    parts = [
        f"than {_every(entry)} in {percent(entry.share)} of the resamples ({_saved(entry, problem)})"
        for entry in robustness.comparisons
    ]
    return (f"The data support {what}: it costs less{scale} {', '.join(parts)}.",) if parts else ()


def _saved(entry: Comparison, problem: SequenceProblem) -> str:
    less = f"{entry.saved:.2g} less" if entry.saved >= 0 else f"{-entry.saved:.2g} more"
    return f"{less} than {_words(entry.path, problem)}, 95 % interval of the saving {entry.low:.2g} to {entry.high:.2g}"


def _every(entry: Comparison) -> str:
    return "scratch" if entry.kind == "scratch" else "every direct transfer"


def _words(path: tuple[int, ...], problem: SequenceProblem) -> str:
    if len(path) == 1:
        return "scratch"
    if len(path) == 2:
        return f"direct transfer from {problem.names[path[0]]}"
    return " -> ".join(problem.names[task] for task in path)


def _held_fixed(robustness: Robustness, problem: SequenceProblem) -> tuple[str, ...]:
    if not robustness.fixed:
        return ()
    hops = ", ".join(f"{problem.names[i]} -> {problem.names[j]}" for i, j in robustness.fixed)
    return (f"Not resampled, and so taken as certain: the distance of {hops}.",)


def _short(path: tuple[int, ...], problem: SequenceProblem) -> str:
    return short_path([problem.names[task] for task in path])

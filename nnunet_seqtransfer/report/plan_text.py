"""A plan in words and a table, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, dataset_id
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.report.words import percent

MOST_ROWS = 8
"""Candidates in the table; the plan's file has all."""
TERMS = {
    "closeness": "the distances",
    "names": "the names of channels and labels",
    "zero_shot": "the sources' own models on the target",
    "track_record": "earlier transfers",
}
"""Terms of the gain in words."""
RULED_OUT = {
    "must": "misses a source that is required",
    "avoid": "avoided",
    "cases": "too few cases",
    "budget": "over budget",
}
"""Constraints in words, for a path that breaks them."""
EPOCH_TIMES = {
    "given": "as given",
    "logged": "median of {epochs} logged epochs",
    "published": "nnU-Net's on an A100, not measured here",
}


def plan_text(plan: SequencePlan) -> str:
    """Return the plan in under 25 lines: the verdict, then the candidates."""
    show_cost = any(entry.cost is not None for entry in plan.candidates)
    header = ["", "sources", *(["path cost"] if show_cost else []), "gain", "95 % interval", "harm", "GPU hours", ""]
    # The chosen path and scratch are shown wherever they stand.
    shown = [
        entry
        for place, entry in enumerate(plan.candidates)
        if place < MOST_ROWS or entry.path == plan.path or len(entry.path) == 1
    ]
    rows = [_row(plan, entry, show_cost=show_cost) for entry in shown]
    return "\n".join([headline(plan), *sentences(plan), "", text_table(header, rows)])


def headline(plan: SequencePlan) -> str:
    """Return the decision in one line."""
    chosen = plan.chosen
    if not plan.sources:
        return f"{plan.target}: stay with scratch"
    return f"{plan.target}: train {' -> '.join(plan.sources)} first; expected gain {chosen.gain:+.2f} Dice"


def sentences(plan: SequencePlan) -> list[str]:
    """Return what the plan says, one sentence each, without the headline and the table."""
    return [*_worth(plan), *_headroom(plan), *_rivals(plan), *_effort(plan), *_basis(plan), *_left_out(plan)]


def short_path(path: Sequence[str]) -> str:
    """Return a path by the sources' numbers: "21 -> 24", "21 alone" (direct transfer) or "scratch"."""
    names = [str(dataset_id(name)) if DATASET_NAME.fullmatch(name) else name for name in path[:-1]]
    return {0: "scratch", 1: f"{''.join(names)} alone"}.get(len(names), " -> ".join(names))


def _worth(plan: SequencePlan) -> Iterator[str]:
    chosen = plan.chosen
    if plan.sources:
        yield (
            f"Against scratch of equal target epochs: {_gain(chosen)} for a single run; chance of harm "
            f"{percent(chosen.harm)}."
        )
        if not plan.supported:
            yield "The interval contains 0: a gain is likely at best, not certain."
    else:
        best = max((entry for entry in plan.candidates if len(entry.path) > 1), key=lambda one: one.gain, default=None)
        if best is None:
            yield "There is no source to transfer from."
        elif best.ruled_out:
            yield f"The best transfer, {short_path(best.path)}, is ruled out: {RULED_OUT[best.ruled_out]}."
        else:
            yield (
                f"No source is expected to help. The best, {short_path(best.path)}: {_gain(best)}; chance of harm "
                f"{percent(best.harm)}."
            )
    if chosen.clash:
        yield f"The modalities of the last source and the target differ ({chosen.clash})."


def _headroom(plan: SequencePlan) -> Iterator[str]:
    if plan.scratch_dice is None:
        yield "The Dice of scratch is unknown; with -scratch_dice X the prediction is better."
    else:
        yield f"Scratch has a Dice of {plan.scratch_dice:.2f}, so {1 - plan.scratch_dice:.2f} is left to gain."


def _rivals(plan: SequencePlan) -> Iterator[str]:
    if plan.close:
        yield f"Cannot be told apart from it: {', '.join(short_path(path) for path in plan.close)}."
    longer = plan.longer
    if longer is None:
        return
    what = f"Scratch trained {longer.length:.2g} times as long takes {longer.gpu_hours:.1f} GPU hours"
    if longer.gain is None or longer.low is None or longer.high is None:
        yield f"{what}; its gain was measured for short trainings only."
    else:
        yield f"{what}: {longer.gain:+.2f} ({longer.low:+.2f} to {longer.high:+.2f})."


def _effort(plan: SequencePlan) -> Iterator[str]:
    time = plan.epoch_time
    origin = EPOCH_TIMES[time.origin].format(epochs=time.epochs)
    yield (
        f"To train: {plan.chosen.epochs:g} epochs, about {plan.gpu_hours:.1f} GPU hours at {time.seconds:.3g} s an "
        f"epoch ({origin})."
    )
    if plan.finished:
        yield f"Trained already: {', '.join(plan.finished)}."
    for name, (epochs, iterations) in plan.other_recipes.items():
        yield f"{name} is trained with {epochs} epochs of {iterations} iterations, which does not count; use a -tag."


def _basis(plan: SequencePlan) -> Iterator[str]:
    own = f", among them those of {plan.calibration}" if plan.calibration else ""
    transfers, targets = plan.measured
    terms = " and ".join(filter(None, [", ".join(TERMS[name] for name in plan.evidence[:-1]), *_last(plan.evidence)]))
    rest = f"Gains rest on {terms}" if terms else "Nothing is known of the sources: gains are averages"
    yield f"{rest}, fitted on {transfers} measured transfers to {targets} targets (short trainings){own}."


def _last(names: Sequence[str]) -> list[str]:
    return [TERMS[name] for name in names[-1:]]


def _left_out(plan: SequencePlan) -> Iterator[str]:
    for entry in plan.left_out:
        if entry.reason == "overlap":
            yield f"Left out: {entry.dataset}, which holds cases of the target (--allow_overlap uses it)."
    elsewhere = [entry.dataset for entry in plan.left_out if entry.reason == "signature"]
    if elsewhere:
        yield f"Left out, known by a signature file only: {', '.join(elsewhere)}."


def _gain(entry: CandidatePath) -> str:
    return f"{entry.gain:+.2f} Dice ({entry.low:+.2f} to {entry.high:+.2f})"


def _row(plan: SequencePlan, entry: CandidatePath, *, show_cost: bool) -> list[str]:
    mark = ">" if entry.path == plan.path else "x" if entry.ruled_out else "~" if entry.path in plan.close else ""
    is_scratch = len(entry.path) == 1
    cost = ["-" if entry.cost is None else f"{entry.cost:.3f}"] if show_cost else []
    return [
        mark,
        "scratch" if is_scratch else " -> ".join(entry.path[:-1]),
        *cost,
        f"{entry.gain:+.3f}",
        "-" if is_scratch else f"{entry.low:+.2f} to {entry.high:+.2f}",
        "-" if is_scratch else percent(entry.harm),
        f"{entry.gpu_hours:.1f}",
        RULED_OUT.get(entry.ruled_out, "") or entry.clash,
    ]

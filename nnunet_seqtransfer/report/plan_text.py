"""Affinities, plans and calibrations in words and tables, for the terminal and the report."""

from collections.abc import Collection, Iterator, Mapping

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.name_match import match_names
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry
from nnunet_seqtransfer.calibration.calibrate import Calibration
from nnunet_seqtransfer.planning.measured import SHIPPED_CASES
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report import words

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
    "published": "a guess, not measured here",
}


def plan_text(plan: SequencePlan) -> str:
    """Return the plan in under 25 lines: the verdict, then the candidates."""
    show_cost = any(entry.cost is not None for entry in plan.candidates)
    header = ["", "sources", *(["path cost"] if show_cost else []), "gain", "95 % interval", "harm", "hours", ""]
    # The chosen path and scratch are shown wherever they stand.
    shown = [
        entry
        for place, entry in enumerate(plan.candidates)
        if place < MOST_ROWS or entry.path == plan.path or len(entry.path) == 1
    ]
    rows = [_row(plan, entry, show_cost=show_cost) for entry in shown]
    return "\n".join([headline(plan), *sentences(plan), "", words.text_table(header, rows)])


def headline(plan: SequencePlan) -> str:
    """Return the decision in one line."""
    chosen = plan.chosen
    if not plan.sources:
        return f"{plan.target}: stay with scratch"
    steps = [f"start from the model of {plan.model.dataset}"] if plan.model else []
    steps += [f"train {' -> '.join(plan.to_train)} first"] if plan.to_train else []
    return f"{plan.target}: {', '.join(steps)}; expected gain {chosen.gain:+.2f} Dice"


def sentences(plan: SequencePlan) -> list[str]:
    """Return what the plan says, one sentence each, without the headline and the table."""
    return [*_worth(plan), *_headroom(plan), *_rivals(plan), *_effort(plan), *_basis(plan), *_left_out(plan)]


def _worth(plan: SequencePlan) -> Iterator[str]:
    chosen = plan.chosen
    if plan.sources:
        yield (
            f"Against scratch of equal target epochs: Dice {_gain(chosen)} for a single run; chance of harm "
            f"{words.percent(chosen.harm)}."
        )
        if not plan.supported:
            yield "The interval contains 0: a gain is likely at best, not certain."
    else:
        best = max((entry for entry in plan.candidates if len(entry.path) > 1), key=lambda one: one.gain, default=None)
        if best is None:
            yield "There is no source to transfer from."
        elif best.ruled_out:
            yield f"The best transfer, {_words(plan, best.path)}, is ruled out: {RULED_OUT[best.ruled_out]}."
        else:
            expected = "likely enough to help" if best.gain > 0 else "expected to help"
            yield (
                f"No source is {expected}. The best, {_words(plan, best.path)}: Dice {_gain(best)}; "
                f"chance of harm {words.percent(best.harm)}."
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
        yield f"Cannot be told apart from it: {', '.join(_words(plan, path) for path in plan.close)}."
    if plan.as_it_is:
        name, dice = plan.as_it_is
        expected = None if plan.scratch_dice is None else plan.scratch_dice + plan.chosen.gain
        better = f", above the {expected:.2f} that is expected here" if expected and dice > expected else ""
        yield f"Without any training, the network of {name} has Dice {dice:.2f} on the labelled cases{better}."
    longer = plan.longer
    if longer is None:
        return
    what = f"Scratch trained {longer.length:.2g} times as long takes {words.duration(3600 * longer.gpu_hours)}"
    if longer.gain is None:
        yield f"{what}; its gain was measured for short trainings only."
    else:
        yield f"{what}: {words.interval(longer.gain, longer.low, longer.high, '+', 2)}."


def _effort(plan: SequencePlan) -> Iterator[str]:
    time = plan.epoch_time
    origin = EPOCH_TIMES[time.origin].format(epochs=time.epochs)
    yield (
        f"To train: {plan.chosen.epochs:g} epochs, about {words.duration(3600 * plan.gpu_hours)} at "
        f"{time.seconds:.3g} s an epoch ({origin})."
    )
    if plan.models:
        yield "* starts from a ready model: that source costs nothing (-models none trains all)."
    if plan.model:
        yield f"The model gives {words.percent(plan.model.coverage)} of the network: {plan.model.model}."
    if plan.finished:
        yield f"Trained already: {', '.join(plan.finished)}."
    for name, (epochs, iterations) in plan.other_recipes.items():
        yield f"{name} is trained with {epochs} epochs of {iterations} iterations, which does not count; use a -tag."


def _basis(plan: SequencePlan) -> Iterator[str]:
    own = f", among them those of {plan.calibration}" if plan.calibration else ""
    transfers, targets = plan.measured
    terms = words.listed([TERMS[name] for name in plan.evidence])
    rest = f"Gains rest on {terms}" if terms else "Nothing is known of the sources: gains are averages"
    yield f"{rest}, fitted on {transfers} measured transfers to {targets} targets (short trainings){own}."
    if plan.target_cases is not None and plan.target_cases > 2 * SHIPPED_CASES:
        yield (
            f"The target has {plan.target_cases} labelled cases, the measured targets {SHIPPED_CASES} at most: expect "
            "less gain and less harm."
        )


def _left_out(plan: SequencePlan) -> Iterator[str]:
    for entry in plan.left_out:
        if entry.reason == "overlap":
            yield f"Left out: {entry.dataset}, which holds cases of the target (--allow_overlap uses it)."
    elsewhere = [entry.dataset for entry in plan.left_out if entry.reason == "signature"]
    if elsewhere:
        yield f"Left out, known by a signature file only: {', '.join(elsewhere)}."


def _words(plan: SequencePlan, path: tuple[str, ...]) -> str:
    return words.path_words(plan.starred(path), " -> ")


def _gain(entry: CandidatePath) -> str:
    return words.interval(entry.gain, entry.low, entry.high, "+", 2)


def _row(plan: SequencePlan, entry: CandidatePath, *, show_cost: bool) -> list[str]:
    mark = ">" if entry.path == plan.path else "x" if entry.ruled_out else "~" if entry.path in plan.close else ""
    is_scratch = len(entry.path) == 1
    cost = [words.decimals(entry.cost, missing="-")] if show_cost else []
    return [
        mark,
        "scratch" if is_scratch else " -> ".join(plan.starred(entry.path)[:-1]),
        *cost,
        words.decimals(entry.gain, sign="+"),
        "-" if is_scratch else words.span(entry.low, entry.high, places=2, sign="+"),
        "-" if is_scratch else words.percent(entry.harm),
        words.hours(entry.gpu_hours),
        RULED_OUT.get(entry.ruled_out, "") or entry.clash,
    ]


def calibration_text(calibration: Calibration) -> str:
    """Return what was measured, and how well it is predicted without and with the user's other targets."""
    rows = calibration.table.rows
    transfers = words.counted(len(rows), "measured transfer")
    targets = words.counted(len({row.target for row in rows}), "target")
    table = [
        [name, words.decimals(calibration.weighted_tau[place]), words.decimals(calibration.regret[place])]
        for place, name in enumerate(("shipped measurements", "with your other targets"))
    ]
    return "\n".join(
        [
            f"{transfers} to {targets} ({calibration.metric})",
            "",
            "Each target predicted without it:",
            words.text_table(["predicted from", "weighted tau", "regret of the first choice"], table),
            "",
            _verdict(calibration),
        ]
    )


def _verdict(calibration: Calibration) -> str:
    if calibration.lead is None:
        return "With one target it cannot be said whether your measurements help other targets."
    fall = f"95 % interval of the fall of the regret {words.span(*calibration.lead, sign='+')}"
    if calibration.lead[0] > 0:
        return f"Your measurements help: {fall}."
    return f"It is not clear that your measurements help: {fall}. Measure more targets."


def affinity_table(
    affinity: Affinity, zero_shot: Mapping[str, float] | None = None, shared: Collection[str] = ()
) -> str:
    """Return the sources, nearest first, with interval and components of the distance to the target.

    ``zero_shot``: source -> Dice of the source's own network on the target. ``shared``: sources that hold cases of the
    target; they are marked.
    """
    probed = ["zero-shot"] if zero_shot else []
    header = ["source", "distance", "95 % interval", "", *affinity.components, "names", *probed, "cases", "compared"]
    target = affinity.tasks[-1]
    names = [match_names(task, target) for task in affinity.tasks]
    rows = [
        [
            f"{affinity.names[i]}{_mark(affinity.tasks[i], shared)}",
            words.decimals(affinity.distances[i][-1]),
            words.span(affinity.low[i], affinity.high[i], "unknown (one case)"),
            "~" if place < len(affinity.indistinct) and affinity.indistinct[place] else "",
            *(words.decimals(component[i][-1]) for component in affinity.components.values()),
            f"{names[i].score:.2f}",
            *(
                [words.decimals(zero_shot[affinity.names[i]]) if affinity.names[i] in zero_shot else "-"]
                if zero_shot
                else []
            ),
            str(affinity.tasks[i].labelled_cases),
            counterpart_words(affinity.counterparts[i]) + (f"; differs: {names[i].clash}" if names[i].clash else ""),
        ]
        for place, i in enumerate(affinity.ranking())
    ]
    title = f"Distance to {affinity.target} ({affinity.metric}, {affinity.configuration}), nearest first"
    weights = ", ".join(f"{name} {weight:.4g}" for name, weight in affinity.combination.weights.items())
    notes = [f"Weights: {weights} (guesses)."]
    if any(affinity.indistinct):
        notes.append("~ the cases cannot tell this source from the next one.")
    same = [affinity.names[i] for i in affinity.ranking() if affinity.low[i] == 0 and affinity.names[i] not in shared]
    if same:
        notes.append(f"No different from the target: {', '.join(same)}. If the patients are the same, leave it out.")
    return "\n".join([title, "", words.text_table(header, rows), "", *notes])


def _mark(task: TaskEntry, shared: Collection[str]) -> str:
    if task.dataset in shared:
        return " (! holds cases of the target)"
    return "" if task.registered else " (signature)"


def counterpart_words(found: Counterparts) -> str:
    """Return what was compared with what: "T1 -> MRI; tumour -> lesion"."""
    if found.same_cases:
        return "same patients"
    return "; ".join(f"{mine} -> {theirs}" for mine, theirs in (*found.channels, *found.labels))

"""A run in sentences: the decision, its reasons, the result, and whether it beats training from scratch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.nnunet.validation import case_dice, mean_dice
from nnunet_seqtransfer.report.comparison_text import evaluated_on
from nnunet_seqtransfer.report.findings import Findings, StageFound
from nnunet_seqtransfer.report.plan_text import sentences
from nnunet_seqtransfer.report.words import arrows, counted, decimals, interval, listed, path_words, percent, short
from nnunet_seqtransfer.training.command import seq_train_command

FEW_CASES = 10


def decision(found: Findings) -> str:
    """Return what is trained and why, in one sentence."""
    request = found.run.request
    begin = f", starting from the weights of {request.pretrained.file.name}" if request.pretrained else ""
    if request.sources:
        what = f"{request.target} is trained after {' and then '.join(request.sources)}{begin}"
    else:
        what = f"{request.target} is trained {'alone' if begin else 'from scratch'}{begin}"
    return f"{what}{_reason(found)}."


def _reason(found: Findings) -> str:
    """Return why, to complete the sentence."""
    if found.plan is None:
        return ", as requested: there is no plan for this target"
    if not found.follows_plan:
        sources = found.plan.sources
        return f", as requested: the plan proposes {path_words(found.planned_path) if sources else 'scratch'}"
    if not found.plan.sources:
        return ": no source is expected to help"
    chosen = found.plan.chosen
    gain = interval(chosen.gain, chosen.low, chosen.high, "+")
    return f": expected gain over scratch {gain} Dice, chance of harm {percent(chosen.harm)}"


def reasons(found: Findings) -> list[str]:
    """Return the plan's own reasons. What the plan would take to train is left out: the run has its own recipe."""
    if found.plan is None:
        return []
    return [arrows(line) for line in sentences(found.plan) if not line.startswith("To train: ")]


def result(found: Findings) -> str:
    """Return what the run has reached so far, in a sentence or two."""
    done = sum(stage.is_finished for stage in found.stages)
    progress = f"{done} of {counted(len(found.stages), 'stage')} finished"
    if not found.cases:
        return f"{progress}; no fold of the target has been validated yet."
    few = " With so few cases this is a rough figure." if len(found.cases) < FEW_CASES else ""
    return f"Dice {decimals(mean_dice(case_dice(found.cases)))} {_evaluated_on(found)}; {progress}.{few}"


def _evaluated_on(found: Findings) -> str:
    cases = counted(len(found.cases), "case")
    if found.trained_on_cases:
        return f"on the training cases themselves ({cases}), since fold all holds none out"
    folds = list(dict.fromkeys(case.fold for case in found.cases))
    shared = ", some of which sources may hold" if found.sources_may_hold_cases else ""
    return f"in the validation of fold{'' if len(folds) == 1 else 's'} {listed(folds)} ({cases}{shared})"


def against_scratch(found: Findings) -> tuple[str, str]:
    """Return whether the run beats training from scratch, and the command that finds out ("" if it is known).

    Without sources there is nothing to compare: both are empty.
    """
    request = found.run.request
    if not request.sources:
        return "", ""
    for comparison in found.comparisons:
        entry = _difference(found, comparison)
        if entry is not None:
            where = f" on the test set {comparison.test_set}" if comparison.test_set else ""
            words = interval(entry.mean, entry.low, entry.high, "+")
            return f"Dice {words} against scratch{where}, over {counted(entry.cases, 'case')}.", ""
    command = seq_train_command(replace(request, sources=()), found.run.options)
    return "Whether this beats training from scratch is unknown. To find out, train from scratch too:", shlex.join(
        command
    )


def _difference(found: Findings, comparison: Comparison) -> Difference | None:
    """Return the difference in Dice between the run's path and scratch."""
    own = {arm.name for arm in comparison.arms if arm.sources == found.run.request.sources and not arm.extra_epochs}
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    return next((one for one in comparison.differences if one.arm in own and one.against in scratch), None)


def comparison_words(comparison: Comparison) -> str:
    """Return what was compared, on which cases, and whether it is complete."""
    state = "complete" if comparison.complete else "not complete yet"
    arms, seeds = counted(len(comparison.arms), "path"), counted(len(comparison.seeds), "seed")
    return f"{arms} to this target, trained alike with {seeds}; {state}. Scores are of {evaluated_on(comparison)}."


def stage_states(stages: Sequence[StageFound]) -> list[tuple[str, bool]]:
    """Return each state in words, and whether the stage is finished."""
    told = []
    for stage in stages:
        fold = f"fold {stage.entry.fold}: " if stage.role == "target" else ""
        left_out = len(stage.entry.excluded)
        without = f" (without {counted(left_out, 'shared case')})" if left_out else ""
        told.append((f"{fold}{stage.status}{without}", stage.is_finished))
    return told


def stage_title(stage: StageFound) -> str:
    """Return dataset and fold."""
    return f"{short(stage.entry.dataset)}, fold {stage.entry.fold}"

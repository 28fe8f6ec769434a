"""The guard of every comparison: no case that a stage was trained on, under any name, is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.overlap.matching import SharedCase
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.stages import Stage

Splits = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Fold -> "train" and "val" -> cases."""


@dataclass(frozen=True)
class Trained:
    """The cases that one stage is trained on."""

    stage: str
    "Its key: DATASET/PLANS/fold_K."
    dataset: str
    "Full name of its dataset."
    cases: frozenset[str]
    "Identifiers."


@dataclass(frozen=True)
class Evaluated:
    """The cases that a model is evaluated on."""

    dataset: str
    "Full name of their dataset; for cases of its imagesTs, something else."
    cases: frozenset[str]
    "Identifiers."


@dataclass(frozen=True)
class SeenCase:
    """A case that must not be evaluated."""

    case: str
    "Its identifier in the evaluated dataset."
    stage: str
    "The stage that was trained on it."
    trained_case: str
    "What it is called there."
    evidence: str
    "Why it is the same."


def seen_cases(evaluated: Evaluated, trained: Iterable[Trained], shared: Sequence[SharedCase]) -> tuple[SeenCase, ...]:
    """The evaluated cases that a stage was trained on: by name in their own dataset, as a shared case in any.

    Args:
        evaluated: what one model is evaluated on.
        trained: what every stage that led to that model was trained on.
        shared: pairs of cases that hold the same image or labels; ``target_case`` in the evaluated dataset.
    """
    found = []
    for one in trained:
        if one.dataset == evaluated.dataset:
            same = sorted(one.cases & evaluated.cases)
            found += [SeenCase(case, one.stage, case, "the same case") for case in same]
        found += [
            SeenCase(pair.target_case, one.stage, pair.source_case, pair.evidence)
            for pair in shared
            if pair.source == one.dataset and pair.source_case in one.cases and pair.target_case in evaluated.cases
        ]
    return tuple(found)


def require_unseen(evaluated: Evaluated, trained: Iterable[Trained], shared: Sequence[SharedCase], remedy: str) -> None:
    """Raises StageError, naming the first case and stage, where an evaluated case was trained on."""
    found = seen_cases(evaluated, trained, shared)
    if found:
        first = found[0]
        count = len({one.case for one in found})
        raise StageError(
            f"a stage was trained on {count} of the cases of {evaluated.dataset} that would be evaluated, such as "
            f"{first.case}, which is {first.trained_case} of {first.stage} ({first.evidence}); {remedy}"
        )


def trained_cases(chain: Chain, last: Stage, splits: Splits) -> tuple[Trained, ...]:
    """What every stage up to ``last``, one of the target's folds, is trained on; ``splits`` are the target's."""
    stages = [last]
    while (previous := chain.previous(stages[-1])) is not None:
        stages.append(previous)
    return tuple(
        Trained(stage.key, stage.dataset, _cases(stage, chain.tasks[stage.dataset], splits)) for stage in stages
    )


def _cases(stage: Stage, task: Task, splits: Splits) -> frozenset[str]:
    cases = frozenset(task.cases) if stage.fold == "all" else frozenset(splits[stage.fold]["train"])
    return cases - frozenset(stage.excluded)


def same_files(dataset: str, task: Mapping[str, RawCase], cases: Mapping[str, RawCase]) -> tuple[SharedCase, ...]:
    """Pairs of cases that read the very same image file, as derived datasets do; ``cases`` are the evaluated ones."""
    places = {image.resolve(): name for name, case in cases.items() for image in case.images}
    return tuple(
        SharedCase(dataset, name, places[image.resolve()], f"the same file {image.name}", 1.0)
        for name, case in task.items()
        for image in case.images[:1]
        if image.resolve() in places
    )


def within(shared: Iterable[SharedCase], dataset: str) -> list[SharedCase]:
    """Pairs of different cases, where a dataset was compared with itself."""
    return [one for one in shared if one.source != dataset or one.source_case != one.target_case]

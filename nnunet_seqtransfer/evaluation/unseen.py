"""Guard against leaks: no case that a stage is trained on, under any name, may be evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.evaluation.prediction import HeldOutSet
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.overlap.matching import SharedCase, announced_sketches, match_datasets
from nnunet_seqtransfer.tasks.task import Task

Splits = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Fold -> "train" and "val" -> case identifiers."""


def require_unseen_folds(target: Task, folds: Sequence[str], splits: Splits, context: Context, *, write: bool) -> None:
    """Check that no fold trains on a case that it validates on, under the same or another name.

    Cases in sources are found by `find_exclusions`. ``write`` keeps sketches.

    Raises StageError for fold "all", which holds no case out, and if a case is on both sides.
    """
    if "all" in folds:
        raise StageError(
            "fold all holds no case out, so nothing is left to evaluate; choose other folds with -f, or give -test"
        )
    own = announced_sketches(target.dataset, context, write=write)
    matches = match_datasets(own, own)
    pairs = [pair for pair in matches if pair.source_case != pair.target_case]
    # splits_final.json may list a case on both sides
    pairs += [SharedCase(target.dataset, case, case, same="case") for case in target.cases]
    for fold in folds:
        train, held_out = splits[fold]["train"], splits[fold]["val"]
        seen = [pair for pair in pairs if pair.source_case in train and pair.target_case in held_out]
        _refuse(seen, f"fold {fold}", "put such cases on one side of the folds in splits_final.json")


def require_unseen_test(
    test: HeldOutSet, target: Task, sources: Iterable[Task], folds: Sequence[str], splits: Splits, context: Context,
    *, write: bool,
) -> None:  # fmt: skip
    """Check that no test case is trained on, in the target's folds or in any source.

    Cases are compared by file, by content and, in the target, by name. ``write`` keeps sketches.

    Raises StageError if one is.
    """
    own = test.sketched(context.processes, write=write)
    numbered = [fold for fold in folds if fold != "all"]
    in_target = set(target.cases) if "all" in folds else {case for fold in numbered for case in splits[fold]["train"]}
    for task in (target, *sources):
        trained = in_target if task is target else set(task.cases)
        pairs = list(same_files(task.dataset, task.raw, test.cases))
        other = announced_sketches(task.dataset, context, write=write)
        pairs += match_datasets(own, other) if other.sketches else []
        remedy = "leave that dataset out of the sources, or derive a test set without these cases"
        _refuse([pair for pair in pairs if pair.source_case in trained], test.name, remedy)


def same_files(dataset: str, raw: Mapping[str, RawCase], cases: Mapping[str, RawCase]) -> tuple[SharedCase, ...]:
    """Return pairs that read the same image file, one from ``dataset`` (files in ``raw``) and one from ``cases``.

    Derived datasets refer to the original files.
    """
    names = {image.resolve(): name for name, case in cases.items() for image in case.images}
    return tuple(
        SharedCase(dataset, name, names[image.resolve()], same="file")
        for name, case in raw.items()
        for image in case.images[:1]  # one channel is enough to tell
        if image.resolve() in names
    )


def _refuse(seen: Sequence[SharedCase], evaluated: str, remedy: str) -> None:
    if seen:
        first, count = seen[0], len({pair.target_case for pair in seen})
        raise StageError(
            f"{count} of the cases to evaluate ({evaluated}) would be trained on, such as {first.target_case}, which "
            f"is {first.source_case} of {first.source} ({first.evidence}); {remedy}"
        )

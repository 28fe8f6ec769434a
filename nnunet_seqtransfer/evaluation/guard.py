"""Looks for evaluated cases in everything that a comparison trains on, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.evaluation.held_out import HeldOutSet
from nnunet_seqtransfer.evaluation.unseen import Evaluated, Splits, require_unseen, same_files, trained_cases, within
from nnunet_seqtransfer.overlap.matching import SharedCase, announced_sketches, match_datasets
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.chain import Chain


def check_unseen(
    chains: Iterable[Chain],
    splits: Splits,
    held_out: HeldOutSet | None,
    processes: int,
    notify: Callable[[str], None],
    *,
    write: bool,
) -> None:
    """Raises StageError where a case that would be evaluated is one that a stage of its own model is trained on.

    Args:
        chains: of every trial.
        splits: of the target.
        held_out: the test set; None where each fold is evaluated on the cases that it holds out.
        processes: worker processes for cases that are not sketched yet.
        notify: called with a line for each dataset whose cases cannot be compared.
        write: whether the sketches of registered datasets are kept.
    """
    known = list(chains)
    tasks = {name: task for chain in known for name, task in chain.tasks.items()}
    target = known[0].request.target
    folds = [fold for chain in known for fold in chain.request.folds]
    if held_out is None and "all" in folds:
        raise StageError(
            "fold all holds no case out, so nothing is left to evaluate; choose other -folds, or give -test"
        )
    shared = _shared(held_out, target, tasks, processes, notify, write=write)
    if held_out is None:
        remedy = "keep such cases out with --exclude_overlap, or on one side of the folds with splits_final.json"
    else:
        remedy = "leave that dataset out of the sources, or derive a test set without these cases"
    for chain in known:
        for stage in (stage for stage in chain.stages if stage.role == "target"):
            if held_out is None:
                evaluated = Evaluated(target, frozenset(splits[stage.fold]["val"]))
            else:
                evaluated = Evaluated(held_out.name, frozenset(held_out.cases))
            require_unseen(evaluated, trained_cases(chain, stage, splits), shared, remedy)


def _shared(
    held_out: HeldOutSet | None,
    target: str,
    tasks: Mapping[str, Task],
    processes: int,
    notify: Callable[[str], None],
    *,
    write: bool,
) -> list[SharedCase]:
    """All pairs of an evaluated case and one of any dataset that is trained on, the target included."""
    if held_out is None:
        name, cases, own = target, tasks[target].raw, announced_sketches(target, processes, notify, write=write)
    else:
        name, cases, own = held_out.name, dict(held_out.cases), held_out.sketched(processes, write=write)
    found: list[SharedCase] = []
    for dataset, task in tasks.items():
        found += same_files(dataset, task.raw, cases)
        if own.sketches:
            found += match_datasets(own, announced_sketches(dataset, processes, notify, write=write))
    return within(found, name)

"""Guard against leaks: source cases that the target validates on are refused, allowed or excluded."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.datasets import validation_cases
from nnunet_seqtransfer.nnunet.folders import raw_folder
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.overlap.matching import SharedCase, find_overlap
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions


def find_exclusions(
    request: ChainRequest, tasks: Mapping[str, Task], plans: Mapping[str, Any], context: Context
) -> Exclusions:
    """Return the cases that the sources must be trained without; empty if there are none, or the request allows them.

    ``context`` is told what cannot be checked, and which shared cases are allowed.

    Raises StageError if a source holds validation cases for a requested fold and the request refuses that, or if no
    case of a source would be left.
    """
    folder = data_folder(request.target, dict(plans), request.configuration)
    held_out = validation_cases(request.target, preprocessed_cases(folder))
    numbered = [fold for fold in request.folds if fold != "all"]
    name = request.pretrained.dataset if request.pretrained else None
    ready = (name,) if name and (raw_folder() / name).is_dir() else ()
    if not (request.datasets or ready) or not numbered:
        if request.datasets:
            context.notify(
                "fold all holds no case out: shared cases are not searched (nnUNetv2_seq_overlap lists them)"
            )
        return {}
    sources = tuple(dict.fromkeys((*request.datasets, *ready)))
    overlaps = find_overlap(request.target, sources, context)
    shared = [case for overlap in overlaps for case in overlap.shared]
    if request.overlap == "exclude" and not any(case.source in ready for case in shared):
        exclusions = exclusions_of(shared, held_out)
        _require_rest(exclusions, numbered, tasks)
        return exclusions
    asked = [one for one in shared if any(one.target_case in held_out.get(fold, ()) for fold in numbered)]
    if asked:
        concerned = {one.target_case for one in asked}
        line = _summary(asked, request.target, [fold for fold in numbered if concerned & {*held_out.get(fold, ())}])
        if request.overlap == "exclude":
            raise StageError(f"{line}; a ready model cannot exclude them: plan without it (-avoid, or -models none)")
        if request.overlap == "refuse":
            raise StageError(
                f"{line}; exclude them with --exclude_overlap (nnUNetv2_seq_train can also train on them: "
                "--allow_overlap)"
            )
        context.notify(f"{line}; they are used for training (--allow_overlap), so the validation is too good")
    return {}


def exclusions_of(shared: Sequence[SharedCase], held_out: Mapping[str, Sequence[str]]) -> Exclusions:
    """Return fold -> source -> cases that share image or labels with a case in ``held_out``, if there are any."""
    exclusions: dict[str, dict[str, tuple[str, ...]]] = {}
    for fold, cases in held_out.items():
        concerned = [one for one in shared if one.target_case in set(cases)]
        for source in dict.fromkeys(one.source for one in concerned):
            own = sorted({one.source_case for one in concerned if one.source == source})
            exclusions.setdefault(fold, {})[source] = tuple(own)
    return exclusions


def _require_rest(exclusions: Exclusions, folds: Sequence[str], tasks: Mapping[str, Task]) -> None:
    for fold in folds:
        for source, cases in exclusions.get(fold, {}).items():
            if not set(tasks[source].cases) - set(cases):
                raise StageError(
                    f"every case of {source} shares image or labels with the validation of fold {fold}, so none is "
                    "left to train on; leave this source out"
                )


def _summary(shared: Sequence[SharedCase], target: str, folds: Sequence[str]) -> str:
    """Return one line: how many cases which sources share, and the first example."""
    sources = dict.fromkeys(one.source for one in shared)
    counts = {source: len({one.source_case for one in shared if one.source == source}) for source in sources}
    listed = " and ".join(f"{count} case{'s' * (count > 1)} of {source}" for source, count in counts.items())
    first = shared[0]
    return (
        f"{listed} share image or labels with cases that {target} validates on in fold {', '.join(folds)}, such as "
        f"{first.source_case} with {first.target_case} ({first.evidence})"
    )

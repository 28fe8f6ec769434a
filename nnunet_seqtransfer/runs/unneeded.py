"""What no run needs any more, by category: decided from what was found, nothing is read or removed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.runs.files import locks_of, plans_lock_of
from nnunet_seqtransfer.runs.found import DATA_NAME, Base, Data, Fold, Found, files_in
from nnunet_seqtransfer.runs.items import Item
from nnunet_seqtransfer.runs.leftovers import leftovers
from nnunet_seqtransfer.runs.presence import SECONDS_OF_REST, Presence
from nnunet_seqtransfer.runs.status import DONE, RunStatus, State
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stage_files import weights_file


@dataclass(frozen=True)
class Category:
    """One kind of things that can be removed."""

    name: str
    "By which it is asked for."
    meaning: str
    "In a few words."
    items: Callable[[Found], Iterator[Item]]
    "Those that there are; the locks of living processes are respected."
    looked_at_again: bool = True
    "Under its locks, everything is looked at anew before an item goes: a run may have begun meanwhile."
    only_by_name: bool = False
    "Removed only where its name is given: it holds trained models that others could use."


def unreadable(found: Found) -> tuple[RunStatus, ...]:
    """Runs whose record cannot be read: nobody knows what they need, so that all but leftovers stays."""
    return tuple(run for run in found.runs if run.state is State.UNREADABLE)


def preprocessed(found: Found) -> Iterator[Item]:
    """Preprocessed sources that no unfinished run will read, of older plans of a target too."""
    for data in () if unreadable(found) else found.data:
        is_read = any(_will_read(run, data) for run in found.runs) or any(_reads(base, data) for base in found.bases)
        if not is_read and not _may_live(data.presence):
            yield Item(data.path, "no unfinished run reads it", (data.lock,))


def weights(found: Found) -> Iterator[Item]:
    """Weights handed to stages that are finished, where they can be made anew for a fold that is yet to come."""
    for base in () if unreadable(found) else found.bases:
        if not _can_be_made_again(base):
            continue
        finished = {fold.path for fold in base.folds if fold.is_finished(base.block.role)}
        everyone = {fold.path for fold in base.folds} | _recorded_folds(found, base.path)
        own = {weights_file(base.path, path.name.removeprefix("fold_")) for path in finished}
        for path in files_in(base.path):
            is_common = path == weights_file(base.path)
            is_free = path in own or (is_common and finished and everyone <= finished)
            if is_free and not any(_may_live(fold.presence) for fold in base.folds):
                locks = (plans_lock_of(base.path),)
                yield Item(path, "handed to a finished stage", locks, no_one_at=base.path)


def unused(found: Found) -> Iterator[Item]:
    """Source stages that no recorded run mentions."""
    for base in _free_sources(found):
        if not _runs_of(found, base):
            yield _source_item(base, "no recorded run mentions it")


def sources(found: Found) -> Iterator[Item]:
    """Source stages of finished runs alone."""
    for base in _free_sources(found):
        runs = _runs_of(found, base)
        if runs and all(run.state is State.FINISHED and not _is_busy(run) for run in runs):
            yield _source_item(base, f"of {', '.join(run.name for run in runs)}, finished")


def gone(found: Found) -> Iterator[Item]:
    """Records and logs of runs whose target was trained, and whose results are not there any more."""
    for run in found.runs:
        if run.run is None or run.state in (State.RUNNING, State.SILENT) or run.folder.is_symlink():
            continue
        if any(stage.queue for stage in run.stages) or not run.folder.is_relative_to(results_folder()):
            continue
        targets = [stage.files for stage in run.stages if stage.role == "target"]
        began = [files for files in targets if files.log is not None]
        if began and not any(files.exists for files in targets) and _rests(run, found.now):
            locks = (run.folder / f".{RECORD}.lock",)
            yield Item(run.folder, f"the results of {run.run.request.target} are gone", locks)


CATEGORIES = (
    Category(
        "leftovers",
        "half-written files, damaged and superseded checkpoints, locks of the dead",
        leftovers,
        looked_at_again=False,
    ),
    Category("preprocessed", "sources preprocessed for a target, read by no unfinished run", preprocessed),
    Category("unused", "source stages that no recorded run mentions", unused, only_by_name=True),
    Category("sources", "source stages of finished runs alone", sources, only_by_name=True),
    Category("weights", "weights handed to stages that are finished", weights),
    Category("runs", "records and logs of runs whose target results are gone", gone),
)
"""In the order in which they are removed: weights stay where the source that they came from goes."""


def _will_read(run: RunStatus, data: Data) -> bool:
    """Whether an unfinished run will read a folder, or a newer one for the same target: no digest is known yet."""
    match = DATA_NAME.fullmatch(data.path.name)
    if run.run is None or match is None:
        return run.run is None
    request = run.run.request
    made_for = f"{request.plans}_for{dataset_id(request.target)}_{request.configuration}_"
    return data.path.name.startswith(made_for) and any(
        stage.role == "source" and stage.state not in DONE and stage.entry.dataset == data.path.parent.name
        for stage in run.stages
    )


def _reads(base: Base, data: Data) -> bool:
    """Whether a stage that was begun, by a run or by hand, reads a folder."""
    begun = any(not fold.final and (fold.unfinished or _may_live(fold.presence)) for fold in base.folds)
    return begun and (base.dataset, base.data_identifier) == (data.path.parent.name, data.path.name)


def _can_be_made_again(base: Base) -> bool:
    """Whether another fold could be handed the same weights: a source has no other fold, a target's source is there.

    What begins with an existing model is not made twice alike: where that gives only a part, the rest is random.
    """
    if base.block.role == "source":
        return True
    init = base.block.init
    return len(base.block.path) > 1 and init is not None and (results_folder() / init.checkpoint).is_file()


def _recorded_folds(found: Found, base: Path) -> set[Path]:
    """The folds of a stage's results that runs ask for."""
    outputs = (results_folder() / stage.entry.output for run in found.runs for stage in run.stages)
    return {output for output in outputs if output.parent == base}


def _free_sources(found: Found) -> Iterator[Base]:
    """Source stages where nobody is, where nobody has put anything, and that no run begins with as a model."""
    landmarks = [run.run.request.landmark for run in found.runs if run.run is not None]
    begun_with = [landmark.file for landmark in landmarks if landmark is not None]
    for base in () if unreadable(found) else found.bases:
        is_a_start = any(file.is_relative_to(base.path.resolve()) for file in begun_with)
        is_free = base.block.role == "source" and base.only_ours and not is_a_start
        if is_free and not any(_may_live(fold.presence) for fold in base.folds):
            yield base


def _runs_of(found: Found, base: Base) -> list[RunStatus]:
    """The runs that have a stage with these results."""
    return [
        run for run in found.runs if any((results_folder() / s.entry.output).parent == base.path for s in run.stages)
    ]


def _is_busy(run: RunStatus) -> bool:
    """Whether somebody is at one of its stages, finished as they are."""
    return any(_may_live(stage.files.presence) for stage in run.stages)


def _source_item(base: Base, why: str) -> Item:
    folds: tuple[Fold, ...] = base.folds
    locks = (*(lock for fold in folds for lock in locks_of(fold.path)), plans_lock_of(base.path))
    return Item(base.path, why, locks, no_one_at=base.path)


def _rests(run: RunStatus, now: float) -> bool:
    return run.written is None or now - run.written > SECONDS_OF_REST


def _may_live(presence: Presence | None) -> bool:
    return presence is not None and presence.may_live

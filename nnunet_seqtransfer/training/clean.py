"""Find and remove what no run needs: leftovers from ended processes and finished stages, data for finished targets.

Links are never followed. Items are removed under their locks, after a second look.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer.context import Notify
from nnunet_seqtransfer.errors import RecordError, SeqTransferError, StageError
from nnunet_seqtransfer.nnunet.folders import (
    DATASET_NAME,
    SEQTRANSFER_FOLDER,
    dataset_id,
    preprocessed_folder,
    results_folder,
)
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.training.locks import REST_SECONDS, locked, other_holder, read_holder
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stage_files import LATEST, PREVIOUS, StageFiles
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.training.status import DONE, Queue, RunStatus, State, run_status

Category = Literal["leftovers", "preprocessed"]
CATEGORIES: tuple[Category, ...] = ("leftovers", "preprocessed")
_DATA = r"(?P<plans>.+)_for(?P<number>\d+)_(?P<configuration>.+)_[0-9a-f]{8}"
"""Folder name for cases preprocessed for a target; see `tasks/alignment.py`."""
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.[^.]+)?")
"""Files from `storage.replacing`, and folders that were being removed."""
_STAGING = re.compile(rf"\.{_DATA}\.tmp")
_LOCK = re.compile(rf"\.(fold_\w+(\.training)?|{_DATA}|[\w+-]+\.json)\.lock")
_DAMAGED = re.compile(r"checkpoint_\w+\.pth\.damaged")
_CASE_FILES = (".b2nd", ".pkl", ".npz", ".npy")


@dataclass(frozen=True)
class Item:
    """A file or folder that no run needs."""

    path: Path
    "File or folder to remove; never a link."
    category: Category
    "Category that it belongs to."
    reason: str
    "Item kind: half-written, superseded, ..."
    locks: tuple[Path, ...] = ()
    "Locks to hold while it is removed. If it is a lock itself, taking and releasing it removes it."


@dataclass(frozen=True)
class Unneeded:
    """Everything that could be removed."""

    items: tuple[tuple[Item, int], ...]
    "Items with their sizes in bytes, the largest first."
    unreadable: tuple[RunStatus, ...]
    "Runs with unreadable records. No one knows what they need, so preprocessed data stay."


@dataclass(frozen=True)
class Removed:
    """Removal result."""

    freed: int
    "Freed bytes."
    kept: int
    "Items that could not be removed."


def find_unneeded(queue: Queue = Queue()) -> Unneeded:
    """Return what no run needs. Raises EnvironmentNotSetError if an nnU-Net folder is missing."""
    now, runs = time.time(), run_status(queue=queue)
    unreadable = tuple(run for run in runs if run.state is State.UNREADABLE)
    items = list(_leftovers(now))
    if not unreadable:
        items += _preprocessed(runs, now)
    sized = [(item, size_of(item.path)) for item in items if not _is_held(item.locks, now)]
    return Unneeded(tuple(sorted(sized, key=lambda pair: (-pair[1], str(pair[0].path)))), unreadable)


def clean(items: Sequence[Item], notify: Notify, queue: Queue = Queue()) -> Removed:
    """Remove items that are still unneeded. What is held, needed now, or cannot be removed is kept and reported."""
    freed = kept = 0
    for item in items:
        size = size_of(item.path)
        try:
            _remove_under_locks(item, notify, queue)
        except (SeqTransferError, OSError) as error:
            kept += 1
            notify(f"kept {item.path}: {' '.join(str(error).split())}")
            continue
        freed += size - size_of(item.path)
    return Removed(freed, kept)


def size_of(path: Path) -> int:
    """Return bytes in a file, or in all files below a folder. Links count as themselves, unreadable ones as 0."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(size_of(Path(entry.path)) for entry in entries)
    except OSError:
        return 0


def _leftovers(now: float) -> Iterator[Item]:
    results, preprocessed = results_folder(), preprocessed_folder()
    for dataset in _datasets(results):
        yield from _aside(dataset, now)
        for base in _folders(dataset):
            if base.name.split("__")[0] == TRAINER and base.name.count("__") == 2:
                yield from _leftovers_of_stage(base, now)
        for run in _folders(dataset / SEQTRANSFER_FOLDER):
            yield from _aside(run, now, (run / f".{RECORD}.lock",))
            yield from _stale_locks(run, now)
        yield from _aside(dataset / SEQTRANSFER_FOLDER, now)
    for dataset in _datasets(preprocessed):
        for folder in (dataset, dataset / SEQTRANSFER_FOLDER, dataset / "gt_segmentations"):
            yield from _aside(folder, now)
        yield from _stale_locks(dataset, now)
        for path in _folders(dataset):
            if _STAGING.fullmatch(path.name) and _rests(path, now):
                yield Item(path, "leftovers", "interrupted preprocessing", (path.with_suffix(".lock"),))


def _leftovers_of_stage(base: Path, now: float) -> Iterator[Item]:
    yield from _aside(base, now, (StageFiles(base / "fold_all").plans_lock,))
    yield from _stale_locks(base, now)
    for fold in _folders(base):
        if not fold.name.startswith("fold_"):
            continue
        files = StageFiles(fold)
        yield from _aside(fold, now, files.locks)
        for path in _files(fold):
            if _DAMAGED.fullmatch(path.name):
                yield Item(path, "leftovers", "damaged checkpoint", files.locks)
        on_disk = _read(files)
        if on_disk is None or on_disk.block is None or not on_disk.is_finished(on_disk.block.role):
            continue
        for path in (fold / LATEST, fold / PREVIOUS):
            if path.is_file() and not path.is_symlink():
                yield Item(path, "leftovers", "checkpoint of a finished stage to resume from", files.locks)


def _preprocessed(runs: Sequence[RunStatus], now: float) -> Iterator[Item]:
    """Yield preprocessed sources that no unfinished run and no begun stage reads."""
    read_by_stages = set(_read_by_begun_stages(now))
    for dataset in _datasets(preprocessed_folder()):
        for path in _folders(dataset):
            made_for = re.fullmatch(_DATA, path.name)
            if made_for is None or path.name.startswith(".") or not _holds_only_cases(path):
                continue
            will_be_read = any(_will_read(run, path) for run in runs) or (dataset.name, path.name) in read_by_stages
            if not will_be_read:
                lock = path.with_name(f".{path.name}.lock")
                yield Item(path, "preprocessed", "read by no unfinished run", (lock,))


def _will_read(run: RunStatus, data: Path) -> bool:
    """Return True if an unfinished run will read a folder, or a newer one for the same target and configuration."""
    if run.run is None:
        return True
    request = run.run.request
    # the digest at the end of the name depends on plans that may change, so it is not compared
    is_for_run = data.name.startswith(f"{request.plans}_for{dataset_id(request.target)}_{request.configuration}_")
    return is_for_run and any(
        stage.state not in DONE and data.parent.name in stage.entry.datasets for stage in run.stages
    )


def _read_by_begun_stages(now: float) -> Iterator[tuple[str, str]]:
    """Yield dataset and data folder for stages that were begun, by a run or by hand."""
    for dataset in _datasets(results_folder()):
        for fold in dataset.glob(f"{TRAINER}__*__*/fold_*"):
            on_disk = _read(StageFiles(fold))
            if on_disk is None or on_disk.final or on_disk.plans is None:
                continue
            begun = on_disk.unfinished or on_disk.damaged or _is_held(on_disk.files.locks, now)
            settings = on_disk.plans["configurations"].get(on_disk.files.configuration, {})
            if begun and "data_identifier" in settings:
                yield dataset.name, settings["data_identifier"]
            for one in on_disk.block.mixed if begun and on_disk.block is not None else ():
                plans = found_json(plans_path(one.dataset, one.plans_name)) or {"configurations": {}}
                settings = plans["configurations"].get(on_disk.files.configuration, {})
                yield one.dataset, settings.get("data_identifier", "")


def _read(files: StageFiles) -> StageOnDisk | None:
    """Return a stage; None if the plans cannot be read."""
    try:
        return read_stage(files, details=True)
    except RecordError:
        return None


def _remove_under_locks(item: Item, notify: Notify, queue: Queue) -> None:
    with ExitStack() as held:
        for lock in item.locks:
            if lock.parent.is_dir():  # otherwise no process can hold it
                held.enter_context(locked(lock, f"removing {item.path}", notify))
        if item.path in item.locks:
            return
        if item.path.is_symlink():
            raise StageError("it is a link")
        if not os.path.lexists(item.path) or not _is_still_unneeded(item, queue):
            raise StageError("skipped: now in use, or already deleted")
        if item.path.is_dir():
            # renamed first, so that what a kill leaves does not look whole
            aside = item.path.with_name(f".{item.path.name}.{secrets.token_hex(4)}.tmp")
            item.path.rename(aside)
            shutil.rmtree(aside)
        else:
            item.path.unlink()


def _is_still_unneeded(item: Item, queue: Queue) -> bool:
    """Return False if a run has begun to need data since. Leftovers are recognized by their names alone."""
    if item.category == "leftovers":
        return True
    return any(other.path == item.path for other in _preprocessed(run_status(queue=queue), time.time()))


def _datasets(folder: Path) -> list[Path]:
    return [path for path in _folders(folder) if DATASET_NAME.fullmatch(path.name)]


def _folders(folder: Path) -> list[Path]:
    return [path for path, is_folder in _entries(folder) if is_folder]


def _files(folder: Path) -> list[Path]:
    return [path for path, is_folder in _entries(folder) if not is_folder]


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """Return what is in a folder, sorted, without links, and whether it is one; nothing if unreadable or a link."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries if not entry.is_symlink()
            )
    except OSError:
        return []


def _aside(folder: Path, now: float, locks: tuple[Path, ...] = ()) -> Iterator[Item]:
    """Yield half-written files, which need ``locks``, and half-removed folders."""
    for path, is_folder in _entries(folder):
        if _ASIDE.fullmatch(path.name) and _rests(path, now):
            reason = "half-removed" if is_folder else "half-written"
            yield Item(path, "leftovers", reason, () if is_folder else locks)


def _stale_locks(folder: Path, now: float) -> Iterator[Item]:
    for path in _files(folder):
        holder = read_holder(path, now) if _LOCK.fullmatch(path.name) else None
        if holder is not None and not holder.may_live and not holder.is_this_process:
            yield Item(path, "leftovers", "lock of an ended process", (path,))


def _is_held(locks: tuple[Path, ...], now: float) -> bool:
    holder = other_holder(locks, now)
    return holder is not None and holder.may_live


def _holds_only_cases(folder: Path) -> bool:
    """Return True if a folder holds only what preprocessing writes, or nothing."""
    return all(not is_folder and path.name.endswith(_CASE_FILES) for path, is_folder in _entries(folder)) and not any(
        path.is_symlink() for path in folder.iterdir()
    )


def _rests(path: Path, now: float) -> bool:
    """Return True if no one wrote to it for an hour: no file takes so long to write."""
    try:
        return now - path.lstat().st_mtime > REST_SECONDS
    except OSError:
        return False

"""What ended processes of ours have left behind: files written aside, damaged checkpoints, locks of the dead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, preprocessed_folder, results_folder
from nnunet_seqtransfer.runs.files import locks_of, plans_lock_of
from nnunet_seqtransfer.runs.found import DATA_NAME, Found, dataset_folders, files_in, folders_in, stage_folders
from nnunet_seqtransfer.runs.items import Item
from nnunet_seqtransfer.runs.presence import SECONDS_OF_REST, read_presence
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stage_files import LATEST, PREVIOUS

_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.[^.]+)?")
"""Files of `storage.replacing`, and folders that `removal.remove` has renamed."""
_STAGING = re.compile(rf"\.{DATA_NAME.pattern}\.tmp")
"""Folders that cases are preprocessed in."""
SUPERSEDED = (LATEST, PREVIOUS)


def leftovers(found: Found) -> Iterator[Item]:
    """All of them; those under the lock of a living process are left out."""
    yield from _in_results(found.now)
    yield from _superseded(found)
    yield from _in_runs(found.now)
    yield from _in_preprocessed(found.now)


def _in_results(now: float) -> Iterator[Item]:
    for base in stage_folders():
        yield from _asides(base, (plans_lock_of(base),), now)
        yield from _stale_locks([path for path in files_in(base) if _is_stage_lock(path)], now)
        for fold in folders_in(base):
            if _ASIDE.fullmatch(fold.name) and _is_old(fold, now):
                yield Item(fold, "half removed")
            if not fold.name.startswith("fold_"):
                continue
            locks = locks_of(fold)
            yield from _asides(fold, locks, now)
            for path in files_in(fold):
                if re.fullmatch(r"checkpoint_\w+\.pth\.damaged", path.name):
                    yield from _unless_held(Item(path, "truncated checkpoint, put aside", locks), now)
    for dataset in dataset_folders(results_folder()):
        for path in folders_in(dataset):
            if _ASIDE.fullmatch(path.name) and _is_old(path, now):
                yield Item(path, "half removed")


def _superseded(found: Found) -> Iterator[Item]:
    """Checkpoints to go on from, beside the final one of a stage that is finished."""
    for base in found.bases:
        for fold in base.folds:
            for name in SUPERSEDED if fold.is_finished(base.block.role) else ():
                path = fold.path / name
                if path.is_file() and not path.is_symlink():
                    item = Item(path, "checkpoint to go on from, of a finished stage", locks_of(fold.path))
                    yield from _unless_held(item, found.now)


def _in_runs(now: float) -> Iterator[Item]:
    for dataset in dataset_folders(results_folder()):
        for run in folders_in(dataset / SEQTRANSFER_FOLDER):
            lock = run / f".{RECORD}.lock"
            yield from _asides(run, (lock,), now)
            yield from _stale_locks([lock], now)
            if _ASIDE.fullmatch(run.name) and _is_old(run, now):
                yield Item(run, "half removed")


def _in_preprocessed(now: float) -> Iterator[Item]:
    for dataset in dataset_folders(preprocessed_folder()):
        for folder in (dataset, dataset / SEQTRANSFER_FOLDER, dataset / "gt_segmentations"):
            if not folder.is_symlink():
                yield from _asides(folder, (), now)
        locks = [path for path in files_in(dataset) if _is_data_lock(path)]
        yield from _stale_locks(locks, now)
        for path in folders_in(dataset):
            if _STAGING.fullmatch(path.name) and _is_old(path, now):
                lock = path.with_suffix(".lock")
                yield from _unless_held(Item(path, "cases that were being preprocessed", (lock,)), now)
            elif _ASIDE.fullmatch(path.name) and _is_old(path, now):
                yield Item(path, "half removed")


def _asides(folder: Path, locks: tuple[Path, ...], now: float) -> Iterator[Item]:
    for path in files_in(folder):
        if _ASIDE.fullmatch(path.name) and _is_old(path, now):
            yield from _unless_held(Item(path, "half written", locks), now)


def _unless_held(item: Item, now: float) -> Iterator[Item]:
    """The item, unless one of its locks is held by a process that lives, or may."""
    if not any(_is_held(lock, now) for lock in item.locks):
        yield item


def _stale_locks(locks: list[Path], now: float) -> Iterator[Item]:
    for lock in locks:
        presence = read_presence(lock, now)
        if presence is not None and not presence.may_live:
            yield Item(lock, f"lock of {presence}, which is gone", (lock,), is_lock=True)


def _is_held(lock: Path, now: float) -> bool:
    presence = read_presence(lock, now)
    return presence is not None and presence.may_live


def _is_stage_lock(path: Path) -> bool:
    return re.fullmatch(r"\.fold_\w+(\.training)?\.lock", path.name) is not None


def _is_data_lock(path: Path) -> bool:
    return re.fullmatch(rf"\.({DATA_NAME.pattern}|[\w-]+\.json)\.lock", path.name) is not None


def _is_old(path: Path, now: float) -> bool:
    """Whether nobody wrote to it for an hour: no file takes so long to write."""
    with suppress(OSError):
        return now - path.lstat().st_mtime > SECONDS_OF_REST
    return False

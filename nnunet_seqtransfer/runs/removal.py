"""Removing what no run needs: under its locks, looked at once more, and never half removed under its own name."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError, StageError
from nnunet_seqtransfer.runs.found import Found, files_in, folders_in
from nnunet_seqtransfer.runs.items import Item, size_of
from nnunet_seqtransfer.runs.presence import read_presence
from nnunet_seqtransfer.runs.unneeded import Category
from nnunet_seqtransfer.training.locks import locked

Notify = Callable[[str], None]


def remove_all(category: Category, items: list[Item], notify: Notify, look: Callable[[], Found]) -> tuple[int, int]:
    """Removes the items of a category that are still superfluous; returns the bytes freed, and how many stayed.

    ``look`` looks at nnU-Net's folders again. What is held, needed by now, or cannot be removed is told to
    ``notify`` and stays.
    """
    freed, kept = 0, 0
    for item in items:
        size = size_of(item.path)
        try:
            remove(item, lambda item=item: _is_still(category, item, look), notify)  # type: ignore[misc]
        except (SeqTransferError, OSError) as error:
            kept += 1
            notify(f"kept {item.path}: {' '.join(str(error).split())}")
            continue
        freed += size - size_of(item.path)
    return freed, kept


def remove(item: Item, is_still: Callable[[], bool], notify: Notify) -> None:
    """Removes one item under its locks, if ``is_still`` says so once these are held.

    Raises StageError where another process holds one of them or it is not superfluous any more, OSError where it cannot
    be removed.
    """
    with ExitStack() as held:
        for lock in item.locks:
            if lock.parent.is_dir():  # else there is nobody who could hold it
                held.enter_context(locked(lock, f"removing {item.path}", notify))
        if item.is_lock:
            return
        if not is_still():
            raise StageError("it is needed by now, or gone")
        if item.no_one_at is not None:
            _require_nobody(item.no_one_at)
        _remove(item.path, {*item.locks})
    if item.path.is_dir():
        _remove_empty(item.path)


def _is_still(category: Category, item: Item, look: Callable[[], Found]) -> bool:
    if not category.looked_at_again:
        return os.path.lexists(item.path)
    return any(other.path == item.path for other in category.items(look()))


def _require_nobody(base: Path) -> None:
    for lock in base.glob(".fold_*.lock"):
        presence = read_presence(lock, time.time())
        if presence is not None and presence.may_live:
            raise StageError(f"{presence} is at {base}")


def _remove(path: Path, locks: set[Path]) -> None:
    """A file at once; a folder renamed first, so that what is left of it after a kill does not look whole.

    A folder that holds locks stays until they are released, and what is in it goes piece by piece.
    """
    if path.is_symlink():
        raise StageError("it is a link")
    if not path.is_dir():
        path.unlink()
    elif any(lock.is_relative_to(path) for lock in locks):
        for folder in folders_in(path):
            _remove_folder(folder)
        for file in files_in(path):
            if file not in locks:
                file.unlink()
    else:
        _remove_folder(path)


def _remove_folder(path: Path) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    path.rename(aside)
    shutil.rmtree(aside)


def _remove_empty(folder: Path) -> None:
    """What was left for its locks; not where somebody has begun there anew."""
    try:
        folder.rmdir()
    except OSError:
        return

"""One thing that can be removed: what it is, how large, and which locks are held meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """A file or folder that no run needs."""

    path: Path
    "What is removed, never a link."
    why: str
    "In a few words."
    locks: tuple[Path, ...] = ()
    "Held while it is removed."
    no_one_at: Path | None = None
    "A results folder of a stage: nobody may be at any of its folds."
    is_lock: bool = False
    "It is itself the lock: taking and releasing it removes it."


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as themselves. 0 where it cannot be read."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(size_of(Path(entry.path)) for entry in entries)
    except OSError:
        return 0

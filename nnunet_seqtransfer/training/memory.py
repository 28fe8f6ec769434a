"""How much memory this process may still take: of the machine, and of the container or the job that it is in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC, groups: Path = GROUPS) -> float:
    """Memory that can be had without swapping, in bytes; infinity where the system does not say."""
    return min(machine_memory(proc), group_memory(proc, groups))


def machine_memory(proc: Path = PROC) -> float:
    """What the machine has available, in bytes; infinity where the system does not say."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        known = getattr(os, "sysconf_names", {})
        if not {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(known):  # macOS has no such name, Windows has none at all
            return math.inf
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return float(pages * os.sysconf("SC_PAGE_SIZE")) if pages > 0 else math.inf


def group_memory(proc: Path = PROC, groups: Path = GROUPS) -> float:
    """What the control groups of this process leave it, in bytes; infinity where they set no limit.

    See cgroups(7): the limit of a group holds for all groups below it. In a container the folder of the own group may
    have another name inside than outside; then its limits stand in the upper ones.
    """
    return min((_left(folder, kind) for folder, kind in _own_groups(proc, groups)), default=math.inf)


@dataclass(frozen=True)
class _Kind:
    """The names of the files of one version of control groups."""

    limit: str
    usage: str
    cache: str
    "In memory.stat, the bytes of files that can be dropped at once."


_FIRST = _Kind("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Kind("memory.max", "memory.current", "inactive_file")


def _own_groups(proc: Path, groups: Path) -> Iterator[tuple[Path, _Kind]]:
    """The folders of the groups that this process is in, and of those above."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            base, kind = groups / "memory", _FIRST
        elif number == "0" and not controllers:
            base, kind = groups, _SECOND
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth]), kind


def _left(folder: Path, kind: _Kind) -> float:
    """What a group has left; infinity where it has no limit. Usage counts files in memory, which give way."""
    try:
        limit = int((folder / kind.limit).read_text())  # "max" where there is none
        usage = int((folder / kind.usage).read_text())
    except (OSError, ValueError):
        return math.inf
    return float(max(0, limit - max(0, usage - _cache(folder, kind))))


def _cache(folder: Path, kind: _Kind) -> int:
    try:
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return next(int(value) for name, value in rows if name == kind.cache)
    except (OSError, StopIteration, ValueError):
        return 0

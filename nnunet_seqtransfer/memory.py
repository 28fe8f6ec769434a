"""Estimate the memory that a case needs, and find how much this process can get."""

import math
from collections.abc import Iterator
from pathlib import Path

import psutil

BYTES_PER_VOXEL = 50
"""Peak memory of preprocessing a case, per channel and voxel before or after resampling, whichever are more.

Measured with nnU-Net on one channel of 320^3 voxels; more channels take less each. See docs/measurements.md."""
BYTES_PER_WORKER = 600e6
"""Memory of a worker without a case: Python, torch and nnU-Net."""
PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""Control group version -> files with limit and usage, and the key for droppable memory in memory.stat."""


def case_bytes(voxels: int, channels: int) -> float:
    """Estimate the peak memory of preprocessing a case, in bytes; ``voxels`` before or after resampling."""
    return voxels * channels * BYTES_PER_VOXEL + BYTES_PER_WORKER


def available_memory(proc: Path = PROC, groups: Path = CONTROL_GROUPS) -> float:
    """Return the bytes that this process can get without swapping: on the machine and in a container or job."""
    limits = [_bytes_left(folder, version) for folder, version in _own_groups(proc, groups)]
    return min([float(psutil.virtual_memory().available), *limits])


def _own_groups(proc: Path, groups: Path) -> Iterator[tuple[Path, int]]:
    """Yield the control groups of this process and all above, whose limits hold too, with their version.

    See cgroups(7). In a container the group may have another name inside than outside; the limits of the upper groups
    still apply.
    """
    lines = (proc / "self" / "cgroup").read_text().splitlines() if (proc / "self" / "cgroup").is_file() else []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2
        if version == 1 or number == "0":
            base = groups / "memory" if version == 1 else groups
            own = base.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
            yield from ((folder, version) for folder in (own, *own.parents) if folder.is_relative_to(base))


def _bytes_left(group: Path, version: int) -> float:
    """Return what a control group has left; infinity without a limit."""
    limit, usage, droppable = _MEMORY_FILES[version]
    try:
        most, used = int((group / limit).read_text()), int((group / usage).read_text())  # "max" without a limit
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        # cached files count as used, but are dropped when memory is needed
        used -= sum(int(value) for name, value in rows if name == droppable)
        return float(max(0, most - max(0, used)))
    except (OSError, ValueError):
        return math.inf

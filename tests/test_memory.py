"""Tests of memory.py: what a process can get is the least of machine, container and job."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_seqtransfer import memory as module
from nnunet_seqtransfer.memory import available_memory

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc whose control groups are to be written; the machine has 64 GiB available."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    return folder


def in_group(proc: Path, line: str) -> None:
    (proc / "self" / "cgroup").write_text(f"9:name=systemd:/x\n3:cpuset:/y\n{line}\n")


def limit(folder: Path, names: tuple[str, str], limit: str, usage: int, stat: str = "inactive_file 0") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{stat}\nfile 3\n")


SECOND, FIRST = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_without_limits_the_memory_is_that_of_the_machine(proc: Path, tmp_path: Path) -> None:
    """Without groups (macOS), with unreadable ones, and with groups that say "max"."""
    groups = tmp_path / "groups"
    assert available_memory(proc, groups) == 64 * GIB
    in_group(proc, "0::/job/step")
    assert available_memory(proc, groups) == 64 * GIB
    limit(groups / "job" / "step", SECOND, "max", GIB)
    assert available_memory(proc, groups) == 64 * GIB


def test_the_smallest_limit_above_counts(proc: Path, tmp_path: Path) -> None:
    """The limit of the job holds for its steps; a larger one of the step changes nothing."""
    groups = tmp_path / "groups"
    in_group(proc, "0::/job/step")
    limit(groups / "job" / "step", SECOND, str(32 * GIB), GIB)
    limit(groups / "job", SECOND, str(16 * GIB), 2 * GIB)
    assert available_memory(proc, groups) == 14 * GIB


@pytest.mark.parametrize(("usage", "cached", "left"), [(16, 10, 10), (17, 0, 0), (4, 8, 16)])
def test_cached_files_can_be_dropped(proc: Path, tmp_path: Path, usage: int, cached: int, left: int) -> None:
    """A training reads its data through the cache, which counts as usage; usage above the limit leaves nothing."""
    groups = tmp_path / "groups"
    in_group(proc, "0::/job")
    limit(groups / "job", SECOND, str(16 * GIB), usage * GIB, f"inactive_file {cached * GIB}")
    assert available_memory(proc, groups) == left * GIB


@pytest.mark.parametrize("inside", [True, False])
def test_groups_of_the_first_version(proc: Path, tmp_path: Path, inside: bool) -> None:
    """Also in a container, in which the own group is the uppermost folder but has another name outside."""
    groups = tmp_path / "groups"
    in_group(proc, "4:memory:/docker/abc\n0::/")
    folder = groups / "memory" if inside else groups / "memory" / "docker" / "abc"
    limit(folder, FIRST, str(8 * GIB), 3 * GIB, f"inactive_file 1\ntotal_inactive_file {GIB}")
    assert available_memory(proc, groups) == 6 * GIB


def test_this_machine_has_memory() -> None:
    """More than 10 MB, without any test double."""
    assert available_memory() > 1e7

"""What is preprocessed ahead takes what memory there is, low priority, and no chain down with it."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training import memory
from nnunet_seqtransfer.training import prefetch as module
from nnunet_seqtransfer.training.prefetch import NICENESS, SHARE_OF_MEMORY, PreparingAhead, case_bytes, workers_in

GIB = 2**30


def test_workers_ahead_fit_into_the_memory() -> None:
    """The larger the cases, the fewer; a case that does not fit is not preprocessed ahead."""
    assert workers_in(8e9, case_bytes(0, 1)) == int(SHARE_OF_MEMORY * 8e9 / 600e6)
    assert workers_in(8e9, case_bytes(512**3, 4)) == 0
    few, many = (workers_in(64e9, case_bytes(128**3, channels)) for channels in (4, 1))
    assert 1 <= few < many


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a machine that has 64 GiB available."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: {2**27} kB\nMemFree: 1 kB\nMemAvailable: {2**26} kB\n")
    return folder


def in_group(proc: Path, line: str) -> None:
    (proc / "self" / "cgroup").write_text(f"9:name=systemd:/x\n3:cpuset:/y\n{line}\n")


def limit(folder: Path, names: tuple[str, str], limit: str, usage: int, stat: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    if stat is not None:
        (folder / "memory.stat").write_text(f"anon 5\n{stat}\nfile 3\n")


SECOND, FIRST = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_without_limits_it_is_the_machines(proc: Path, tmp_path: Path) -> None:
    """No groups at all, or groups that say "max"."""
    groups = tmp_path / "groups"
    assert memory.group_memory(proc, groups) == math.inf
    in_group(proc, "0::/job/step")
    limit(groups / "job" / "step", SECOND, "max", GIB)
    assert memory.available_memory(proc, groups) == 64 * GIB


def test_the_smallest_limit_above_counts(proc: Path, tmp_path: Path) -> None:
    """That of the job holds for its steps; a larger one of the step itself changes nothing."""
    groups = tmp_path / "groups"
    in_group(proc, "0::/job/step")
    limit(groups / "job" / "step", SECOND, str(32 * GIB), GIB)
    limit(groups / "job", SECOND, str(16 * GIB), 2 * GIB)
    assert memory.available_memory(proc, groups) == 14 * GIB


def test_files_in_memory_give_way(proc: Path, tmp_path: Path) -> None:
    """A training reads its data through the cache, which counts as usage; and what is over the limit is nothing."""
    groups = tmp_path / "groups"
    in_group(proc, "0::/job")
    limit(groups / "job", SECOND, str(16 * GIB), 16 * GIB, f"inactive_file {10 * GIB}")
    assert memory.available_memory(proc, groups) == 10 * GIB
    limit(groups / "job", SECOND, str(16 * GIB), 17 * GIB, "inactive_file broken")
    assert memory.available_memory(proc, groups) == 0


@pytest.mark.parametrize("inside", [True, False])
def test_groups_of_the_first_version(proc: Path, tmp_path: Path, inside: bool) -> None:
    """Also in a container, where the group's own folder is the uppermost one and has another name outside."""
    groups = tmp_path / "groups"
    in_group(proc, "4:memory:/docker/abc\n0::/")
    folder = groups / "memory" if inside else groups / "memory" / "docker" / "abc"
    limit(folder, FIRST, str(8 * GIB), 3 * GIB, f"inactive_file 1\ntotal_inactive_file {GIB}")
    assert memory.available_memory(proc, groups) == 6 * GIB


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has neither /proc nor the name that is asked for instead; this machine has something."""
    monkeypatch.delitem(os.sysconf_names, "SC_AVPHYS_PAGES", raising=False)
    assert memory.available_memory(tmp_path, tmp_path) == math.inf
    assert memory.available_memory() > 1e7


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparingAhead:
    """One that has something to do; the command that it starts does nothing."""
    script = tmp_path / "continue"
    script.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    script.chmod(0o755)
    monkeypatch.setattr(module, "own_command", lambda _: str(script))
    monkeypatch.setattr(module, "run_name", lambda _: "run")
    monkeypatch.setattr(PreparingAhead, "_workers", lambda *_: 1)
    return PreparingAhead(SimpleNamespace(folder=tmp_path), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [0, 15])
def test_it_is_never_less_nice_than_the_command(
    ahead: PreparingAhead, monkeypatch: pytest.MonkeyPatch, own: int
) -> None:
    """Which only root may ask for."""
    asked: list[int] = []
    monkeypatch.setattr(module.os, "getpriority", lambda *_: own)
    monkeypatch.setattr(module.os, "setpriority", lambda _, __, niceness: asked.append(niceness))
    with ahead:
        assert ahead.start(None) == 1  # type: ignore[arg-type]
    assert asked == [max(own, NICENESS)]


def test_a_start_that_fails_is_no_end_of_the_chain(ahead: PreparingAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    """No priority to be had, no process, no command: the stage that needs the data makes it by itself."""

    def refuse(*_: object) -> None:
        raise PermissionError

    def missing(_: str) -> str:
        raise StageError("the command is not there")

    with ahead:
        monkeypatch.setattr(module.os, "setpriority", refuse)
        assert ahead.start(None) == 1  # type: ignore[arg-type]
    monkeypatch.setattr(module, "own_command", lambda _: "/nowhere/continue")
    with ahead:
        assert ahead.start(None) == 0  # type: ignore[arg-type]
    monkeypatch.setattr(module, "own_command", missing)
    with ahead:
        assert ahead.start(None) == 0  # type: ignore[arg-type]


def test_without_processes_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cases nor memory."""

    def looked() -> float:
        raise AssertionError

    monkeypatch.setattr(module, "available_memory", looked)
    assert PreparingAhead(SimpleNamespace(), 0).start(None) == 0  # type: ignore[arg-type]

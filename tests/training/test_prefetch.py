"""What is preprocessed ahead takes what memory there is, low priority, and no chain down with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training import prefetch as module
from nnunet_seqtransfer.training.prefetch import (
    NICENESS,
    SHARE_OF_MEMORY,
    Prefetch,
    available_memory,
    case_bytes,
    workers_in,
)

GIB = 2**30


def test_workers_ahead_fit_into_the_memory() -> None:
    """The larger the cases, the fewer; a case that does not fit is not preprocessed ahead."""
    assert workers_in(8e9, case_bytes(0, 1)) == int(SHARE_OF_MEMORY * 8e9 / 600e6)
    assert workers_in(8e9, case_bytes(512**3, 4)) == 0
    few, many = (workers_in(64e9, case_bytes(128**3, channels)) for channels in (4, 1))
    assert 1 <= few < many


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


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prefetch:
    """One that has something to do; the command that it starts does nothing."""
    script = tmp_path / "continue"
    script.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    script.chmod(0o755)
    monkeypatch.setattr(module, "own_command", lambda _: str(script))
    monkeypatch.setattr(module, "run_name", lambda _: "run")
    monkeypatch.setattr(Prefetch, "_workers", lambda *_: 1)
    return Prefetch(SimpleNamespace(folder=tmp_path), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [0, 15])
def test_it_is_never_less_nice_than_the_command(ahead: Prefetch, monkeypatch: pytest.MonkeyPatch, own: int) -> None:
    """Which only root may ask for."""
    asked: list[int] = []
    monkeypatch.setattr(module.os, "getpriority", lambda *_: own)
    monkeypatch.setattr(module.os, "setpriority", lambda _, __, niceness: asked.append(niceness))
    with ahead:
        assert ahead.start(None) == 1  # type: ignore[arg-type]
    assert asked == [max(own, NICENESS)]


def test_a_start_that_fails_is_no_end_of_the_chain(ahead: Prefetch, monkeypatch: pytest.MonkeyPatch) -> None:
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

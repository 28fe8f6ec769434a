"""Disks that are full, too small, or cannot be written to: one line, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.bad_inputs import AFFINITY, DRY, PLAN, TRAIN, Command, assert_refused, attempt, error_line
from support.world import NEAR, TARGET, World

OWN = Path(TARGET, "seqtransfer")


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


@pytest.mark.parametrize("arguments", [TRAIN, DRY], ids=["train", "dry run"])
def test_a_source_that_would_not_fit(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """A source that would fill the disk at the target's spacing is named with both sizes before anything is written."""
    monkeypatch.setattr("nnunet_seqtransfer.training.prepare.shutil.disk_usage", lambda _: Usage(10**6, 10**6, 1000))
    words = ("at the target's spacing", f"{NEAR} alone", "1 kB are free", str(world.preprocessed), f"leave {NEAR} out")
    assert_refused(world, command, arguments, *words, alone=False, keeps=() if arguments is DRY else (TARGET, NEAR))


def half_written(world: World) -> list[Path]:
    return [path for path in world.root.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]


@pytest.mark.parametrize("arguments", [AFFINITY, PLAN, TRAIN], ids=["affinity", "plan", "train"])
@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        ("os.replace", errno.ENOSPC, "the disk is full; free some space"),
        ("os.replace", errno.EDQUOT, "quota"),
        ("os.fsync", errno.ENOSPC, "the disk is full"),
        ("os.replace", errno.EROFS, "read-only"),
        ("os.replace", errno.EACCES, "permission denied"),
        ("os.fsync", errno.EPERM, "permission denied"),
    ],
)
def test_nothing_half_written(
    world: World,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    call: str,
    number: int,
    words: str,
) -> None:
    """Whichever write fails, the reason is one line, older files stay as they were, and nothing is left aside."""

    def fail(*given: Any, **_: Any) -> None:
        name = str(given[0]) if isinstance(given[0], str | Path) else None
        raise OSError(number, os.strerror(number), name)

    if arguments is PLAN:
        assert command(*AFFINITY).status == 0
    monkeypatch.setattr(call, fail)
    line = assert_refused(world, command, arguments, words, "run the same command again", alone=False)
    assert str(world.root) in line and ".tmp" not in line
    assert not half_written(world)


def test_older_records_survive(world: World, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are to be replaced when the disk fills up are still whole afterwards."""
    assert command(*AFFINITY).status == 0 and command(*PLAN).status == 0

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        assert_refused(world, command, AFFINITY, "the disk is full", alone=False)
        assert_refused(world, command, (*PLAN, "-max_sources", "0"), "the disk is full", alone=False)
    assert command(*DRY[:4], "-np", "1", "--dry_run").status == 0


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A file system of 256 kB in place of the folder of the target's records."""
    folder = world.preprocessed / OWN
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run([shutil.which("umount") or "umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_really_full(world: World, command: Command, small_disk: Path) -> None:
    """On a real full file system the same holds, for images, tables and compressed signatures alike."""
    (small_disk / "other").write_bytes(b"\0" * 250_000)
    for _ in range(20):
        line = error_line(attempt(command, AFFINITY))
        assert "the disk is full; free some space" in line and str(small_disk) in line
        left = {path.name for path in small_disk.iterdir()}
        assert not any(".tmp" in name for name in left), left
        # Free a little more each time, so that the disk fills up at another file.
        size = (small_disk / "other").stat().st_size - 40_000
        if size < 0:
            break
        (small_disk / "other").write_bytes(b"\0" * size)
        if command(*AFFINITY).status == 0:
            break
    (small_disk / "other").unlink()
    assert command(*AFFINITY).status == 0


def test_a_disk_that_is_really_read_only(world: World, command: Command, small_disk: Path) -> None:
    """A file system that was mounted read-only is named."""
    subprocess.run([shutil.which("mount") or "mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = error_line(attempt(command, AFFINITY))
    assert "read-only" in line and str(small_disk) in line and not half_written(world)

"""Checkpoints on a full or broken disk: the training waits, then ends, and older checkpoints stay whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_seqtransfer.storage import is_sound_archive
from nnunet_seqtransfer.trainers import interruptible
from support import interrupted
from support.world import World


@pytest.fixture
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results folder of a training of 3 epochs of 2 iterations with a checkpoint after every epoch."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "1e-9")
    monkeypatch.setattr(interruptible, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(interruptible, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # half of the time of so short an epoch
    interrupted.write_plans(3, 2)
    return interrupted.output_folder(world)


FAILURES = [
    ("nnunet_seqtransfer.transfer.checkpoints.torch.save", errno.ENOSPC, "the disk is full"),
    ("nnunet_seqtransfer.storage.os.fsync", errno.EDQUOT, "the disk quota is used up"),
    ("nnunet_seqtransfer.storage.os.fsync", errno.EIO, "Input/output error"),
    ("nnunet_seqtransfer.storage.os.replace", errno.EROFS, "the file system is read-only"),
]


@pytest.mark.parametrize(("call", "number", "words"), FAILURES)
def test_a_disk_that_takes_no_checkpoint_leaves_the_older_ones_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    """The training tries for its time, then ends with status 1 and one line; older checkpoints are equal bit by bit."""
    trainer = interrupted.new_trainer(monkeypatch)
    attempts = [0]

    def fail(*_: Any, **__: Any) -> None:
        attempts[0] += 1
        raise OSError(number, os.strerror(number))

    start, before = trainer.on_epoch_start, {}

    def fail_in_the_third_epoch() -> None:
        if trainer.current_epoch == 2:
            before.update(interrupted.checkpoints(folder))
            monkeypatch.setattr(call, fail)
        start()

    monkeypatch.setattr(trainer, "on_epoch_start", fail_in_the_third_epoch)
    with pytest.raises(SystemExit) as ended:
        trainer.run_training()
    assert "checkpoint_latest.pth" in before
    line = str(ended.value.code)
    assert words in line and "checkpoint_latest.pth" in line and ".tmp" not in line and "\n" not in line
    assert attempts[0] > 1
    assert interrupted.checkpoints(folder) == before
    assert not list(folder.glob(".checkpoint*"))


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 600 kB for the results of the training: two checkpoints, not three."""
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run([shutil.which("umount") or "umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_really_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real full file system the same holds, and with more space the training goes on."""
    with pytest.raises(SystemExit) as ended:
        interrupted.new_trainer(monkeypatch).run_training()
    assert "the disk is full; free some space" in str(ended.value.code)
    assert "checkpoint_latest.pth" in interrupted.checkpoints(small_disk)
    assert all(is_sound_archive(small_disk / name) for name in interrupted.checkpoints(small_disk))
    assert not list(small_disk.glob(".checkpoint*"))
    remount = [shutil.which("mount") or "mount", "-o", "remount,size=8m", str(small_disk)]
    subprocess.run(remount, check=True)
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "0")
    again = interrupted.new_trainer(monkeypatch, go_on=True)
    assert again.current_epoch > 0
    again.run_training()
    assert (small_disk / "checkpoint_final.pth").is_file()


def test_a_disk_that_is_full_for_a_while_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that fails twice is written when there is space again; the training says so and goes on."""
    monkeypatch.setattr(interruptible, "RETRY_SECONDS", 60)
    monkeypatch.setattr(interruptible, "PAUSE_SECONDS", 0.01)
    original, left = torch.save, [2]

    def fail(content: Any, stream: Any) -> None:
        stream.write(b"half")
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        stream.seek(0)
        original(content, stream)

    monkeypatch.setattr(torch, "save", fail)
    interrupted.new_trainer(monkeypatch).run_training()
    text = interrupted.log_text(folder)
    assert text.count("the disk is full; free some space") == 1 and "Training done" in text
    assert all(is_sound_archive(folder / name) for name in interrupted.checkpoints(folder))

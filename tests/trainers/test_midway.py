"""An epoch that is interrupted goes on where it was left, with nnU-Net's own trainer around it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.storage import found_json, is_sound_archive
from nnunet_seqtransfer.trainers import keeping
from nnunet_seqtransfer.trainers.stopping import STOPPED
from nnunet_seqtransfer.training.epoch_progress import Midway, checkpoint_seconds, finished_epochs, read_midway
from support import interrupted
from support.world import World

EPOCHS, ITERATIONS = 2, 5


@pytest.fixture
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a training of 2 epochs of 5 iterations leaves its results."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # half of the time of so short an epoch
    interrupted.write_plans(EPOCHS, ITERATIONS)
    return interrupted.output_folder(world)


def signal_in(monkeypatch: pytest.MonkeyPatch, kind: str, number: int) -> list[float]:
    """SIGTERM arrives in the step of that number of nnU-Net's own trainer; collects the loss of each step."""
    original, losses = getattr(nnUNetTrainer, kind), []

    def step(self: Any, batch: Any) -> Any:
        output = original(self, batch)
        losses.append(float(output["loss"]))
        if len(losses) == number:
            signal.raise_signal(signal.SIGTERM)
        return output

    monkeypatch.setattr(nnUNetTrainer, kind, step)
    return losses


def stops(trainer: Any, status: int = STOPPED) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        trainer.run_training()
    assert ended.value.code == status
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers, "handlers are restored"


def assert_consistent(trainer: Any, epochs: int = EPOCHS) -> None:
    logging = trainer.logger.get_checkpoint()
    assert {len(values) for values in logging.values()} == {epochs}
    assert all(
        end >= start
        for start, end in zip(logging["epoch_start_timestamps"], logging["epoch_end_timestamps"], strict=True)
    )


@pytest.mark.parametrize("step", [3, 5, 7], ids=["in the first epoch", "at its end", "in the second epoch"])
def test_an_interrupted_epoch_goes_on_with_the_iterations_that_are_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    """No iteration is done twice, each epoch's loss is the mean over all of its iterations, and the log is in order."""
    losses = signal_in(monkeypatch, "train_step", step)
    first = interrupted.new_trainer(monkeypatch)
    stops(first)
    weights = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    epoch, done = (step - 1) // ITERATIONS, (step - 1) % ITERATIONS + 1
    said = (
        f"seq_transfer: stopped by SIGTERM in epoch {epoch} after {done} of {ITERATIONS} iterations, checkpoint written"
    )
    assert said in capsys.readouterr().out
    second = interrupted.new_trainer(monkeypatch, go_on=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.network.state_dict().items())
    assert second.current_epoch == epoch
    second.run_training()
    assert len(losses) == EPOCHS * ITERATIONS
    expected = np.asarray(losses, dtype=np.float32).reshape(EPOCHS, ITERATIONS).mean(axis=1)
    assert second.logger.get_value("train_losses", None) == pytest.approx(expected.tolist(), rel=1e-6)
    assert_consistent(second)
    assert "maybe some logging issue" not in capsys.readouterr().out
    rates = second.logger.get_value("lrs", None)
    assert rates == pytest.approx([1e-2 * (1 - epoch / EPOCHS) ** 0.9 for epoch in range(EPOCHS)])
    assert set(interrupted.checkpoints(folder)) == {"checkpoint_best.pth", "checkpoint_final.pth"}
    assert "seq_transfer" not in interrupted.content(folder, "checkpoint_final.pth")


def test_an_epoch_stopped_in_its_validation_repeats_only_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in an epoch's validation steps, the training goes on with these, and trains not one iteration again."""
    interrupted.write_plans(EPOCHS, 10)  # two validation iterations
    losses = signal_in(monkeypatch, "train_step", -1)
    validation = signal_in(monkeypatch, "validation_step", 1)
    stops(interrupted.new_trainer(monkeypatch))
    assert interrupted.content(folder)["seq_transfer"]["iterations"] == 10
    second = interrupted.new_trainer(monkeypatch, go_on=True)
    second.run_training()
    assert (len(losses), len(validation)) == (20, 1 + 4)
    assert second.logger.get_value("train_losses", 0) == pytest.approx(np.mean(losses[:10]), rel=1e-6)
    assert_consistent(second)


def test_a_checkpoint_inside_of_an_epoch_is_one_for_stock_nnunet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stock nnU-Net loads it, repeats that epoch from its beginning, and finds its log in order."""
    signal_in(monkeypatch, "train_step", 7)
    stops(interrupted.new_trainer(monkeypatch))
    stock = folder.parent.parent / folder.parent.name.replace("SeqTransfer", "") / folder.name
    stock.mkdir(parents=True)
    (folder / "checkpoint_latest.pth").rename(stock / "checkpoint_latest.pth")
    trainer = interrupted.new_trainer(monkeypatch, go_on=True, stock=True)
    assert trainer.current_epoch == 1
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCHS, 2, 1
    trainer.run_training()
    assert_consistent(trainer)
    assert "maybe some logging issue" not in capsys.readouterr().out


def test_checkpoints_come_in_time_and_keep_the_one_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the minutes are over a checkpoint is written after the iteration; the one before stays as the previous."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "1e-9")
    seen: list[tuple[int, ...]] = []
    original = keeping.write_checkpoint

    def write(path: Path, checkpoint: dict[str, Any], **options: Any) -> None:
        before = interrupted.checkpoints(folder)
        original(path, checkpoint, **options)
        after = interrupted.checkpoints(folder)
        if path.name == "checkpoint_latest.pth" and path.name in before:
            assert after["checkpoint_previous.pth"] == before["checkpoint_latest.pth"]
        if "seq_transfer" in checkpoint:
            seen.append((checkpoint["current_epoch"], checkpoint["seq_transfer"]["iterations"]))

    monkeypatch.setattr(keeping, "write_checkpoint", write)
    trainer = interrupted.new_trainer(monkeypatch)
    trainer.run_training()
    validation = [(epoch, ITERATIONS) for epoch in range(EPOCHS)]
    training = [(epoch, done + 1) for epoch in range(EPOCHS) for done in range(ITERATIONS)]
    assert sorted(seen) == sorted(training + validation)
    assert "seq_transfer: checkpoint written after 3 of 5 iterations" in capsys.readouterr().out
    assert set(interrupted.checkpoints(folder)) == {"checkpoint_best.pth", "checkpoint_final.pth"}
    assert not list(folder.glob(".checkpoint*"))


def test_a_training_called_again_without_c_leaves_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could go on from is not begun anew by accident: the line says how to do either."""
    folder.mkdir(parents=True)
    for name in ("checkpoint_latest.pth", "checkpoint_previous.pth"):
        (folder / name).write_bytes(b"of another training")
    before = interrupted.checkpoints(folder)
    with pytest.raises(SystemExit, match="use --c, or delete the folder"):
        interrupted.new_trainer(monkeypatch).run_training()
    assert interrupted.checkpoints(folder) == before


def test_setting_the_clock_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps by a day to and fro in every step: no checkpoint comes early, no epoch has a wrong time."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "60")
    real, ahead, original = time.time, [86400], nnUNetTrainer.train_step

    def step(self: Any, batch: Any) -> Any:
        ahead[0] = 86400 - ahead[0]
        return original(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", step)
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.time", lambda: real() + ahead[0])
    interrupted.new_trainer(monkeypatch).run_training()
    text = interrupted.log_text(folder)
    assert "checkpoint written after" not in text
    times = [float(line.split("Epoch time: ")[1].split()[0]) for line in text.splitlines() if "Epoch time" in line]
    assert len(times) == EPOCHS and all(0 <= seconds < 3600 for seconds in times)


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
    signal_in(monkeypatch, "train_step", 7)
    stops(interrupted.new_trainer(monkeypatch))
    before = interrupted.checkpoints(folder)
    assert "checkpoint_latest.pth" in before
    monkeypatch.setattr(keeping, "PATIENCE", 0.3)
    monkeypatch.setattr(keeping, "PAUSE", 0.1)
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "1e-9")
    second = interrupted.new_trainer(monkeypatch, go_on=True)
    attempts = [0]

    def fail(*_: Any, **__: Any) -> None:
        attempts[0] += 1
        raise OSError(number, os.strerror(number))

    start = second.on_epoch_start
    monkeypatch.setattr(second, "on_epoch_start", lambda: (monkeypatch.setattr(call, fail), start()))
    with pytest.raises(SystemExit) as ended:
        second.run_training()
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
    monkeypatch.setattr(keeping, "PATIENCE", 0.3)
    monkeypatch.setattr(keeping, "PAUSE", 0.1)
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "1e-9")
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
    assert again.midway.iterations > 0
    again.run_training()
    assert (small_disk / "checkpoint_final.pth").is_file()


def test_a_disk_that_is_full_for_a_while_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that fails twice is written when there is space again; the training says so and goes on."""
    monkeypatch.setattr(keeping, "PAUSE", 0.01)
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


def test_the_system_error_beneath_torchs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer covers a full disk with an error of its own; the reason is said all the same."""
    original = torch.save

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, block: bytes) -> int:
            if self.stream.tell() + len(block) > 5000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(block)

        def flush(self) -> None:
            self.stream.flush()

    monkeypatch.setattr(torch, "save", lambda content, stream: original(content, Full(stream)))
    with pytest.raises(SeqTransferError, match="disk is full"):
        keeping.write_checkpoint(tmp_path / "checkpoint_latest.pth", {"a": torch.arange(10000)})
    assert not list(tmp_path.iterdir())


def test_broken_files_beside_a_training_are_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """plans.json and dataset.json cut off by a kill are whole before the final validation, and equal ones untouched."""
    signal_in(monkeypatch, "train_step", 10)
    stops(interrupted.new_trainer(monkeypatch))
    base = folder.parent
    names = ("plans.json", "dataset.json", "dataset_fingerprint.json")
    whole = {name: (base / name).read_text() for name in names}
    (base / "plans.json").write_text(whole["plans.json"][:100])
    (base / "dataset.json").write_text("")
    (folder / ".checkpoint_latest.0123abcd.tmp.pth").write_bytes(b"left by a kill")
    untouched = (base / "dataset_fingerprint.json").stat().st_mtime_ns
    trainer = interrupted.new_trainer(monkeypatch, go_on=True)
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, save: None)
    trainer.perform_actual_validation(False)
    assert found_json(base / "plans.json") == trainer.plans_manager.plans
    assert found_json(base / "dataset.json") == trainer.dataset_json
    assert (base / "dataset_fingerprint.json").stat().st_mtime_ns == untouched
    assert not list(folder.glob(".checkpoint*"))


def test_minutes_between_checkpoints() -> None:
    """The variable holds minutes; nothing is the default, 0 is never, and what is no number is refused by its name."""
    name = "nnUNet_seq_checkpoint_minutes"
    assert checkpoint_seconds({}) == 600 and checkpoint_seconds({name: "0.5"}) == 30
    assert checkpoint_seconds({name: "0"}) == float("inf")
    for text in ("ten", "-1", "nan", "inf"):
        with pytest.raises(SeqTransferError, match=name):
            checkpoint_seconds({name: text})


def test_a_place_in_an_epoch_survives_a_checkpoint() -> None:
    """What is written is what is read, time spent included; a checkpoint between epochs has no such place."""
    midway = Midway(3, [0.5, 0.25], 7.0)
    again = read_midway({"current_epoch": 3, "seq_transfer": midway.content()})
    assert again is not None and (again.epoch, again.losses) == (3, [0.5, 0.25])
    assert again.seconds >= 7 and again.elapsed >= again.seconds
    assert read_midway({"current_epoch": 3}) is None
    assert finished_epochs({"a": [1, 2], "b": [1, 2, 3]}, 2) == {"a": [1, 2], "b": [1, 2]}

"""A training stops between epochs, resumes there, and never starts over checkpoints or another process's work."""

from __future__ import annotations

import errno
import io
import os
import signal
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.signals import STOPPED
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.trainers import interruptible
from nnunet_seqtransfer.trainers.interruptible import objection
from nnunet_seqtransfer.training.job import checkpoint_seconds
from nnunet_seqtransfer.training.locks import training_lock
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint
from support import interrupted
from support.world import World

LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"
EARLIER, LATER = {LATEST: (1, 10)}, {LATEST: (2, 10)}


@pytest.mark.parametrize(
    ("at_first", "now", "loaded", "words"),
    [
        ({}, {}, None, None),
        (EARLIER, EARLIER, LATEST, None),
        ({FINAL: (1, 1)}, {FINAL: (1, 1)}, FINAL, None),
        ({}, EARLIER, None, "another process"),
        (EARLIER, LATER, LATEST, "another process"),
        (EARLIER, {FINAL: (1, 1)}, LATEST, "another process"),
        ({FINAL: (1, 1)}, {FINAL: (1, 1)}, None, "is finished"),
        (EARLIER, EARLIER, None, "use --c"),
    ],
)
def test_a_training_begins_only_where_nothing_would_be_undone(at_first, now, loaded, words) -> None:
    """Whatever has changed since, a finished stage, and checkpoints that were not loaded, are each a reason."""
    reason = objection(at_first, now, loaded)
    assert reason is None if words is None else words in str(reason)


@pytest.fixture
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results folder of a training of 3 epochs of 2 iterations without checkpoints by time."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # half of the time of so short an epoch
    interrupted.write_plans(3, 2)
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


def test_one_that_comes_late_leaves_a_finished_training_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that was made before the first one had finished ends without a write, with one line."""
    late = interrupted.new_trainer(monkeypatch)
    interrupted.new_trainer(monkeypatch).run_training()
    finished = interrupted.checkpoints(folder)
    with pytest.raises(SystemExit, match="another process has trained here"):
        late.run_training()
    assert interrupted.checkpoints(folder) == finished


def test_a_finished_training_that_is_called_to_go_on_is_not_written_again(folder, monkeypatch) -> None:
    """nnU-Net's --c on it repeats the validation, and nothing else."""
    interrupted.new_trainer(monkeypatch).run_training()
    before = os.stat(folder / FINAL).st_mtime_ns  # noqa: PTH116
    interrupted.new_trainer(monkeypatch, go_on=True).run_training()
    assert os.stat(folder / FINAL).st_mtime_ns == before  # noqa: PTH116
    assert load_checkpoint(folder / FINAL)["current_epoch"] == 3


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_training_that_lost_its_lock_leaves_the_new_one_its_checkpoints(folder, monkeypatch, taken_over) -> None:
    """It stops, and writes a checkpoint only where the lock names nobody else."""
    trainer = interrupted.new_trainer(monkeypatch)
    step = trainer.train_step

    def lose(batch):
        if taken_over:
            training_lock(folder).write_text("pid=1\nhost=elsewhere\n")
        trainer.stop.lose_lock()
        return step(batch)

    monkeypatch.setattr(trainer, "train_step", lose)
    with pytest.raises(SystemExit) as ended:
        trainer.run_training()
    assert ended.value.code == 75
    assert (LATEST in interrupted.checkpoints(folder)) != taken_over


def test_a_training_whose_command_is_gone_does_not_begin(folder, monkeypatch) -> None:
    """It ends with the status of one that was stopped, and has written no checkpoint."""
    monkeypatch.setenv("nnUNet_seq_driver", "999999999")
    with pytest.raises(SystemExit) as ended:
        interrupted.new_trainer(monkeypatch).run_training()
    assert ended.value.code == 75 and not interrupted.checkpoints(folder)


@pytest.mark.parametrize(("kind", "step"), [("train_step", 1), ("validation_step", 2)])
def test_a_training_that_is_asked_to_stop_finishes_its_epoch(folder, monkeypatch, capsys, kind: str, step: int) -> None:
    """The checkpoint holds whole epochs, --c trains the others, and the log is in order."""
    steps = signal_in(monkeypatch, kind, step)
    first = interrupted.new_trainer(monkeypatch)
    stops(first)
    assert f"seq_transfer: stopped by SIGTERM before epoch {step}, checkpoint written" in capsys.readouterr().out
    assert interrupted.content(folder)["current_epoch"] == step
    done = len(steps)
    weights = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    second = interrupted.new_trainer(monkeypatch, go_on=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.network.state_dict().items())
    second.run_training()
    per_epoch = 2 if kind == "train_step" else 1
    assert (done, len(steps)) == (step * per_epoch, 3 * per_epoch), "no epoch is done twice"
    logging = second.logger.get_checkpoint()
    assert {len(values) for values in logging.values()} == {3}
    assert set(interrupted.checkpoints(folder)) == {"checkpoint_best.pth", FINAL}


def test_a_stop_during_the_last_epoch_writes_the_final_checkpoint(folder, monkeypatch) -> None:
    """The process ends with the status of one that was stopped: its final validation is missing."""
    signal_in(monkeypatch, "train_step", 5)
    stops(interrupted.new_trainer(monkeypatch))
    assert interrupted.content(folder, FINAL)["current_epoch"] == 3


def test_an_epoch_that_fails_after_a_request_to_stop_is_repeated(folder, monkeypatch, capsys) -> None:
    """As if workers died by the same signal; without a request the error is raised."""
    original = nnUNetTrainer.train_step
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda *_: (_ for _ in ()).throw(RuntimeError("dead worker")))
    with pytest.raises(RuntimeError, match="dead worker"):
        interrupted.new_trainer(monkeypatch).run_training()

    def fail(self: Any, batch: Any) -> Any:
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("dead worker")
        return original(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", fail)
    stops(interrupted.new_trainer(monkeypatch))
    assert "stopped by SIGTERM in epoch 1, which is repeated (RuntimeError)" in capsys.readouterr().out
    assert interrupted.content(folder)["current_epoch"] == 1


def test_checkpoints_come_between_epochs_when_they_are_due(folder, monkeypatch) -> None:
    """One before every epoch but the first; the earlier one stays as the previous one until the end."""
    monkeypatch.setenv("nnUNet_seq_checkpoint_minutes", "1e-9")
    epochs: list[int] = []
    original = interruptible.write_checkpoint

    def write(path: Path, checkpoint: dict[str, Any], **options: Any) -> None:
        before = interrupted.checkpoints(folder)
        original(path, checkpoint, **options)
        if path.name == LATEST:
            epochs.append(checkpoint["current_epoch"])
            if LATEST in before:
                assert interrupted.checkpoints(folder)["checkpoint_previous.pth"] == before[LATEST]

    monkeypatch.setattr(interruptible, "write_checkpoint", write)
    trainer = interrupted.new_trainer(monkeypatch)
    trainer.save_every = 100  # nnU-Net's own checkpoints come later
    trainer.run_training()
    assert epochs == [1, 2]
    assert set(interrupted.checkpoints(folder)) == {"checkpoint_best.pth", FINAL}
    assert not list(folder.glob(".checkpoint*"))


def test_a_checkpoint_of_an_older_version_repeats_its_epoch(folder, monkeypatch) -> None:
    """Version 0.1.0 also wrote checkpoints inside an epoch, with one more key."""
    signal_in(monkeypatch, "train_step", 1)
    stops(interrupted.new_trainer(monkeypatch))
    content = interrupted.content(folder)
    torch.save({**content, "seq_transfer": {"iterations": 1, "losses": [0.5], "seconds": 2.0}}, folder / LATEST)
    interrupted.new_trainer(monkeypatch, go_on=True).run_training()
    assert len(interrupted.content(folder, FINAL)["logging"]["train_losses"]) == 3


def test_the_picture_is_drawn_once_and_at_the_end(folder, monkeypatch) -> None:
    """Drawing takes a second: not after every short epoch."""
    drawn: list[int] = []
    trainer = interrupted.new_trainer(monkeypatch)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: drawn.append(trainer.current_epoch))
    trainer.run_training()
    assert drawn == [0, 3]


def test_a_closed_terminal_does_not_end_a_training(folder, monkeypatch) -> None:
    """Text for a terminal that is gone is dropped; a full disk behind stdout is still an error."""
    trainer = interrupted.new_trainer(monkeypatch)
    redirected: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda _, number: redirected.append(number))

    class Closed(io.StringIO):
        number = errno.EPIPE

        def flush(self) -> None:
            raise OSError(self.number, os.strerror(self.number))

    with redirect_stdout(Closed()) as stdout:
        trainer.print_to_log_file("unheard")
        assert redirected == [1, 2] and "unheard" in interrupted.log_text(folder)
        stdout.number = errno.ENOSPC
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            trainer.print_to_log_file("lost")


def test_broken_files_beside_a_training_are_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """plans.json and dataset.json cut off by a kill are whole before the final validation, and equal ones untouched."""
    signal_in(monkeypatch, "train_step", 1)
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

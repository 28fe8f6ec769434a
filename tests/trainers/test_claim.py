"""A training begins only where nobody has trained since it looked, and never anew over checkpoints that are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_seqtransfer.trainers.claim import objection
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
        ({FINAL: (1, 1)}, {FINAL: (1, 1)}, None, "trained to its end"),
        (EARLIER, EARLIER, None, "use --c"),
    ],
)
def test_a_training_begins_only_where_nothing_would_be_undone(at_first, now, loaded, words) -> None:
    """Whatever has changed since, a finished stage, and checkpoints that were not loaded, are each a reason."""
    reason = objection(at_first, now, loaded)
    assert reason is None if words is None else words in str(reason)


@pytest.fixture
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    interrupted.write_plans(1, 2)
    return interrupted.output_folder(world)


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
    assert load_checkpoint(folder / FINAL)["current_epoch"] == 1


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
    assert list(interrupted.checkpoints(folder)) == ([] if taken_over else [LATEST])


def test_a_training_whose_command_is_gone_does_not_begin(folder, monkeypatch) -> None:
    """It ends with the status of one that was stopped, and has written no checkpoint."""
    monkeypatch.setenv("nnUNet_seq_driver", "999999999")
    with pytest.raises(SystemExit) as ended:
        interrupted.new_trainer(monkeypatch).run_training()
    assert ended.value.code == 75 and not interrupted.checkpoints(folder)

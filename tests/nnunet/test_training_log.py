"""nnU-Net's log, read into epochs with losses, pseudo Dice, learning rate and time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.nnunet.training_log import (
    TAIL,
    Epoch,
    LogReader,
    TrainingLog,
    read_lines,
    read_log,
    read_training,
)
from support import made_run

STAMP = "2026-01-01 10:00:00.123456: "


def dice_of(printed: object) -> tuple[float, ...]:
    """The pseudo Dice of an epoch whose line of pseudo Dice ends in ``printed``."""
    lines = ("Epoch 0 ", f"Pseudo dice {printed} ", "Epoch time: 1.0 s ")
    return read_lines(f"{STAMP}{line}\n" for line in lines).epochs[0].pseudo_dice


def test_an_epoch_of_nnunet() -> None:
    """The lines of one epoch, as nnU-Net 2.8 prints them, give all its numbers."""
    lines = (
        "\n############################\nINFO: You are using the old nnU-Net default plans.\n",
        f"{STAMP}unpacking done... \n",
        f"{STAMP} \n",
        f"{STAMP}Epoch 3 \n",
        f"{STAMP}Current learning rate: 0.00973 \n",
        f"{STAMP}train_loss -0.1234 \n",
        f"{STAMP}val_loss np.float64(-0.2345) \n",
        f"{STAMP}Pseudo dice [np.float32(0.8123), np.float32(nan), np.float64(0.0)] \n",
        f"{STAMP}Epoch time: 12.34 s \n",
        f"{STAMP}Yayy! New best EMA pseudo Dice: 0.7123 \n",
    )
    log = read_lines(lines)
    (epoch,) = log.epochs
    assert (epoch.number, epoch.train_loss, epoch.validation_loss) == (3, -0.1234, -0.2345)
    assert (epoch.learning_rate, epoch.seconds) == (0.00973, 12.34)
    assert epoch.pseudo_dice == pytest.approx((0.8123, math.nan, 0.0), nan_ok=True)
    assert epoch.mean_dice == pytest.approx(0.40615)
    assert (log.epochs_done, log.running, log.last, log.median_seconds, log.error) == (4, None, epoch, 12.34, None)
    reader = LogReader()
    assert [fed.number for line in lines if (fed := reader.feed(line))] == [3]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, float])
@pytest.mark.parametrize("values", [[0.8123, 0.25], [math.nan, 0.5], [1.0], [0.0, 1.0, 0.0001], [1e-7, 0.5], []])
def test_dice_of_every_number_type(kind: type, values: list[float]) -> None:
    """Dice printed as NumPy 1 and 2 print it (plain or with the type's name), rounded or in powers of ten."""
    assert dice_of([kind(value) for value in values]) == pytest.approx(values, rel=1e-3, abs=1e-7, nan_ok=True)


def test_the_mean_leaves_out_labels_without_dice() -> None:
    """Labels that no validation patch held (nan) do not count; without any Dice the mean is NaN."""
    assert Epoch(0, (0.5, math.nan, 0.7)).mean_dice == pytest.approx(0.6)
    assert math.isnan(Epoch(0, (math.nan, math.nan)).mean_dice) and math.isnan(Epoch(0).mean_dice)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "Epoch",
        "Epoch 3 of 5",
        "This is Epoch 3",
        "Epoch 99999999999999999999999",
        "Mean Validation Dice:  0.87",
        "Epoch time:",
        "Epoch time: . s",
        "Epoch time: nan s",
        "Pseudo dice",
        "Traceback (most recent call last):",
        "\x00\ufffd",
    ],
)
def test_other_lines_tell_nothing(line: str) -> None:
    """Unknown and damaged lines leave everything as it is."""
    assert read_lines([line]) == TrainingLog()
    before = made_run.training_log(3, 1).splitlines()
    assert read_lines([*before, line]) == read_lines(before)


def test_unfinished_epochs_are_left_out() -> None:
    """An epoch that has only started is named; an epoch whose start was cut off is not read."""
    lines = made_run.training_log(3, 2).splitlines()
    log = read_lines([*lines, f"{STAMP}Epoch 3 ", f"{STAMP}train_loss 0.1 "])
    assert [epoch.number for epoch in log.epochs] == [0, 1, 2]
    assert (log.running, log.epochs_done) == (3, 3)
    assert [epoch.number for epoch in read_lines(lines[4:]).epochs] == [1, 2]


def test_a_resumed_training_replaces_the_epochs_it_repeats(tmp_path: Path) -> None:
    """Several logs of one training are joined; a repeated epoch counts as it was last."""
    (tmp_path / "training_log_2026_1.txt").write_text(made_run.training_log(5, 1))
    (tmp_path / "training_log_2026_2.txt").write_text(made_run.training_log(4, 2, first=3))
    log = read_training(tmp_path)
    assert [epoch.number for epoch in log.epochs] == list(range(7))
    assert [len(epoch.pseudo_dice) for epoch in log.epochs] == [1, 1, 1, 2, 2, 2, 2]


def test_a_training_started_again_forgets_the_earlier_one(tmp_path: Path) -> None:
    """If all checkpoints were lost, epochs of the earlier training do not count, even before one is finished."""
    (tmp_path / "training_log_2026_1.txt").write_text(made_run.training_log(80, 1))
    again = tmp_path / "training_log_2026_2.txt"
    again.write_text(f"{STAMP}Epoch 0 \n")
    for tail in (None, TAIL):
        assert read_training(tmp_path, tail) == TrainingLog(running=0)
    again.write_text(made_run.training_log(10, 2))
    log = read_training(tmp_path)
    assert log.epochs_done == 10 and all(len(epoch.pseudo_dice) == 2 for epoch in log.epochs)


def test_logs_are_joined_in_the_order_of_their_times(tmp_path: Path) -> None:
    """nnU-Net pads neither months nor days: the log of October is newer than that of September."""
    (tmp_path / "training_log_2026_9_30_10_00_00.txt").write_text(made_run.training_log(3, 1))
    (tmp_path / "training_log_2026_10_1_10_00_00.txt").write_text(made_run.training_log(1, 2, first=2))
    assert [len(epoch.pseudo_dice) for epoch in read_training(tmp_path).epochs] == [1, 1, 2]


def test_the_end_of_a_log_is_read_alone(tmp_path: Path) -> None:
    """With ``tail`` the last epochs are those of the whole log, and logs without epochs are looked past."""
    (tmp_path / "training_log_2026_1.txt").write_text(made_run.training_log(500, 2))
    (tmp_path / "training_log_2026_2.txt").write_text(f"{STAMP}unpacking done... \n")
    whole, end = read_training(tmp_path), read_training(tmp_path, TAIL)
    assert 20 < len(end.epochs) < 200 and end.epochs == whole.epochs[-len(end.epochs) :]
    assert end.epochs_done == whole.epochs_done == 500


def test_a_long_validation_does_not_hide_the_epochs(tmp_path: Path) -> None:
    """With ``tail``, 400 predicted cases are all counted, and the epochs before them are found."""
    cases = "".join(
        f"{STAMP}predicting case_{number:04d} \n{STAMP}case_{number:04d}, shape torch.Size([1, 99, 99, 99]), rank 0 \n"
        for number in range(400)
    )
    (tmp_path / "training_log_2026_1.txt").write_text(made_run.training_log(5, 1) + cases)
    log = read_training(tmp_path, TAIL)
    assert len(cases) > TAIL and (log.predicted, log.validated, log.epochs_done) == (400, 399, 5)
    assert log == read_training(tmp_path)


def test_the_last_error_counts_until_an_epoch_starts(tmp_path: Path) -> None:
    """An error is told without its time, an error before later epochs or in an older log is not."""
    epochs = made_run.training_log(2, 1)
    error = f"{STAMP}RuntimeError: workers died \n    ValueError: indented \n"
    older, newer = tmp_path / "training_log_1.txt", tmp_path / "training_log_2.txt"
    older.write_text(epochs + error)
    assert read_training(tmp_path).error == "RuntimeError: workers died"
    newer.write_text("starting \n")
    assert read_training(tmp_path).error is None and read_training(tmp_path).epochs_done == 2
    newer.write_text(error + epochs)
    assert read_log(newer).error is None


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """A missing log, a folder with the name of a log, and garbage give no epochs and raise nothing."""
    (tmp_path / "training_log_2027.txt").mkdir()
    (tmp_path / "training_log_2026.txt").write_bytes(
        bytes(range(256)) * 50 + b"\nEpoch 1 \nPseudo dice [1.2.3, np.float32(]\nEpoch time: . s\n"
    )
    assert read_log(tmp_path / "none.txt") == TrainingLog()
    assert read_training(tmp_path).epochs == ()


def test_the_final_validation_and_running_iterations_are_read() -> None:
    """Cases, the median time of one, the whole time; another process validates all cases again."""
    lines = ["2026-05-01 10:00:00.000000: Epoch 4", "seq_transfer: iteration 50 of 250"]
    assert read_lines(lines).iteration == (50, 250)
    starts = [f"2026-05-01 10:01:{second:02d}.500000: predicting case_{second}" for second in (0, 20, 22, 24)]
    log = read_lines([*lines, *starts, "2026-05-01 10:01:40.500000: Validation complete"])
    assert (log.predicted, log.case_seconds, log.validation_seconds) == (4, 2.0, 40.0)
    reader = LogReader()
    for line in starts:
        reader.feed(line)
    reader.begin_log()
    assert reader.log == TrainingLog()

"""What nnU-Net prints, as it prints it, read into epochs, Dice and time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_seqtransfer.nnunet.training_log import Progress, read_line

STAMP = "2026-01-01 10:00:00.123456: "


def read_all(*lines: str) -> Progress:
    progress = Progress()
    for line in lines:
        progress = read_line(progress, line)
    return progress


def printed(name: str, values: list) -> str:
    """The line as nnU-Net's print_to_log_file puts it on the terminal."""
    return f"{STAMP}{name} {values} \n"


def test_an_epoch_of_nnunet() -> None:
    """The lines of one epoch, as nnU-Net 2.8 prints them, give the epoch, the Dice of each label and the time."""
    progress = read_all(
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
    assert (progress.epoch, progress.epochs_done, progress.epoch_seconds) == (3, 4, 12.34)
    assert progress.pseudo_dice[::2] == (0.8123, 0.0)
    assert math.isnan(progress.pseudo_dice[1])
    assert progress.mean_dice == pytest.approx(0.40615)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, float])
@pytest.mark.parametrize("values", [[0.8123, 0.25], [math.nan, 0.5], [1.0], [0.0, 1.0, 0.0001], [1e-7, 0.5], []])
def test_dice_of_every_number_type(kind: type, values: list[float]) -> None:
    """Dice printed as NumPy 1 and 2 print it (plain or with the type's name), rounded or in powers of ten."""
    line = printed("Pseudo dice", [kind(value) for value in values])
    assert read_line(Progress(), line).pseudo_dice == pytest.approx(values, rel=1e-3, abs=1e-7, nan_ok=True)


def test_the_mean_leaves_out_labels_without_dice() -> None:
    """Labels that no validation patch held (nan) do not count; where no label has a Dice there is no mean."""
    assert read_all("Pseudo dice [0.5, nan, 0.7]").mean_dice == pytest.approx(0.6)
    assert read_all("Pseudo dice [nan, nan]").mean_dice is None
    assert Progress().mean_dice is None


def test_a_training_that_goes_on() -> None:
    """After --c the first epoch printed is not 0; the epochs done count from the training's beginning."""
    progress = read_all(f"{STAMP}Epoch 120 \n", f"{STAMP}Epoch time: 40.0 s \n")
    assert progress.epochs_done == 121


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "Epoch",
        "Epoch 3 of 5",
        "This is Epoch 3",
        "Mean Validation Dice:  0.87",
        "predicting hippocampus_003",
        "Epoch time:",
        "Pseudo dice",
        "Traceback (most recent call last):",
        "\x00\ufffd",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    """Lines that are not nnU-Net's three leave the progress as it is."""
    before = Progress(3, 3, (0.5,), 1.0)
    assert read_line(before, line) == before

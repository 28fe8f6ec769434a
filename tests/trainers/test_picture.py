"""progress.png while epochs are short."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from PIL import Image

from nnunet_seqtransfer.trainers import picture
from nnunet_seqtransfer.trainers.picture import SECONDS, Picture


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its last number is the time."""
    times = [1000.0]
    monkeypatch.setattr(picture.time, "monotonic", lambda: times[-1])
    return times


def logger_of(folder: Path) -> MetaLogger:
    return MetaLogger(str(folder), resume=False)


def end_epoch(drawn: Picture, logger: MetaLogger, folder: Path, epoch: int) -> None:
    """What nnU-Net's trainer does: a value of everything, then the picture."""
    for key in ("train_losses", "val_losses", "lrs", "mean_fg_dice", "epoch_start_timestamps", "epoch_end_timestamps"):
        logger.log(key, float(epoch), epoch)
    logger.log("dice_per_class_or_region", [0.5], epoch)
    with drawn.when_due(logger):
        logger.plot_progress_png(str(folder))


def test_the_first_epoch_is_drawn_and_then_one_after_each_half_minute(tmp_path: Path, clock: list[float]) -> None:
    """Epochs of a second are drawn at 0 s and at 30 s, long ones always."""
    drawn, logger, file = Picture(), logger_of(tmp_path), tmp_path / "progress.png"
    found = []
    for epoch in range(62):
        end_epoch(drawn, logger, tmp_path, epoch)
        if file.exists():
            found.append(epoch)
            file.unlink()
        clock.append(1001.0 + epoch if epoch < 60 else clock[-1] + SECONDS)
    assert found == [0, 30, 60, 61]


def test_at_the_end_the_picture_holds_every_epoch(tmp_path: Path, clock: list[float]) -> None:
    """It is drawn once more where it lacks an epoch, and not where it does not."""
    drawn, logger, file = Picture(), logger_of(tmp_path), tmp_path / "progress.png"
    end_epoch(drawn, logger, tmp_path, 0)
    file.unlink()
    drawn.finish(logger, str(tmp_path))
    assert not file.exists()
    end_epoch(drawn, logger, tmp_path, 1)
    assert not file.exists()
    drawn.finish(logger, str(tmp_path))
    with Image.open(file) as image:
        image.verify()


def test_an_error_leaves_the_logger_able_to_draw(tmp_path: Path, clock: list[float]) -> None:
    """A full disk while a checkpoint is written comes between."""
    drawn, logger = Picture(), logger_of(tmp_path)
    end_epoch(drawn, logger, tmp_path, 0)
    with pytest.raises(OSError, match="full"), drawn.when_due(logger):
        raise OSError("full")
    drawn.finish(logger, str(tmp_path))
    assert (tmp_path / "progress.png").exists()

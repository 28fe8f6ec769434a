"""Read nnU-Net's training log: losses, pseudo Dice, learning rate and duration of each epoch, validated cases."""

import math
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

LOGS = "training_log_*.txt"
"""Glob pattern for nnU-Net's logs in a fold's results folder. Each start writes a new log."""
TAIL = 32 * 1024
"""Bytes that suffice for the last 80 epochs or so."""

ITERATION = "seq_transfer: iteration {} of {}"
"""Line that our trainer prints while an epoch runs; nnU-Net prints nothing then."""

_LINE = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{6})?)?.*?(?:^|: )(?:"
    r"Epoch (?P<number>\d{1,9})\s*$|"
    r"Current learning rate: (?P<learning_rate>\S+)|"
    r"train_loss (?P<train_loss>\S+)|"
    r"val_loss (?P<validation_loss>\S+)|"
    r"Pseudo dice \[(?P<pseudo_dice>.*)\]|"
    r"Epoch time: (?P<seconds>\S+) s|"
    r"iteration (?P<iteration>\d+ of \d+)$|"
    r"predicting (?P<case>\S+)|"
    r"(?P<validated>Validation complete))"
)
_NUMBER = re.compile(r"(?<![\w.])-?(?:nan|\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])")
_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?:\s*")
_ERROR = re.compile(
    r"^(?:[A-Za-z_][\w.]*(?:Error|Exception)(?::|$)|error:|slurmstepd: error|terminate called|"
    r"Killed|Segmentation fault)"
)
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Epoch:
    """One finished epoch. Numbers that nnU-Net did not print are NaN."""

    number: int
    "Epoch number, starting at 0."
    pseudo_dice: tuple[float, ...] = ()
    "Pseudo Dice per label, 0 to 1, on patches of validation cases; NaN if no patch holds the label."
    train_loss: float = math.nan
    "Mean loss on training patches."
    validation_loss: float = math.nan
    "Mean loss on validation patches."
    learning_rate: float = math.nan
    "Learning rate when the epoch starts."
    seconds: float = math.nan
    "Duration in seconds."

    @property
    def mean_dice(self) -> float:
        """Return the mean pseudo Dice over the labels that have one, NaN if none has."""
        known = [dice for dice in self.pseudo_dice if not math.isnan(dice)]
        return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class TrainingLog:
    """Everything that one training has logged."""

    epochs: tuple[Epoch, ...] = ()
    "Finished epochs in order."
    running: int | None = None
    "Epoch that has started but not finished, or None."
    error: str | None = None
    "Last error printed, if no epoch started after it."
    iteration: tuple[int, int] | None = None
    "Finished iterations of the running epoch and all of them, as our trainer prints them."
    predicted: int = 0
    "Cases in the final validation whose prediction has begun, the present one included."
    case_seconds: float | None = None
    "Median seconds from one prediction to the next; None for fewer than three, since worker processes start first."
    validation_seconds: float | None = None
    "Seconds from the first prediction to the end of the final validation; None before that."

    @property
    def last(self) -> Epoch | None:
        """Return the last finished epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def epochs_done(self) -> int:
        """Return the number of finished epochs since the training started."""
        return self.running if self.running is not None else self.epochs[-1].number + 1 if self.epochs else 0

    @property
    def validated(self) -> int:
        """Return the number of cases that the final validation is done with."""
        return self.predicted if self.validation_seconds is not None else max(0, self.predicted - 1)

    @property
    def median_seconds(self) -> float | None:
        """Return the median duration of an epoch in seconds, None without epochs."""
        return statistics.median(epoch.seconds for epoch in self.epochs) if self.epochs else None


class LogReader:
    """Read a log line by line, also while it grows. Unknown and damaged lines are ignored."""

    def __init__(self) -> None:
        self._epochs: dict[int, Epoch] = {}
        self._running: int | None = None
        self._values: dict[str, Any] = {}
        self._error: str | None = None
        self._iteration: tuple[int, int] | None = None
        self._predicted: list[datetime | None] = []
        self._validated: datetime | None = None

    @property
    def log(self) -> TrainingLog:
        """Return everything read so far."""
        times = [time for time in self._predicted if time is not None]
        steps = [(after - before).total_seconds() for before, after in pairwise(times)]
        return TrainingLog(
            tuple(self._epochs.values()),
            self._running,
            self._error,
            self._iteration,
            len(self._predicted),
            statistics.median_low(steps) if len(steps) > 1 else None,
            (self._validated - times[0]).total_seconds() if self._validated and times else None,
        )

    def feed(self, line: str) -> Epoch | None:
        """Read one more line. Return the epoch that it finishes, if any."""
        match = _LINE.search(line)
        name = match.lastgroup if match else None
        if match is None or name is None:  # no line of an epoch
            self._read_error(line)
        elif name == "number":
            self._start(int(match[name]))
        elif name == "iteration":
            done, _, whole = match[name].split()
            self._iteration = int(done), int(whole)
        elif name == "case":
            self._predicted.append(_time(match["time"]))
        elif name == "validated":
            self._validated = _time(match["time"])
        elif name == "pseudo_dice":
            self._values[name] = _numbers(match[name])
        else:
            self._values[name] = next(iter(_numbers(match[name])), math.nan)
        return self._finish() if name == "seconds" else None

    def begin_log(self) -> None:
        """Forget the last error and the validated cases: another process begins, which validates all of them."""
        self._error, self._iteration = None, None
        self._predicted, self._validated = [], None

    def _start(self, number: int) -> None:
        # A resumed training repeats the epochs since its checkpoint; those of the earlier process no longer count.
        if self._epochs and next(reversed(self._epochs)) >= number:
            self._epochs = {known: epoch for known, epoch in self._epochs.items() if known < number}
        self._running, self._values, self._error, self._iteration = number, {}, None, None

    def _finish(self) -> Epoch | None:
        values, number = self._values, self._running
        if number is None or math.isnan(values["seconds"]):  # a cut-off or damaged epoch
            return None
        self._epochs[number] = Epoch(number, **values)
        self._running, self._values, self._error, self._iteration = None, {}, None, None
        return self._epochs[number]

    def _read_error(self, line: str) -> None:
        text = _TIMESTAMP.sub("", line).strip()
        if _ERROR.match(text) and not line.startswith(" "):  # indented lines are part of a traceback
            self._error = "".join(character for character in text if character.isprintable())[:_MAX_ERROR_LENGTH]


def read_lines(lines: Iterable[str]) -> TrainingLog:
    """Return what the lines of a log tell, nnU-Net's or the output of a training."""
    reader = LogReader()
    for line in lines:
        reader.feed(line)
    return reader.log


def read_log(path: Path, tail: int | None = None) -> TrainingLog:
    """Return what nnU-Net's log or the output of a training tells, empty if it cannot be read.

    ``tail``: read only so many bytes at the end, for instance `TAIL`.
    """
    return read_lines(_lines(path, tail))


def read_training(folder: Path, tail: int | None = None) -> TrainingLog:
    """Return what all logs in the results folder of a fold tell, joined by time.

    A repeated epoch counts as the last process trained it. Epochs after it from an earlier process do not count.
    ``tail``: read only so many bytes at the end of a log, and no logs older than needed for one finished epoch.
    A log without a finished epoch in these bytes is read whole: a long final validation follows the epochs.
    """
    read = []
    # the newest first, by the numbers in the names: nnU-Net writes months and days without leading zeros
    paths = sorted(
        folder.glob(LOGS), key=lambda path: [int(n) for n in re.findall(r"\d{1,9}", path.name)], reverse=True
    )
    for path in paths:
        read.append(_lines(path, tail))
        if tail is None:
            continue
        log = read_lines(read[-1])
        if not log.epochs:
            read[-1] = _lines(path, None)
            log = read_lines(read[-1])
        if log.epochs and len(read) == 1:
            return log
        if log.epochs:
            break
    reader = LogReader()
    for lines in reversed(read):
        reader.begin_log()  # a resumed training has overcome it
        for line in lines:
            reader.feed(line)
    return reader.log


def _lines(path: Path, tail: int | None) -> list[str]:
    try:
        with path.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - tail) if tail is not None else 0
            stream.seek(start)
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if start else lines  # the first line is cut off


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _numbers(text: str) -> tuple[float, ...]:
    """Return the numbers in a printed list, plain (NumPy 1) or as in np.float32(0.5) (NumPy 2)."""
    return tuple(float(number) for number in _NUMBER.findall(text))

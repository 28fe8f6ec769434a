"""The ends of the logs of a stage: epochs, pseudo Dice, times and the last error; whole logs are never read."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.nnunet.training_log import Progress, read_line

TAIL = 32 * 1024
"""Bytes of a log's end that are read: about 80 epochs of nnU-Net's."""
_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?:\s*")
_ERROR = re.compile(
    r"^(?:[A-Za-z_][\w.]*(?:Error|Exception)(?::|$)|error:|slurmstepd: error|terminate called|"
    r"Killed|Segmentation fault)"
)
_MOST = 300


@dataclass(frozen=True)
class LogEnd:
    """What the end of a log says."""

    progress: Progress = field(default_factory=Progress)
    "Epochs and pseudo Dice."
    epoch_seconds: float | None = None
    "Median time of the epochs in it."
    error: str | None = None
    "The last line that is an error, where no epoch began after it."


def read_tail(path: Path, size: int = TAIL) -> list[str]:
    """The last lines of a file, of at most ``size`` bytes, whatever is in it; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - size))
            text = stream.read(size).decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines()
    return lines[1:] if length > size else lines  # the first one is cut off


def read_end(lines: Iterable[str]) -> LogEnd:
    """What the last lines of a log say: of nnU-Net's own, or of what a stage printed."""
    progress, seconds, error = Progress(), [], None
    for line in lines:
        after = _after(progress, line)
        if after.epochs_done != progress.epochs_done or after.epoch != progress.epoch:
            error = None
        if after.epoch_seconds is not None and after.epochs_done != progress.epochs_done:
            seconds.append(after.epoch_seconds)
        progress = after
        plain = _TIMESTAMP.sub("", line).strip()
        if _ERROR.match(plain) and not line.startswith(" "):
            error = "".join(character for character in plain if character.isprintable())[:_MOST]
    return LogEnd(progress, statistics.median(seconds) if seconds else None, error)


def read_newest(logs: Sequence[Path]) -> LogEnd:
    """The end of the newest of nnU-Net's logs of a fold (names hold the time) that has an epoch; its last error.

    A training that goes on writes a new log, which has no epoch at first.
    """
    error, begun = None, False
    for path in sorted(logs, key=time_in, reverse=True):
        end = read_end(read_tail(path))
        if not begun:
            error, begun = end.error, True
        if end.progress.epoch is not None or end.progress.epochs_done:
            return LogEnd(end.progress, end.epoch_seconds, error)
    return LogEnd(error=error)


def time_in(path: Path) -> tuple[int, ...]:
    """When a log was begun, to sort by: the numbers in its name, training_log_2026_5_10_09_00_00.txt.

    As text they would not be in order, since nnU-Net writes months and days without leading zeros.
    """
    return tuple(int(number) for number in re.findall(r"\d{1,9}", path.name))


def _after(progress: Progress, line: str) -> Progress:
    try:
        return read_line(progress, line)
    except (ValueError, OverflowError):  # a damaged number
        return progress

"""A stage command that runs beside others: its output in a log, its training's progress in a line of its own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from nnunet_seqtransfer.nnunet.training_log import LogReader
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.stages import Stage


@dataclass
class RunningStage:
    """The process of a stage, from its start on."""

    chain: Chain
    "The chain that it belongs to."
    stage: Stage
    "What it does."
    command: tuple[str, ...]
    "The stage command."
    environment: Mapping[str, str]
    "Variables to set on top of those of this process."
    line: int
    "The line of the terminal in which its progress is shown."
    child: subprocess.Popen[bytes] = field(init=False)
    "The process, which leads a session of its own: Ctrl-C in the terminal reaches it through this one alone."
    _training: TextIO = field(init=False)
    _bar: tqdm = field(init=False)
    _reader: LogReader = field(default_factory=LogReader, init=False)
    _rest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        training = self.chain.log(self.stage)
        training.parent.mkdir(parents=True, exist_ok=True)
        training.touch()
        self._training = training.open(errors="replace")
        self._training.seek(0, os.SEEK_END)
        with self.output.open("wb") as out:
            self.child = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=self.stage.recipe.epochs,
            desc=self.title,
            unit="epoch",
            position=self.line,
            mininterval=10 if quiet else 0.5,
            ascii=quiet or None,
            leave=False,
        )

    @property
    def title(self) -> str:
        """What people are shown."""
        return self.chain.title(self.stage)

    @property
    def output(self) -> Path:
        """The log of the stage command; the training's own log is another one."""
        training = self.chain.log(self.stage)
        return training.with_name(f"{training.stem}_command.log")

    def has_ended(self) -> bool:
        """Whether the process has ended; shows its training's progress."""
        ended = self.child.poll() is not None
        *lines, self._rest = (self._rest + self._training.read()).split("\n")
        for line in lines:
            self._reader.feed(line.rstrip())
        last = self._reader.log.last
        if last is not None and last.number + 1 > self._bar.n:
            self._bar.n = last.number + 1
            if not math.isnan(last.mean_dice):
                self._bar.set_postfix_str(f"pseudo Dice {last.mean_dice:.3f}", refresh=False)
            self._bar.refresh()
        return ended

    def close(self) -> int:
        """Ends the line on the terminal; returns the exit status of the process, which has ended."""
        self._bar.close()
        self._training.close()
        return self.child.wait()

    def failure(self, status: int) -> str:
        """One line: why it failed."""
        lines = self.output.read_text(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return f"{self.title} failed: {errors[-1] if errors else f'exit status {status}; see {self.output}'}"

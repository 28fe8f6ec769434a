"""What the stages of a path cost to train, in epochs and GPU hours, given what is trained already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["epochs", "GPU hours"]


@dataclass(frozen=True)
class Training:
    """How the stages of a path will be trained; `nnUNetv2_seq_train` has options of the same names and defaults."""

    epochs: int = 250
    """Epochs of the target's stage."""

    source_epochs: int = 250
    """Epochs of each source's stage."""

    iterations: int = 250
    """Iterations per epoch of all stages, unless sources have their own."""

    folds: int = 1
    """Folds of the target that will be trained; sources are trained once for all of them."""

    tag: str | None = None
    """Tag of the chain, by which its stages are told apart from those of another recipe."""

    epoch_time: float | None = None
    """Seconds of one epoch of `iterations`, above 0; None to take them from logs."""

    source_iterations: int | None = None
    """Iterations per epoch of the sources' stages; None for `iterations`."""

    @property
    def of_source(self) -> tuple[int, int]:
        """Epochs, and iterations in each, of a source's stage."""
        return self.source_epochs, self.source_iterations or self.iterations


@dataclass(frozen=True)
class EpochTime:
    """How long an epoch takes, and how that is known."""

    seconds: float
    """Above 0."""

    origin: str
    """In words: given, measured on what, or assumed."""


@dataclass(frozen=True)
class Finished:
    """The source stages in nnUNet_results that a chain would find trained."""

    paths: frozenset[tuple[str, ...]]
    """Full names of the datasets up to and including each such stage's, in training order."""

    other_recipes: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """By path, in words, the epochs and iterations of stages that are trained, but with others than wanted."""


def stage_price(training: Training, epoch: EpochTime, unit: Unit, *, is_target: bool) -> float:
    """Price of one stage in epochs or GPU hours; of all its folds for the target.

    Hours are in proportion to the iterations of an epoch. Stages that may end early are priced at their full length.
    """
    source_epochs, iterations = training.of_source
    epochs = training.epochs * training.folds if is_target else source_epochs
    if unit == "epochs":
        return float(epochs)
    return epochs * epoch.seconds * (1.0 if is_target else iterations / training.iterations) / 3600

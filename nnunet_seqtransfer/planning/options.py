"""Options for a plan, and the price to train a stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["epochs", "GPU hours"]
DEFAULT_STRATEGY = "gain"
MOST_SOURCES = 2
"""Sources before the target: longer paths were never measured, so nothing can be predicted for them."""


@dataclass(frozen=True)
class Training:
    """Recipe for all stages. `nnUNetv2_seq_train` has options of the same names and defaults."""

    epochs: int = 250
    "Epochs on the target."
    source_epochs: int = 250
    "Epochs on each source."
    iterations: int = 250
    "Iterations per epoch in all stages, unless sources have their own."
    folds: int = 1
    "Folds of the target to train; sources are trained once for all of them."
    tag: str | None = None
    "Tag of the chain, which tells the stages from those of another recipe."
    epoch_time: float | None = None
    "Seconds of one epoch of `iterations`, above 0; None to take them from training logs."
    source_iterations: int | None = None
    "Iterations per epoch of the sources' stages; None for `iterations`."

    @property
    def of_source(self) -> tuple[int, int]:
        """Epochs of a source's stage, and iterations in each."""
        return self.source_epochs, self.source_iterations or self.iterations

    def longer(self, sources: int) -> float:
        """Return the iterations of a path through so many sources, as a multiple of those on the target alone."""
        epochs, iterations = self.of_source
        return 1.0 + sources * epochs * iterations / (self.epochs * self.iterations)


@dataclass(frozen=True)
class EpochTime:
    """Epoch time."""

    seconds: float
    "Seconds of one epoch, above 0."
    origin: Literal["given", "logged", "published"]
    "Given by the user, the median of logged epochs, or a guess from nnU-Net's published time and the plans."
    epochs: int = 0
    "Number of logged epochs behind a median."


@dataclass(frozen=True)
class History:
    """Facts from earlier trainings, known before a path is planned."""

    epoch: EpochTime = field(default_factory=lambda: EpochTime(45.0, "published"))
    "Epoch time."
    trained: Mapping[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    "Path up to and including the dataset of a finished source stage -> its epochs, and iterations in each."
    scratch_dice: float | None = None
    "Validation Dice of a finished scratch model of the target; None if there is none."
    source_hours: float = 0.0
    "Hours for the stage of any source, without preprocessing. A stage that may end early counts as a whole."
    target_hours: float = 0.0
    "Hours for the target's stages, all folds with their final validation."
    preprocessing: Mapping[str, float] = field(default_factory=dict)
    "Source -> hours to preprocess what is missing of it."

    def finished(self, training: Training) -> frozenset[tuple[str, ...]]:
        """Return the source stages that a chain would reuse, so that they cost nothing."""
        return frozenset(path for path, recipe in self.trained.items() if recipe == training.of_source)


@dataclass(frozen=True)
class PlanOptions:
    """Options for a plan. The defaults are those of `nnUNetv2_seq_plan`."""

    strategy: str = DEFAULT_STRATEGY
    "Strategy name."
    max_sources: int = MOST_SOURCES
    "Most sources before the target, 0 to `MOST_SOURCES`."
    listed: int = 10
    "Number of candidates in the plan, best first."
    communities: int | None = None
    "Communities for the published strategy; None for the default."
    must: tuple[str, ...] = ()
    "Full names: sources that the path goes through."
    avoid: tuple[str, ...] = ()
    "Full names: sources that the path avoids."
    landmark_cases: int = 0
    "Labelled cases that the first source needs."
    budget: float | None = None
    "Most that the stages still to train may cost together, the target's included; None for no limit."
    budget_unit: Unit = "GPU hours"
    "Unit of the budget."
    training: Training = field(default_factory=Training)
    "Recipe for the stages."
    scratch_dice: float | None = None
    "Dice of the target trained from scratch, 0 to 1; None to take it from a finished model, if there is one."
    allow_overlap: bool = False
    "True to plan with sources that hold cases of the target."

"""The one estimate of time, for plans, dry runs, comparisons and status: a model of nnU-Net, corrected by its logs."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nnunet_seqtransfer.nnunet.training_log import TrainingLog
from nnunet_seqtransfer.parallel import cores
from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.recipe import Recipe

SECONDS_PER_EPOCH = 45.0
"""nnU-Net publishes 41 to 47 s on an A100 for 250 iterations and 50 of validation, mostly with `USUAL`."""
USUAL = 1877.0, 714.0
"""GFLOP and million activations of one forward pass: batch 2 of patch 128 x 128 x 128, 32 to 320 features."""
USUAL_VOXELS = 2 * 128**3
CPU_SECONDS = 0.021, 0.009
"""Training iteration on one core, per GFLOP and per million activations of the forward pass; measured on an EPYC."""
CPU_SCALING = 0.8
"""The speed grows with the number of cores to this power: 1.5 to 1.9 times with two cores."""
CPU_PREDICTION_SECONDS = 1.2e-6
"""Least seconds per voxel to predict one 3-D patch on two cores: torch is slow on a batch of one; measured."""
ITERATION_SECONDS = 0.01
"""Least iteration time. A guess."""
START_SECONDS = 8.0
"""From the start of a stage to the first epoch, and from the last one to the end: imports, batches, checkpoints."""
COMPILE_SECONDS = 30.0
"""torch.compile in the first epoch on CUDA: 12 to 69 s on an H100."""
PROCESS_SECONDS = 4.0
"""Processor seconds that a worker process takes to start: it imports torch."""
CASE_SECONDS = 0.1
"""Time for a predicted case besides the network."""
PREPROCESSING_SECONDS = 0.03, 0.6
"""Processor seconds per case and per million voxels. Rough."""


@dataclass(frozen=True)
class Pace:
    """Machine speed with a network; the default is the model's guess."""

    training: float = 1.0
    "Measured seconds of an epoch as a multiple of the model's."
    prediction: float | None = None
    "Likewise for a predicted case; None to take that of `training`."
    start: float | None = None
    "Seconds of a start, with what the first epoch takes longer than others; None if not measured."
    pools: float | None = None
    "Seconds of a final validation besides the cases; None if not measured."
    epochs: int = 0
    "Logged epochs behind it; 0 for a guess."


@dataclass(frozen=True)
class Clock:
    """Everything that decides how long stages take."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    "The configuration in the target's plans; empty if unknown."
    shapes: Sequence[Sequence[int]] = ()
    "Shapes of the target's cases after resampling."
    folds: Mapping[str, int] = field(default_factory=dict)
    "Fold of the target -> cases in the final validation."
    device: str = "cuda"
    "cuda, cpu or mps."
    pace: Pace = Pace()
    "Measured values."

    def epoch(self, recipe: Recipe) -> float:
        """Return the seconds of an epoch."""
        # a validation iteration has no backward pass: about a third of a training iteration
        iterations = recipe.iterations + recipe.validation_iterations / 3
        return self.pace.training * self._iteration() * iterations

    def case(self) -> float:
        """Return the seconds to predict a case of the final validation, with all mirrored copies."""
        patch, batch = self.settings.get("patch_size", (128,) * 3), self.settings.get("batch_size", 2)
        forward = self._iteration() / 3 / batch
        if self.device == "cpu" and len(patch) == 3:
            forward = max(forward, CPU_PREDICTION_SECONDS * math.prod(patch) * (2 / cores()) ** CPU_SCALING)
        tiles = sum(_tiles(shape, patch) for shape in self.shapes) / max(1, len(self.shapes)) or 1
        factor = self.pace.training if self.pace.prediction is None else self.pace.prediction
        return float(factor * (forward * tiles * 2 ** len(patch) + CASE_SECONDS))

    def stage(self, recipe: Recipe, epochs: int, cases: int = 0, *, begins: bool = True) -> float:
        """Return the seconds for a stage with so many epochs left and so many cases of the final validation.

        ``begins``: whether its process has yet to start.
        """
        if epochs + cases == 0:
            return 0.0
        start = self.pace.start
        if start is None:
            start = START_SECONDS + COMPILE_SECONDS * (self.device == "cuda")
        pools = self.pace.pools
        if pools is None:  # one pool writes the predictions, another one evaluates them
            processes = int(os.environ.get("nnUNet_def_n_proc") or 8)
            pools = 2 * PROCESS_SECONDS * max(2 if self.device == "cuda" else 1, processes / cores())
        return begins * start + epochs * self.epoch(recipe) + (pools + cases * self.case() if cases else 0)

    def held_out(self, fold: str) -> int:
        """Return the number of cases in the final validation of a fold, a fifth if unknown."""
        every = len(self.shapes) or 1
        return self.folds.get(fold, every if fold == "all" else math.ceil(every / 5))

    def with_log(self, log: TrainingLog, recipe: Recipe) -> "Clock":
        """Return the clock with what a training of this network has logged in place of guesses."""
        model, pace = replace(self, pace=Pace()), self.pace
        median = log.median_seconds
        if median is not None:
            pace = replace(pace, training=median / model.epoch(recipe), epochs=len(log.epochs))
            if log.epochs[0].number == 0 and len(log.epochs) > 1:
                pace = replace(pace, start=START_SECONDS + max(0.0, log.epochs[0].seconds - median))
        if log.case_seconds is not None:
            pace = replace(pace, prediction=log.case_seconds / model.case())
            if log.validation_seconds is not None:
                rest = log.validation_seconds - log.predicted * log.case_seconds
                pace = replace(pace, pools=max(0.0, rest))
        return replace(self, pace=pace)

    def _iteration(self) -> float:
        """Return the model's seconds of a training iteration."""
        flops, activations = forward_pass(self.settings)
        if self.device == "cpu":
            seconds = (CPU_SECONDS[0] * flops + CPU_SECONDS[1] * activations) / cores() ** CPU_SCALING
        else:
            usual = Recipe()
            iterations = usual.iterations + usual.validation_iterations / 3
            seconds = (SECONDS_PER_EPOCH / iterations - ITERATION_SECONDS) * flops / USUAL[0]
        return float(seconds + ITERATION_SECONDS)


GUESS = Clock()
"""Clock without plans and logs."""


def forward_pass(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return GFLOP and million activations of a batch through the convolutions of nnU-Net's U-Nets.

    Other networks, and plans without an architecture, count as the usual one at their number of voxels.
    """
    voxels = math.prod(settings.get("patch_size", (128,) * 3)) * settings.get("batch_size", 2)
    parts = settings.get("architecture", {}).get("arch_kwargs", {})
    try:
        features, kernels, strides = (parts[name] for name in ("features_per_stage", "kernel_sizes", "strides"))
        # a residual block has two convolutions
        encoder = parts.get("n_conv_per_stage") or [2 * blocks for blocks in parts["n_blocks_per_stage"]]
        decoder = [*reversed(parts["n_conv_per_stage_decoder"])]  # skipped features double the first one's inputs
        size = [voxels / math.prod(map(math.prod, strides[: level + 1])) for level in range(len(features))]
        inputs = [(level, ([1, *features][level], *[features[level]] * (n - 1))) for level, n in enumerate(encoder)]
        inputs += [(level, (2 * features[level], *[features[level]] * (n - 1))) for level, n in enumerate(decoder)]
        outputs = [size[level] * features[level] for level in range(len(features))]
        flops = sum(2 * outputs[level] * sum(each) * math.prod(kernels[level]) for level, each in inputs)
        activations = sum(outputs[level] * len(each) for level, each in inputs)
    except (KeyError, TypeError, ValueError, IndexError):
        flops, activations = (amount * voxels / USUAL_VOXELS for amount in (USUAL[0] * 1e9, USUAL[1] * 1e6))
    return flops / 1e9, activations / 1e6


def preprocessing_seconds(shapes: Sequence[Sequence[int]], cases: int, processes: int) -> float:
    """Return the seconds to preprocess so many average ``cases`` of a dataset with resampled ``shapes``."""
    if cases <= 0:  # the folder may hold more cases than the fingerprint
        return 0.0
    voxels = sum(map(math.prod, shapes)) / max(1, len(shapes)) / 1e6
    of_case = PREPROCESSING_SECONDS[0] + PREPROCESSING_SECONDS[1] * voxels
    return PROCESS_SECONDS + cases * of_case / min(processes, cores())


def epochs_done(recipe: Recipe, on_disk: StageOnDisk) -> int:
    """Return the trained epochs: fewer than requested in a finished stage that ended early."""
    done = on_disk.log.epochs_done
    return (done or recipe.epochs) if on_disk.final else min(done, recipe.epochs)  # logs may be gone


def _tiles(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Return the number of patches that nnU-Net's sliding window moves over a case, in steps of half a patch."""
    sides = zip(shape[-len(patch) :], patch, strict=True)
    steps = [math.ceil(max(0, size - side) / (side / 2)) + 1 for size, side in sides]
    return math.prod(steps) * math.prod(shape[: -len(patch)])  # a 2-D network predicts slice by slice

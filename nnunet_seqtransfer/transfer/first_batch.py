"""The first batch through a network before and after a hand-off: are its activations finite and of the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_seqtransfer.errors import CheckpointError

FACTOR = 10.0
"""How far apart activations may be and still count as of the same order."""
_SMALLEST = 2
"""Voxels along each axis at the lowest resolution: instance normalisation needs more than one in all."""


@dataclass(frozen=True)
class Activations:
    """What one batch gives in one network."""

    levels: tuple[float, ...]
    "Standard deviation of the output of each encoder stage, from the input's resolution down."
    output: float
    "Standard deviation of the logits at the input's resolution."

    @property
    def finite(self) -> bool:
        """Whether every activation, and so every figure, is finite."""
        return all(math.isfinite(figure) for figure in (*self.levels, self.output))


def random_batch(architecture: dict[str, Any], channels: int, seed: int = 0) -> Tensor:
    """A batch of one z-scored patch of noise, shape (1, channels, *size), float32.

    As small as the network allows: two voxels along each axis at the lowest resolution.

    Args:
        architecture: nnU-Net's ``arch_kwargs`` of the network.
        channels: input channels.
        seed: of the noise.
    """
    strides: Sequence[Sequence[int]] = architecture["strides"]
    size = [_SMALLEST * math.prod(axis) for axis in zip(*strides, strict=True)]
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))
    axes = tuple(range(2, noise.ndim))
    return (noise - noise.mean(axes, keepdim=True)) / noise.std(axes, keepdim=True)


def activations(network: nn.Module, batch: Tensor) -> Activations:
    """The activations of ``batch`` in a U-Net of nnU-Net's (``encoder.stages``); the network is left as it was."""
    levels: list[float] = []
    hooks = [
        stage.register_forward_hook(lambda _module, _inputs, output: levels.append(float(output.std())))
        for stage in network.encoder.stages  # type: ignore[union-attr]
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(batch)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    output = outputs[0] if isinstance(outputs, list | tuple) else outputs
    return Activations(tuple(levels), float(output.std()))


def require_same_order(before: Activations | None, after: Activations, factor: float = FACTOR) -> None:
    """Raises CheckpointError where activations after a hand-off are not finite, or not of the order of those before.

    Stages are compared level by level, as far down as both networks go; without ``before``, with 1: z-scored images
    and instance normalisation keep every stage's features near that. Logits must be finite alone, the heads being new.
    """
    if not after.finite:
        raise CheckpointError("the adapted weights give NaN or infinity on a first batch; take another model")
    expected = before.levels if before is not None else (1.0,) * len(after.levels)
    for level, (was, now) in enumerate(zip(expected, after.levels, strict=False)):
        if not was / factor <= now <= was * factor:
            raise CheckpointError(
                f"the adapted weights give features of another order at level {level} of the encoder (standard "
                f"deviation {now:.2g}, {was:.2g} before); take another model"
            )

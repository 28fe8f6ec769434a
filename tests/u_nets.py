"""Small U-Nets of nnU-Net's own classes, in 2-D."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn


def u_net(stages: int = 3, *, residual: bool = False, norm: type[nn.Module] = nn.InstanceNorm2d) -> nn.Module:
    """Reads (n, 1, 16, 16), gives logits of two classes at every resolution but the lowest."""
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "features_per_stage": [4 * 2**level for level in range(stages)],
        "conv_op": nn.Conv2d,
        "kernel_sizes": 3,
        "strides": [1] + [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"affine": True},
        "nonlin": nn.LeakyReLU,
        "deep_supervision": True,
    }
    if residual:
        return ResidualEncoderUNet(1, stages, n_blocks_per_stage=2, num_classes=2, n_conv_per_stage_decoder=1, **common)
    return PlainConvUNet(1, stages, n_conv_per_stage=2, num_classes=2, n_conv_per_stage_decoder=2, **common)


def batch(seed: int, size: int = 2) -> Tensor:
    return torch.randn(size, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def loss_of(outputs: list[Tensor]) -> Tensor:
    """A loss that every head takes part in."""
    return sum((output**2).mean() for output in outputs)  # type: ignore[return-value]


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    """Names of the parameters that are not bit by bit what they were."""
    return {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}

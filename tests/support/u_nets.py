"""Small U-Nets of nnU-Net's own classes, made directly or as nnU-Net makes them from plans."""

from __future__ import annotations

import math
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn


def u_net(
    stages: int = 3, *, residual: bool = False, norm: type[nn.Module] = nn.InstanceNorm2d, seed: int = 0
) -> nn.Module:
    """Reads (n, 1, 16, 16), gives logits of two classes at every resolution but the lowest."""
    torch.manual_seed(seed)
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


def architecture(
    stages: int = 4,
    *,
    flat: int = 0,
    dimensions: int = 3,
    width: int = 4,
    convolutions: int = 2,
    residual: bool = False,
) -> dict[str, Any]:
    """nnU-Net's arch_kwargs; the first ``flat`` stages have kernels 1x3x3 and strides 1x2x2, as for thick slices."""
    thin, full = [1] + [3] * (dimensions - 1), [3] * dimensions
    kernels = [thin if level < flat else full for level in range(stages)]
    strides = [[1] * dimensions] + [[1 if k == 1 else 2 for k in kernel] for kernel in kernels[: stages - 1]]
    module = f"torch.nn.modules.conv.Conv{dimensions}d"
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    return {
        "n_stages": stages,
        "features_per_stage": [min(width * 2**level, 4 * width) for level in range(stages)],
        "conv_op": module,
        "kernel_sizes": kernels,
        "strides": strides,
        blocks: [convolutions] * stages,
        "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def build(settings: dict[str, Any], channels: int = 1, classes: int = 2, seed: int = 0) -> nn.Module:
    """The network that nnU-Net builds, as it initialises it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    kind = "ResidualEncoderUNet" if "n_blocks_per_stage" in settings else "PlainConvUNet"
    torch.manual_seed(seed)
    network = get_network_from_plans(
        f"dynamic_network_architectures.architectures.unet.{kind}",
        settings,
        ["conv_op", "norm_op", "dropout_op", "nonlin"],
        channels,
        classes,
        deep_supervision=True,
    )
    return network.eval()


def trained(settings: dict[str, Any], channels: int = 1, classes: int = 2, seed: int = 7) -> nn.Module:
    """A network whose normalisations and biases are moved from where they start, as training does."""
    network = build(settings, channels, classes, seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def patch(settings: dict[str, Any], channels: int = 1, seed: int = 0) -> Tensor:
    """A z-scored patch of noise, shape (1, channels, *size), two voxels along each axis at the lowest resolution."""
    size = [2 * math.prod(axis) for axis in zip(*settings["strides"], strict=True)]
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))
    axes = tuple(range(2, noise.ndim))
    return (noise - noise.mean(axes, keepdim=True)) / noise.std(axes, keepdim=True)


def level_scales(network: nn.Module, image: Tensor) -> list[float]:
    """Standard deviation of each encoder stage's output, from the input's resolution down."""
    with torch.no_grad():
        return [float(level.std()) for level in network.eval().encoder(image)]


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

"""How much of one network comes over to another: coverage and scale of features, for nnU-Net's default sizes.

    python benchmarks/handoff_matrix.py

Builds each pair of networks as nnU-Net does (width 32 to at most 320; ResEncM's blocks), untrained but for
normalisations moved from 1 and 0, hands the weights over, and lets nnU-Net's own load_pretrained_weights take the file.
Prints a row for each pair: coverage, tensors copied, adapted and new, and the largest ratio of the standard deviations
of the encoder stages' outputs after and before.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_seqtransfer.transfer.adapt import adapt
from nnunet_seqtransfer.transfer.checkpoints import write_weights

BLOCKS = (1, 3, 4, 6, 6, 6)
Network = tuple[dict[str, Any], int]


def network(
    stages: int = 5, *, flat: int = 0, dimensions: int = 3, width: int = 32, residual: bool = False, channels: int = 1
) -> Network:
    """arch_kwargs and channels; the first ``flat`` stages have kernels 1x3x3 and strides 1x2x2 after them."""
    kernels = [[1, 3, 3][-dimensions:] if level < flat else [3] * dimensions for level in range(stages)]
    strides = [[1] * dimensions] + [[1 if k == 1 else 2 for k in kernel] for kernel in kernels[: stages - 1]]
    layers = f"{dimensions}d"
    architecture = {
        "n_stages": stages,
        "features_per_stage": [min(width * 2**level, 10 * width) for level in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{layers}",
        "kernel_sizes": kernels,
        "strides": strides,
        **({"n_blocks_per_stage": list(BLOCKS[:stages])} if residual else {"n_conv_per_stage": [2] * stages}),
        "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{layers}",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return architecture, channels


PAIRS: dict[str, tuple[Network, Network]] = {
    "the same": (network(), network()),
    "1 -> 2 channels": (network(), network(channels=2)),
    "4 -> 1 channels": (network(channels=4), network()),
    "kernels 1x3x3 -> 3x3x3": (network(flat=2), network()),
    "kernels 3x3x3 -> 1x3x3": (network(), network(flat=2)),
    "4 -> 5 stages": (network(4), network(5)),
    "5 -> 4 stages": (network(5), network(4)),
    "5 -> 6 stages": (network(5), network(6)),
    "4 -> 6 stages": (network(4), network(6)),
    "6 -> 4 stages": (network(6), network(4)),
    "width 24 -> 32": (network(width=24), network()),
    "width 32 -> 24": (network(), network(width=24)),
    "width 16 -> 32": (network(width=16), network()),
    "2d -> 3d": (network(dimensions=2), network()),
    "2d with 6 -> 3d with 5 stages": (network(6, dimensions=2), network()),
    "3d -> 2d": (network(), network(dimensions=2)),
    "residual, the same": (network(residual=True), network(residual=True)),
    "residual, 4 -> 1 channels": (network(residual=True, channels=4), network(residual=True)),
    "residual, 1x3x3 -> 3x3x3": (network(flat=2, residual=True), network(residual=True)),
    "residual, 5 -> 6 stages": (network(5, residual=True), network(6, residual=True)),
    "residual, 2d -> 3d": (network(dimensions=2, residual=True), network(residual=True)),
    "plain -> residual": (network(), network(residual=True)),
    "residual -> plain": (network(residual=True), network()),
}


def build(described: Network, classes: int, seed: int) -> nn.Module:
    """The network as nnU-Net initialises it."""
    architecture, channels = described
    kind = "ResidualEncoderUNet" if "n_blocks_per_stage" in architecture else "PlainConvUNet"
    name = f"dynamic_network_architectures.architectures.unet.{kind}"
    torch.manual_seed(seed)
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    made: nn.Module = get_network_from_plans(name, architecture, imports, channels, classes, deep_supervision=True)
    return made


def trained(described: Network) -> nn.Module:
    """A network whose normalisations and biases are not at their start any more."""
    made = build(described, 3, 0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def level_scales(made: nn.Module, described: Network) -> list[float]:
    """Return the standard deviation of each encoder stage's output for a z-scored patch of noise."""
    architecture, channels = described
    size = [2 * math.prod(axis) for axis in zip(*architecture["strides"], strict=True)]
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [float(level.std()) for level in made.eval().encoder((noise - noise.mean()) / noise.std())]


def main() -> None:
    """Prints the table."""
    print("| hand-off | coverage | copied | adapted | new | features, largest ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for title, (given, wanted) in PAIRS.items():
        old, new = trained(given), build(wanted, 2, 1)
        adapted, account = adapt(old.state_dict(), new.state_dict())
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            write_weights(Path(folder) / "init.pth", adapted)
            load_pretrained_weights(new, str(Path(folder) / "init.pth"))
        before, after = level_scales(old, given), level_scales(new, wanted)
        ratio = max(max(a / b, b / a) for a, b in zip(before, after, strict=False))
        counts = " | ".join(str(account.count(how)) for how in ("copied", "adapted", "new"))
        print(f"| {title} | {account.coverage:.3f} | {counts} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

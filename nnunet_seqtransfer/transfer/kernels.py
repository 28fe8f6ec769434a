"""Change the input channels, the kernel size or the width of convolutions: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def spread_mean(weight: Tensor, channels: int) -> Tensor:
    """Return (out, m, ...) as (out, ``channels``, ...): the sum over old channels, divided by ``channels``.

    An image repeated in every channel gives the same features before and after.
    """
    return (weight.sum(dim=1, keepdim=True) / channels).expand(-1, channels, *weight.shape[2:]).clone()


def match_channels(weight: Tensor, matched: Sequence[int | None]) -> Tensor:
    """Return (out, m, ...) as (out, n, ...): new channel j reads what the old channel ``matched[j]`` did.

    A channel without counterpart gets the mean of all old ones. Unless all channels are matched one to one, each
    filter is scaled to the old Euclidean norm. On independent z-scored channels the output then keeps the old variance.
    """
    mean = weight.mean(dim=1)
    chosen = torch.stack([mean if old is None else weight[:, old] for old in matched], dim=1)
    if sorted(old for old in matched if old is not None) == list(range(weight.shape[1])) and None not in matched:
        return chosen
    before, after = (tensor.flatten(1).norm(dim=1) for tensor in (weight, chosen))
    scale = torch.where(after > 0, before / after, torch.ones_like(before))
    return chosen * scale.view(-1, *[1] * (weight.ndim - 1))


def resize_convolution(weight: Tensor, size: Sequence[int]) -> Tensor:
    """Return (out, in, *kernel) as (out, in, *size); a 2d kernel lies in the last two axes.

    Growing keeps the kernel in the centre and puts 0 around it (central initialisation: Arnab et al., ICCV 2021). The
    convolution computes exactly what it did, also at the border. Spreading the kernel evenly (Carreira and Zisserman,
    CVPR 2017) would change it at the border, and everywhere unless images are constant along the axis. Shrinking adds
    the removed taps to the outermost remaining ones: no change for images that are constant along the axis.
    """
    weight = weight[:, :, None] if weight.ndim - 2 < len(size) else weight
    weight = weight.sum(dim=2) if weight.ndim - 2 > len(size) else weight
    for axis, wanted in enumerate(size, start=2):
        given = weight.shape[axis]
        shift = (wanted - 1) // 2 - (given - 1) // 2
        # New index of each tap: same distance from the centre, as far as the new kernel reaches.
        taps = (torch.arange(given, device=weight.device) + shift).clamp(0, wanted - 1)
        shape = [*weight.shape[:axis], wanted, *weight.shape[axis + 1 :]]
        if wanted != given:
            weight = weight.new_zeros(shape).index_add_(axis, taps, weight)
    return weight


def resize_upsampling(weight: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the kernel of a transposed convolution with stride = kernel: (in, out, *kernel) -> (in, out, *size).

    Growing repeats values, so the new output is the old one by nearest neighbours. Shrinking averages, so the new
    output is the mean of the old voxels.
    """
    weight = weight[:, :, None] if weight.ndim - 2 < len(size) else weight
    weight = weight.mean(dim=2) if weight.ndim - 2 > len(size) else weight
    return functional.interpolate(weight, size=list(size), mode="area")


def place_in(fresh: Tensor, weight: Tensor, groups: int = 1) -> tuple[Tensor, float]:
    """Place ``weight`` in the leading channels; both (out, in, ...) with equal kernels, or (out,).

    The leading outputs ignore new inputs: these weights are 0. So if a network only grows wider, the leading features
    stay exactly the same, as in Net2Net (Chen, Goodfellow and Shlens, ICLR 2016).

    Args:
        fresh: tensor as nnU-Net initialises it.
        weight: tensor of the old network.
        groups: number of parts in the inputs, each with leading channels of its own.

    Returns:
        The tensor, and how many values come from ``weight``. A filter that has lost inputs counts only by the share of
        inputs that it still reads.
    """
    result = fresh.clone()
    rows = min(len(fresh), len(weight))
    if fresh.ndim == 1:
        result[:rows] = weight[:rows]
        return result, float(rows)
    kept = 0
    chunks = zip(result.chunk(groups, dim=1), weight.chunk(groups, dim=1), strict=True)
    for chunk, given in chunks:
        columns = min(chunk.shape[1], given.shape[1])
        chunk[:rows, :columns] = given[:rows, :columns]
        chunk[:rows, columns:] = 0
        kept += columns
    values = rows * kept * fresh[0, 0].numel()
    return result, values * kept / weight.shape[1]

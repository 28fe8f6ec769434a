"""Convolution kernels for another number of input channels, another size, another width: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def spread_mean(weight: Tensor, channels: int) -> Tensor:
    """(out, m, ...) -> (out, ``channels``, ...): for each new channel the sum over the old ones by their new number.

    An image repeated in every channel gives the same features before and after.
    """
    return (weight.sum(dim=1, keepdim=True) / channels).expand(-1, channels, *weight.shape[2:]).clone()


def match_channels(weight: Tensor, matched: Sequence[int | None]) -> Tensor:
    """(out, m, ...) -> (out, n, ...): new channel j reads what the old channel ``matched[j]`` did.

    A channel without counterpart gets the mean of all old ones. Where not every channel has its own, each filter is
    scaled to its old Euclidean norm: on z-scored channels that are independent of each other its output then has
    the variance that it had.
    """
    mean = weight.mean(dim=1)
    chosen = torch.stack([mean if old is None else weight[:, old] for old in matched], dim=1)
    if sorted(old for old in matched if old is not None) == list(range(weight.shape[1])) and None not in matched:
        return chosen
    before, after = (tensor.flatten(1).norm(dim=1) for tensor in (weight, chosen))
    scale = torch.where(after > 0, before / after, torch.ones_like(before))
    return chosen * scale.view(-1, *[1] * (weight.ndim - 1))


def resize_convolution(weight: Tensor, size: Sequence[int]) -> Tensor:
    """(out, in, *kernel) -> (out, in, *size), the kernel's centre kept; a 2d kernel lies in the last two axes.

    Growing along an axis puts the kernel in the centre and 0 around it: the convolution computes exactly what it did,
    at the border as well. (Spread evenly instead, as in Carreira and Zisserman, CVPR 2017, it would do so only for
    images that are constant along the axis, and there not at the border, where zeros are padded; central
    initialisation: Arnab et al., ICCV 2021.) Shrinking adds what is cut off to the outermost that is left: the same
    for images that are constant along the axis, away from the border.
    """
    weight = weight[:, :, None] if weight.ndim - 2 < len(size) else weight
    weight = weight.sum(dim=2) if weight.ndim - 2 > len(size) else weight
    for axis, wanted in enumerate(size, start=2):
        given = weight.shape[axis]
        shift = (wanted - 1) // 2 - (given - 1) // 2
        # where a tap goes to: its distance from the centre is kept as far as the new kernel reaches
        taps = (torch.arange(given, device=weight.device) + shift).clamp(0, wanted - 1)
        shape = [*weight.shape[:axis], wanted, *weight.shape[axis + 1 :]]
        if wanted != given:
            weight = weight.new_zeros(shape).index_add_(axis, taps, weight)
    return weight


def resize_upsampling(weight: Tensor, size: Sequence[int]) -> Tensor:
    """The same for a transposed convolution whose stride is its kernel: (in, out, *kernel) -> (in, out, *size).

    Growing repeats, so that the new output is the old one's nearest neighbours; shrinking averages, so that it is the
    old one's mean over the voxels that become one.
    """
    weight = weight[:, :, None] if weight.ndim - 2 < len(size) else weight
    weight = weight.mean(dim=2) if weight.ndim - 2 > len(size) else weight
    return functional.interpolate(weight, size=list(size), mode="area")


def place_in(fresh: Tensor, weight: Tensor, groups: int = 1) -> tuple[Tensor, float]:
    """``fresh`` with ``weight`` in its leading channels; both (out, in, ...) of one kernel size, or (out,).

    The leading outputs read nothing of inputs that are new: these weights are 0. So where a network only grows wider,
    its leading features stay exactly what they were, the aim of Net2Net (Chen, Goodfellow and Shlens, ICLR 2016), and
    new ones start as nnU-Net initialises them. ``groups``: parts of the inputs, each with its own leading channels.

    Returns the tensor, and how many of its values come from ``weight``: a filter that has lost some of its inputs, the
    new network being narrower, counts only by the share of inputs that it still reads.
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

"""Adapt the weights of one network to another, and account for what was copied, adapted or new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.transfer.tensor_roles import TensorRole, counterpart, replaces_plain_stage, tensor_roles

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor

How = Literal["copied", "adapted", "new"]
_HOWS: tuple[How, ...] = ("copied", "adapted", "new")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorChange:
    """Origin of one tensor in the new network."""

    name: str
    "Tensor name; a tensor with several names is listed once."
    source: str | None
    "Tensor of the old network that it is made from; None if new."
    how: How
    "copied bit by bit, adapted by rules, or new as nnU-Net initialises it."
    reason: str
    "Rules, such as kernel 1x3x3 -> 3x3x3, or why it is new; empty if copied."
    parameters: int
    "Number of values."
    transferred: float
    "Number of values that come from the old network; see `place_in`."
    shapes: tuple[Shape | None, Shape] = (None, ())
    "Shape in the old network (None if new) and in the new one."


@dataclass(frozen=True)
class Adaptation:
    """Account of the weights of one network in another."""

    tensors: tuple[TensorChange, ...] = field(repr=False)
    "Tensors of the new network without heads, in order."
    heads: tuple[TensorChange, ...] = field(repr=False)
    "Head tensors that were kept on request."
    left_behind: tuple[str, ...] = field(repr=False)
    "Tensors of the old network, without heads, that are not used."

    @property
    def coverage(self) -> float:
        """Return the share of parameters, without heads, that come from the old network, 0 to 1."""
        return sum(change.transferred for change in self.tensors) / sum(change.parameters for change in self.tensors)

    def count(self, how: How) -> int:
        """Return the number of tensors of this kind, without heads."""
        return sum(change.how == how for change in self.tensors)

    def share(self, how: How) -> float:
        """Return the share of parameters in tensors of this kind, without heads, 0 to 1."""
        parameters = sum(change.parameters for change in self.tensors)
        return sum(change.parameters for change in self.tensors if change.how == how) / parameters

    def reasons(self, most: int = 3) -> str:
        """Return the main reasons for missing parameters: "encoder level 5: no counterpart (41 %), ..."."""
        missing: dict[str, float] = {}
        for change in self.tensors:
            if change.transferred < change.parameters:
                # what an adapted tensor lacks are channels
                reason = change.reason if change.how == "new" else "another width"
                missing[reason] = missing.get(reason, 0) + change.parameters - change.transferred
        total = sum(change.parameters for change in self.tensors)
        largest = sorted(missing, key=lambda reason: -missing[reason])[:most]
        return ", ".join(f"{reason} ({100 * missing[reason] / total:.0f} %)" for reason in largest)

    def summary(self) -> str:
        """Return one line of figures."""
        parts = [f"{how} {self.count(how)} tensors ({100 * self.share(how):.1f} %)" for how in _HOWS if self.count(how)]
        unused = f", {len(self.left_behind)} old tensors not used" if self.left_behind else ""
        return f"coverage {self.coverage:.3f}: {', '.join(parts)} of the network's parameters{unused}"


def adapt(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    channels: Sequence[int | None] | None = None,
    keep_heads: Mapping[int, int] | None = None,
    inputs: tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], Adaptation]:
    """Adapt weights to a network with another depth, width, kernel size, dimension, encoder or channel number.

    The rules are `counterpart` and the functions below. If shapes agree, tensors are copied bit by bit, except
    if input channels have another order.

    Args:
        weights: all tensors of the old network, by nnU-Net's names.
        fresh: all tensors of the new network as nnU-Net initialises it; aliases share memory. Not changed.
        channels: for each new input channel the index of the matching old one, or None. Without it, each new channel
            reads the mean if the numbers differ (`spread_mean`).
        keep_heads: new output -> old output (classes or regions) whose head is kept.
        inputs: numbers of input channels before and after. Needed only for networks other than nnU-Net's U-Nets.

    Returns:
        The new network's tensors without heads, plus the heads if some are kept; and the account.

    Raises CheckpointError if a tensor holds NaN or infinity, or a head to keep does not exist.
    """
    made, adaptation = _adapt(weights, fresh, channels, keep_heads, inputs)
    return dict(_with_aliases(made, fresh)), adaptation


def account(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    channels: Sequence[int | None] | None = None,
    keep_heads: Mapping[int, int] | None = None,
    inputs: tuple[int, int] | None = None,
) -> Adaptation:
    """Return the account that `adapt` would give, from names and shapes alone; tensors may be on the meta device."""
    shapes, wanted = ({name: tensor.to("meta") for name, tensor in tensors.items()} for tensors in (weights, fresh))
    return _adapt(shapes, wanted, channels, keep_heads, inputs)[1]


def require_coverage(adaptation: Adaptation, least: float, origin: str) -> None:
    """Raise CheckpointError, with the main reasons, if ``origin`` gives less than ``least`` of the parameters."""
    if adaptation.coverage < least:
        raise CheckpointError(
            f"{origin} gives only {adaptation.coverage:.3f} of the network's parameters, below -min_coverage "
            f"{least:g}; missing: {adaptation.reasons()}; use a model of a more similar architecture, or lower it"
        )


def require_same_architecture(adaptation: Adaptation, channels: tuple[int, int], origin: str) -> None:
    """Raise CheckpointError, with a tensor and both shapes, if two networks differ in more than channels and heads.

    ``channels``: numbers of input channels before and after.
    """
    allowed = f"channels {channels[0]} -> {channels[1]}"
    unfit = next((change for change in adaptation.tensors if change.reason not in ("", allowed)), None)
    if unfit is None and not adaptation.left_behind:
        return
    if unfit is None:
        reason = f"the network has no {adaptation.left_behind[0]}"
    elif unfit.shapes[0] is None:
        reason = f"it has no {unfit.name}"
    else:
        reason = f"{unfit.name} has shape {unfit.shapes[0]}, the network needs {unfit.shapes[1]}"
    raise CheckpointError(f"{origin} has another architecture: {reason}; use plans of one architecture throughout")


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise CheckpointError if a tensor holds NaN or infinity."""
    if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"the previous training has diverged: {name} holds NaN or infinity; train that stage again with a "
            "smaller -initial_lr"
        )


def _adapt(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    channels: Sequence[int | None] | None,
    keep_heads: Mapping[int, int] | None,
    inputs: tuple[int, int] | None,
) -> tuple[dict[str, Tensor], Adaptation]:
    """Return the tensors, each under one name only, and the account."""
    old, new = tensor_roles(weights), tensor_roles(fresh)
    made: dict[str, Tensor] = {}
    body, heads = [], []
    for role, name in new.items():
        source = counterpart(role, new, old)
        if role.part == "head":  # new unless asked for: labels differ from task to task
            if source is not None and keep_heads:
                made[name], change = _keep_heads(name, (source, weights[source]), fresh[name], keep_heads)
                heads.append(change)
        elif source is None or not _is_adaptable(role, weights[source], fresh[name], inputs):
            made[name] = _start(role, fresh[name], new, old)
            shapes = None if source is None else tuple(weights[source].shape), tuple(fresh[name].shape)
            body.append(TensorChange(name, None, "new", f"{role}: no counterpart", fresh[name].numel(), 0, shapes))
        else:
            require_finite(source, weights[source])
            made[name], change = _transfer(name, role, (source, weights[source]), fresh[name], channels)
            body.append(change)
    # Heads are never counted as left behind.
    used = {change.source for change in (*body, *heads)}
    unused = tuple(name for role, name in old.items() if role.part != "head" and name not in used)
    return made, Adaptation(tuple(body), tuple(heads), unused)


def _with_aliases(made: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Yield the tensors in ``made`` under all their names, in the network's order. Aliases share memory."""
    names = {fresh[name].data_ptr(): name for name in made}
    for name, tensor in fresh.items():
        # empty tensors have no memory to compare
        if name in made or tensor.data_ptr() in names:
            yield name, made[name if name in made else names[tensor.data_ptr()]].clone()


def _is_adaptable(role: TensorRole, weight: Tensor, fresh: Tensor, inputs: tuple[int, int] | None) -> bool:
    """Return True if the rules apply. A foreign checkpoint may hold anything under the name of a convolution."""
    if weight.is_floating_point() != fresh.is_floating_point():
        return False
    if weight.shape == fresh.shape or _reads_input(role, weight, fresh, inputs):
        return True
    if role.part == "other" or weight.numel() == 0 or not weight.is_floating_point():
        return False
    if weight.ndim == 1 or fresh.ndim == 1:  # biases and normalisations
        return weight.ndim == fresh.ndim
    # 2d and 3d convolutions; halves of inputs that are read together must be equal
    return weight.ndim in (4, 5) and (not _reads_both(role) or weight.shape[1] % 2 == 0)


def _reads_input(role: TensorRole, weight: Tensor, fresh: Tensor, inputs: tuple[int, int] | None) -> bool:
    """Return True for a convolution in an unknown network that reads the image: only the channels differ."""
    if role.part != "other" or inputs is None or weight.ndim < 3 or weight.ndim != fresh.ndim:
        return False
    others = weight.shape[:1] == fresh.shape[:1] and weight.shape[2:] == fresh.shape[2:]
    return others and (weight.shape[1], fresh.shape[1]) == inputs


def _start(role: TensorRole, fresh: Tensor, new: Mapping[TensorRole, str], old: Mapping[TensorRole, str]) -> Tensor:
    """Return nnU-Net's initial values; 0 for a skip next to a former plain stage."""
    silent = role.part == "skip" and role.tensor.startswith("norm.") and replaces_plain_stage(role, new, old)
    return fresh.new_zeros(fresh.shape) if silent else fresh.clone()


def _transfer(
    name: str, role: TensorRole, source: tuple[str, Tensor], fresh: Tensor, channels: Sequence[int | None] | None
) -> tuple[Tensor, TensorChange]:
    """Make one tensor from the old network's."""
    weight = source[1].detach().to(fresh)  # device and precision of the new network
    shapes = tuple(weight.shape), tuple(fresh.shape)
    rules = []
    if weight.ndim > 1 and weight.shape[2:] != fresh.shape[2:]:
        rules.append(f"kernel {_size(weight.shape[2:])} -> {_size(fresh.shape[2:])}")
        weight = (resize_upsampling if role.part == "up" else resize_convolution)(weight, fresh.shape[2:])
    if weight.ndim > 1 and role.part in ("first", "other"):
        before = weight
        if channels is not None and role.part == "first":
            weight = match_channels(weight, channels)
        elif weight.shape[1] != fresh.shape[1]:
            weight = spread_mean(weight, fresh.shape[1])
        if weight is not before:
            rules.append(f"channels {before.shape[1]} -> {weight.shape[1]}")
    transferred = float(fresh.numel())
    if weight.shape != fresh.shape:
        rules.append(f"width {_size(weight.shape[:2])} -> {_size(fresh.shape[:2])}")
        weight, transferred = _widen(role, weight, fresh)
    how: How = "adapted" if rules else "copied"
    return weight.clone(), TensorChange(name, source[0], how, ", ".join(rules), fresh.numel(), transferred, shapes)


def _widen(role: TensorRole, weight: Tensor, fresh: Tensor) -> tuple[Tensor, float]:
    if role.part == "up" and weight.ndim > 1:  # transposed convolutions have their inputs first
        widened, transferred = place_in(fresh.transpose(0, 1), weight.transpose(0, 1))
        return widened.transpose(0, 1).contiguous(), transferred
    return place_in(fresh, weight, 2 if _reads_both(role) and weight.ndim > 1 else 1)


def _reads_both(role: TensorRole) -> bool:
    """Return True for a convolution that reads upsampled features and as many of the encoder."""
    return role.part == "decoder" and role.position == 0


def _keep_heads(
    name: str, source: tuple[str, Tensor], fresh: Tensor, kept: Mapping[int, int]
) -> tuple[Tensor, TensorChange]:
    """Make a head with the old outputs in ``kept`` (new -> old); other outputs stay as nnU-Net initialises them."""
    require_finite(*source)
    weight = source[1].detach().to(fresh)
    if max(kept.values()) >= len(weight) or max(kept) >= len(fresh) or min(*kept, *kept.values()) < 0:
        raise CheckpointError(
            f"heads {dict(kept)} (new: old) cannot be kept: {name} has {len(weight)} outputs in the checkpoint and "
            f"{len(fresh)} in the network"
        )
    weight = resize_convolution(weight, fresh.shape[2:]) if weight.ndim > 1 else weight
    head, transferred = fresh.clone(), 0.0
    for row, old in kept.items():
        head[row : row + 1], values = place_in(fresh[row : row + 1], weight[old : old + 1])
        transferred += values
    reason = f"{len(kept)} of {len(fresh)} outputs kept"
    shapes = tuple(source[1].shape), tuple(fresh.shape)
    return head, TensorChange(name, source[0], "adapted", reason, fresh.numel(), transferred, shapes)


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(length) for length in shape)


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
    import torch  # noqa: PLC0415 - slow import

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
    import torch  # noqa: PLC0415 - slow import

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
    from torch.nn import functional  # noqa: PLC0415 - slow import

    weight = weight[:, :, None] if weight.ndim - 2 < len(size) else weight
    weight = weight.mean(dim=2) if weight.ndim - 2 > len(size) else weight
    return functional.interpolate(weight, size=list(size), mode="area")


def place_in(fresh: Tensor, weight: Tensor, groups: int = 1) -> tuple[Tensor, float]:
    """Place ``weight`` in the leading channels; both (out, in, ...) with equal kernels, or (out,).

    The leading outputs ignore new inputs: these weights are 0. So if a network only grows wider, the leading features
    stay exactly the same, as in Net2Net (Chen, Goodfellow and Shlens, ICLR 2016). The inputs have so many ``groups``,
    each with leading channels of its own.

    Returns the tensor, and how many values come from ``weight``. A filter that has lost inputs counts only by the share
    of inputs that it still reads.
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

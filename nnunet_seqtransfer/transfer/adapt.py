"""Weights of one network for another of nnU-Net's architectures, and an account of what was copied, adapted, or new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.transfer.checkpoints import require_finite
from nnunet_seqtransfer.transfer.kernels import (
    match_channels,
    place_in,
    resize_convolution,
    resize_upsampling,
    spread_mean,
)
from nnunet_seqtransfer.transfer.tensor_roles import Place, counterpart, places, replaces_plain_stage

How = Literal["copied", "adapted", "new"]
_HOWS: tuple[How, ...] = ("copied", "adapted", "new")


@dataclass(frozen=True)
class TensorChange:
    """Where one tensor of the new network comes from."""

    name: str
    "Its name; tensors of several names are listed once."
    source: str | None
    "The old network's tensor that it is made from; None where it is new."
    how: How
    "Bit by bit, by a rule, or as nnU-Net initialises it."
    reason: str
    "The rules, such as kernel 1x3x3 -> 3x3x3, or why it is new; empty where copied."
    parameters: int
    "How many values it has."
    transferred: float
    "How many of these come from the old network; see `place_in`."


@dataclass(frozen=True)
class Adaptation:
    """What became of a network's weights in another network."""

    tensors: tuple[TensorChange, ...] = field(repr=False)
    "The new network's body, in its order, heads left out."
    heads: tuple[TensorChange, ...] = field(repr=False)
    "The heads' tensors that were kept on request."
    left_behind: tuple[str, ...] = field(repr=False)
    "Tensors of the old network's body that nothing was made from."

    @property
    def coverage(self) -> float:
        """Share of the body's parameters that come from the old network, 0 to 1."""
        return sum(change.transferred for change in self.tensors) / sum(change.parameters for change in self.tensors)

    def count(self, how: How) -> int:
        """Number of the body's tensors of this kind."""
        return sum(change.how == how for change in self.tensors)

    def share(self, how: How) -> float:
        """Share of the body's parameters that lie in tensors of this kind, 0 to 1."""
        parameters = sum(change.parameters for change in self.tensors)
        return sum(change.parameters for change in self.tensors if change.how == how) / parameters

    def reasons(self, most: int = 3) -> str:
        """The largest reasons for what is missing: "encoder level 5: no counterpart (41 %), ..."."""
        missing: dict[str, float] = {}
        for change in self.tensors:
            if change.transferred < change.parameters:
                reason = change.reason if change.how == "new" else "another width"
                missing[reason] = missing.get(reason, 0) + change.parameters - change.transferred
        total = sum(change.parameters for change in self.tensors)
        largest = sorted(missing, key=lambda reason: -missing[reason])[:most]
        return ", ".join(f"{reason} ({100 * missing[reason] / total:.0f} %)" for reason in largest)

    def summary(self) -> str:
        """One line of figures."""
        parts = [f"{how} {self.count(how)} tensors ({100 * self.share(how):.1f} %)" for how in _HOWS if self.count(how)]
        behind = f", {len(self.left_behind)} of the old left behind" if self.left_behind else ""
        return f"coverage {self.coverage:.3f}: {', '.join(parts)} of the network's parameters{behind}"


def adapt(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    channels: Sequence[int | None] | None = None,
    keep_heads: Mapping[int, int] | None = None,
) -> tuple[dict[str, Tensor], Adaptation]:
    """The weights of one network for another, of another depth, width, kernel size, dimension or encoder.

    Args:
        weights: all tensors of the old network, by nnU-Net's names.
        fresh: all tensors of the new network, as nnU-Net initialises it, aliases sharing their memory. Not changed.
        channels: for each new input channel the old one that it is like, or None; without it, where the number of
            channels differs, each new channel reads the mean (`kernels.spread_mean`).
        keep_heads: new output -> old output of the network (classes, or regions) whose head is kept.

    Returns:
        The new network's body, and its heads where some are kept; and what was done. The rules are those of
        `places.counterpart` and of the functions in kernels.py. Between equal architectures every bit is copied.

    Raises CheckpointError where a tensor holds NaN or infinity, or there is no head of a class to keep.
    """
    made, adaptation = _adapt(weights, fresh, channels, keep_heads)
    return dict(_with_aliases(made, fresh)), adaptation


def account(weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Adaptation:
    """The account alone of `adapt`, for which shapes suffice: tensors may be of torch's meta device."""
    return _adapt(weights, fresh, None, None)[1]


def _adapt(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    channels: Sequence[int | None] | None,
    keep_heads: Mapping[int, int] | None,
) -> tuple[dict[str, Tensor], Adaptation]:
    """What is made, each tensor under one of its names, and the account."""
    old, new = places(weights), places(fresh)
    made: dict[str, Tensor] = {}
    body, heads = [], []
    for place, name in new.items():
        source = counterpart(place, new, old)
        if place.part == "head":
            if source is not None and keep_heads:
                made[name], change = _keep_heads(name, (source, weights[source]), fresh[name], keep_heads)
                heads.append(change)
        elif source is None or not _can_be_made_of(place, weights[source], fresh[name]):
            made[name] = _start(place, fresh[name], new, old)
            body.append(TensorChange(name, None, "new", f"{place}: no counterpart", fresh[name].numel(), 0))
        else:
            require_finite(source, weights[source])
            made[name], change = _hand_on(name, place, (source, weights[source]), fresh[name], channels)
            body.append(change)
    used = {change.source for change in (*body, *heads)}
    behind = tuple(name for place, name in old.items() if place.part != "head" and name not in used)
    return made, Adaptation(tuple(body), tuple(heads), behind)


def require_coverage(adaptation: Adaptation, least: float, origin: str) -> None:
    """Raises CheckpointError, with the largest reasons, where less than ``least`` of a network's weights come over."""
    if adaptation.coverage < least:
        raise CheckpointError(
            f"{origin} would give only {adaptation.coverage:.3f} of the network's weights, at least {least:g} are "
            f"wanted; missing: {adaptation.reasons()}; take a model of a nearer architecture, or lower -min_coverage"
        )


def _with_aliases(made: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Every name of the tensors in ``made``, in the network's order: aliases are told by sharing their memory."""
    names = {fresh[name].data_ptr(): name for name in made}
    for name, tensor in fresh.items():
        if tensor.data_ptr() in names:
            yield name, made[names[tensor.data_ptr()]].clone()


def _can_be_made_of(place: Place, weight: Tensor, fresh: Tensor) -> bool:
    """Whether the rules apply: a foreign checkpoint may hold anything under the name of a convolution."""
    if place.part == "other":
        return weight.shape == fresh.shape
    if weight.numel() == 0 or not weight.is_floating_point():
        return False
    if weight.ndim == 1 or fresh.ndim == 1:
        return weight.ndim == fresh.ndim
    return weight.ndim in (4, 5) and (not _reads_both(place) or weight.shape[1] % 2 == 0)


def _start(place: Place, fresh: Tensor, new: Mapping[Place, str], old: Mapping[Place, str]) -> Tensor:
    """As nnU-Net initialises it, but for skips beside a plain stage's convolutions, which start at 0."""
    beside = place.part == "skip" and place.tensor.startswith("norm.") and replaces_plain_stage(place, new, old)
    return fresh.new_zeros(fresh.shape) if beside else fresh.clone()


def _hand_on(
    name: str, place: Place, source: tuple[str, Tensor], fresh: Tensor, channels: Sequence[int | None] | None
) -> tuple[Tensor, TensorChange]:
    """One tensor of the body, made from the old network's."""
    weight = source[1].detach().to(fresh)
    rules = []
    if weight.ndim > 1 and weight.shape[2:] != fresh.shape[2:]:
        rules.append(f"kernel {_size(weight.shape[2:])} -> {_size(fresh.shape[2:])}")
        weight = (resize_upsampling if place.part == "up" else resize_convolution)(weight, fresh.shape[2:])
    if weight.ndim > 1 and place.part == "first":
        before = weight
        if channels is not None:
            weight = match_channels(weight, channels)
        elif weight.shape[1] != fresh.shape[1]:
            weight = spread_mean(weight, fresh.shape[1])
        if weight is not before:
            rules.append(f"channels {before.shape[1]} -> {weight.shape[1]}")
    transferred = float(fresh.numel())
    if weight.shape != fresh.shape:
        rules.append(f"width {_size(weight.shape[:2])} -> {_size(fresh.shape[:2])}")
        weight, transferred = _widen(place, weight, fresh)
    how: How = "adapted" if rules else "copied"
    return weight.clone(), TensorChange(name, source[0], how, ", ".join(rules), fresh.numel(), transferred)


def _widen(place: Place, weight: Tensor, fresh: Tensor) -> tuple[Tensor, float]:
    if place.part == "up" and weight.ndim > 1:  # a transposed convolution's inputs come first
        widened, transferred = place_in(fresh.transpose(0, 1), weight.transpose(0, 1))
        return widened.transpose(0, 1).contiguous(), transferred
    return place_in(fresh, weight, 2 if _reads_both(place) and weight.ndim > 1 else 1)


def _reads_both(place: Place) -> bool:
    """Whether a convolution reads two things of equal width: what comes from below, then the encoder's features."""
    return place.part == "decoder" and place.position == 0


def _keep_heads(
    name: str, source: tuple[str, Tensor], fresh: Tensor, kept: Mapping[int, int]
) -> tuple[Tensor, TensorChange]:
    """A head whose outputs ``kept`` are the old ones; the others as nnU-Net initialises them."""
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
    return head, TensorChange(name, source[0], "adapted", reason, fresh.numel(), transferred)


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(length) for length in shape)

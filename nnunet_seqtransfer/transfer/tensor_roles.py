"""Tell from names what tensors in nnU-Net's U-Nets do, how deep they lie, and which ones correspond."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nnunet_seqtransfer.errors import CheckpointError, StageError

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor

HEADS = ".seg_layers."
"""Part of the name of every segmentation head. nnU-Net itself leaves out heads by it."""
ENCODER = ("encoder.", "decoder.encoder.")
"""Name prefixes in the encoder. The decoder lists the encoder a second time."""
Part = Literal["first", "plain", "residual", "skip", "up", "decoder", "head", "other"]

_ENCODER_PARTS = ("first", "plain", "residual", "skip")
_CONVOLUTIONS: Mapping[Part, re.Pattern[str]] = {
    "first": re.compile(r"encoder\.stem\.convs\.(?P<position>0)\.(?P<tensor>.+)"),
    "plain": re.compile(r"encoder\.stages\.(?P<level>\d+)\.\d+\.convs\.(?P<position>\d+)\.(?P<tensor>.+)"),
    "skip": re.compile(r"encoder\.stages\.(?P<level>\d+)\.blocks\.(?P<position>\d+)\.skip\.\d+\.(?P<tensor>.+)"),
    "residual": re.compile(r"encoder\.stages\.(?P<level>\d+)\.blocks\.(?P<position>\d+)\.(?P<tensor>.+)"),
}
_DECODER: Mapping[Part, re.Pattern[str]] = {
    "up": re.compile(r"decoder\.transpconvs\.(?P<stage>\d+)\.(?P<tensor>.+)"),
    "decoder": re.compile(r"decoder\.stages\.(?P<stage>\d+)\.convs\.(?P<position>\d+)\.(?P<tensor>.+)"),
    "head": re.compile(r"decoder\.seg_layers\.(?P<stage>\d+)\.(?P<tensor>.+)"),
}


@dataclass(frozen=True)
class TensorRole:
    """Role of a tensor in a U-Net of any depth."""

    part: Part
    "First convolution, plain encoder, residual block, a block's skip projection, upsampling, decoder, head or other."
    level: int
    "Resolution level; 0 is the input's. Encoders are counted from the input, decoders from the output."
    position: int
    "Index of the convolution or residual block within the stage."
    tensor: str
    "Rest of the name, such as conv.weight or conv1.norm.weight; the whole name in other networks."

    def __str__(self) -> str:
        name = {"plain": "encoder", "residual": "encoder", "skip": "encoder", "up": "upsampling"}.get(self.part)
        return "the rest" if self.part == "other" else f"{name or self.part} level {self.level}"


def is_alias(name: str) -> bool:
    """Return True if nnU-Net's modules list this tensor a second time: encoder in decoder, layer in sequence."""
    return name.startswith("decoder.encoder.") or ".all_modules." in name


def tensor_roles(names: Iterable[str]) -> dict[TensorRole, str]:
    """Return role -> name for all tensors, without aliases."""
    plain = [name for name in names if not is_alias(name)]
    found = [pattern.fullmatch(name) for name in plain for pattern in _DECODER.values()]
    lowest = max((int(match["stage"]) for match in found if match), default=0)
    return {_role(name, lowest): name for name in plain}


def _role(name: str, lowest: int) -> TensorRole:
    for part, pattern in _CONVOLUTIONS.items():
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            level, position = int(groups.get("level", 0)), int(groups["position"])
            is_first = part == "plain" and level == position == 0
            return TensorRole("first" if is_first else part, level, position, groups["tensor"])
    for part, pattern in _DECODER.items():
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            # nnU-Net counts decoder stages from the bottleneck
            return TensorRole(part, lowest - int(groups["stage"]), int(groups.get("position", 0)), groups["tensor"])
    return TensorRole("other", 0, 0, name)


def counterpart(role: TensorRole, new: Mapping[TensorRole, str], old: Mapping[TensorRole, str]) -> str | None:
    """Return the tensor of the old network that corresponds to ``role`` in the new network, None if there is none.

    Encoder stages are counted from the input, decoder stages from the output, convolutions and blocks from the
    start of their stage. A plain stage becomes the first residual block if `replaces_plain_stage`.
    """
    if role in old:
        return old[role]
    if role.part != "residual" or not replaces_plain_stage(role, new, old):
        return None
    convolution, _, tensor = role.tensor.partition(".")
    return old.get(TensorRole("plain", role.level, int(convolution == "conv2"), tensor))


def replaces_plain_stage(role: TensorRole, new: Mapping[TensorRole, str], old: Mapping[TensorRole, str]) -> bool:
    """Return True if the tensor's residual block can compute exactly what the old network's plain stage did.

    A block adds a skip to two convolutions. A stage with two plain convolutions is such a block with skip 0. This needs
    a projection with a normalisation that can be set to 0. Blocks have one if their stage changes the width.
    """
    stage = [TensorRole("plain", role.level, position, "conv.weight") in old for position in range(3)]
    block = [
        TensorRole("residual", role.level, 0, f"{convolution}.conv.weight") in new
        for convolution in ("conv1", "conv2", "conv3")
    ]
    projected = TensorRole("skip", role.level, 0, "norm.weight") in new
    return role.position == 0 and projected and stage == block == [True, True, False]


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the depth of every tensor in a U-Net, without aliases: 0 for all heads, growing towards the input.

    With n decoder stages, the stage at resolution level l (0 is the input's) and the upsampling to it have depth l + 1.
    The encoder stage at level l has depth 2 n + 1 - l. So depths follow the longest way through the network: 1 to n in
    the decoder, n + 1 at the bottleneck, 2 n + 1 for the first encoder stage with the stem. Six stages (n = 5) have 12
    depths, like the 12 layers of BERT and BEiT (base), for which layer-wise decay was published.

    Raises StageError if a tensor has no known role in nnU-Net's U-Nets.
    """
    roles = tensor_roles(names)
    unknown = sorted(name for role, name in roles.items() if role.part == "other")
    if unknown or not roles:
        raise StageError(
            f"-layer_decay needs one of nnU-Net's own U-Nets, but this network has {(unknown or ['nothing'])[0]}; "
            "leave it out, or use plans of one of nnU-Net's own planners"
        )
    stages = 1 + max((role.level for role in roles if role.part == "decoder"), default=-1)
    return {name: _depth(role, stages) for role, name in roles.items()}


def _depth(role: TensorRole, stages: int) -> int:
    if role.part == "head":
        return 0
    return 2 * stages + 1 - role.level if role.part in _ENCODER_PARTS else role.level + 1


def require_parts(names: Iterable[str], *, levels: bool, heads: bool, encoder: bool) -> None:
    """Raise StageError if a recipe treats a part separately that these tensors do not show.

    Layer decay needs ``levels``, the first epochs of the ``heads`` alone need them, a frozen ``encoder`` needs it.
    """
    known = list(names)
    if levels:
        depths(known)
    for option, needed, part, is_there in (
        ("-heads_first_epochs", heads, "known segmentation heads", any(HEADS in name for name in known)),
        ("-frozen_encoder_epochs", encoder, "a known encoder", any(name.startswith(ENCODER) for name in known)),
    ):
        if needed and not is_there:
            raise StageError(f"{option} needs a network with {part}; leave it out for these plans")


WRAPPERS = ("module", "_orig_mod")
"""Name parts that DistributedDataParallel and torch.compile add."""
_PREFIX = re.compile(r"((?:\w+\.)*?)(?:encoder|decoder)\.")
# Generic_UNet of nnU-Net v1. Its last context block and its localization blocks are sequences of stacks.
_VERSION_1 = {
    re.compile(r"conv_blocks_context\.(\d+)\.((?:\d+\.)?blocks\.\d+)\.(conv|instnorm)\.(\w+)"): "encoder.stages.{}.0.",
    re.compile(
        r"conv_blocks_localization\.(\d+)\.((?:\d+\.)?blocks\.\d+)\.(conv|instnorm)\.(\w+)"
    ): "decoder.stages.{}.",
}
_VERSION_1_SINGLE = {
    re.compile(r"tu\.(\d+)\.(\w+)"): "decoder.transpconvs.{}.{}",
    re.compile(r"seg_outputs\.(\d+)\.(\w+)"): "decoder.seg_layers.{}.{}",
}


def standard_names(weights: Mapping[str, Tensor], like: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return a U-Net's tensors under nnU-Net's names.

    Names are tried first: without the parts that wrappers add, without a prefix such as "model.", and as nnU-Net v1
    has them. Otherwise tensors are matched by order and shape.

    ``like`` holds the tensors of the new network; only names and shapes are used.

    Raises CheckpointError, which names ``origin``, if the tensors cannot be matched.
    """
    # Wrappers also occur inside of names, if only a part of the network was compiled.
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): t for name, t in weights.items()}
    for named in (_without_prefix(plain), _from_version_1(plain)):
        if any(role.part != "other" for role in tensor_roles(named)):
            return named
    ordered = _by_order(plain, like)
    if ordered is None:
        raise CheckpointError(
            f"the tensors of {origin} (such as {next(iter(plain))}) match nnU-Net's U-Nets neither by name nor by "
            "order and shape; give -init a model of an nnU-Net"
        )
    return ordered


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the most frequent prefix before encoder and decoder, such as "model.", if there is one."""
    found = Counter(match[1] for name in weights if (match := _PREFIX.match(name)))
    if not found:
        return weights
    prefix = found.most_common(1)[0][0]
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _from_version_1(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of nnU-Net v1's Generic_UNet. Convolutions are counted through all stacks of a stage."""
    named: dict[str, Tensor] = {}
    seen: dict[str, list[str]] = {}
    for name, tensor in weights.items():
        for pattern, stage in _VERSION_1.items():
            if match := pattern.fullmatch(name):
                blocks = seen.setdefault(stage.format(match[1]), [])
                if match[2] not in blocks:
                    blocks.append(match[2])
                # v1 writes instnorm, nnU-Net v2 norm
                layer = "conv" if match[3] == "conv" else "norm"
                named[f"{stage.format(match[1])}convs.{blocks.index(match[2])}.{layer}.{match[4]}"] = tensor
        for pattern, form in _VERSION_1_SINGLE.items():
            if match := pattern.fullmatch(name):
                named[form.format(*match.groups())] = tensor
    return named or weights


def _by_order(weights: dict[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Match tensors one by one in order; None if numbers or shapes differ. Heads and input channels may differ."""
    roles = {name: role for role, name in tensor_roles(like).items()}
    # Tensors that share memory are one tensor with several names.
    given = list({(tensor.data_ptr(), tensor.shape): tensor for tensor in weights.values()}.values())
    wanted = [name for name in like if not is_alias(name)]
    if len(given) != len(wanted):
        return None
    pairs = dict(zip(wanted, given, strict=True))
    return pairs if all(_fits(roles[name], tensor, like[name]) for name, tensor in pairs.items()) else None


def _fits(role: TensorRole, tensor: Tensor, like: Tensor) -> bool:
    if tensor.ndim != like.ndim:
        return False
    # Axis that may differ: outputs of heads, inputs of the first convolution.
    free = {"head": 0, "first": 1}.get(role.part)
    return all(a == b or axis == free for axis, (a, b) in enumerate(zip(tensor.shape, like.shape, strict=True)))

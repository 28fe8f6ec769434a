"""Give the tensors of a pretrained model nnU-Net's names: without wrappers, from nnU-Net v1, or by order and shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.transfer.tensor_roles import TensorRole, is_alias, tensor_roles

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

    Args:
        weights: tensors of a model, under any names.
        like: tensors of the new network; only names and shapes are used.
        origin: the model, for the error message.

    Raises CheckpointError if the tensors cannot be matched.
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

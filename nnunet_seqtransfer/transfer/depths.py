"""How deep a tensor lies in nnU-Net's U-Nets, seen from the heads, and whether a network has what a recipe names."""

from __future__ import annotations

from collections.abc import Iterable

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.checkpoints import HEADS
from nnunet_seqtransfer.transfer.tensor_roles import Place, places

ENCODER = ("encoder.", "decoder.encoder.")
"""Beginnings of the names of the encoder's tensors; the decoder lists the encoder a second time."""
_ENCODER_PARTS = ("first", "plain", "residual", "skip")


def depths(names: Iterable[str]) -> dict[str, int]:
    """Depth of every tensor of a U-Net, aliases left out: 0 for all heads, growing towards the input.

    With n decoder stages, the one of resolution level l (0 is the input's), its upsampling included, has depth l + 1,
    and the encoder stage of level l has depth 2 n + 1 - l. So depths follow the longest way through the network:
    decoder from 1 to n, bottleneck n + 1, and 2 n + 1 for the first encoder stage with the stem. Six stages (n = 5)
    have 12 depths, as BERT's and BEiT's base models, for which layer-wise decay was published, have 12 layers.

    Raises StageError where a tensor belongs to no known part of nnU-Net's U-Nets.
    """
    found = places(names)
    unknown = sorted(name for place, name in found.items() if place.part == "other")
    if unknown or not found:
        raise StageError(
            f"-layer_decay is for nnU-Net's own U-Nets, and this network has {(unknown or ['nothing'])[0]} beside "
            "their parts; leave it out, or use plans of one of nnU-Net's own planners"
        )
    stages = 1 + max((place.level for place in found if place.part == "decoder"), default=-1)
    return {name: _depth(place, stages) for place, name in found.items()}


def _depth(place: Place, stages: int) -> int:
    if place.part == "head":
        return 0
    return 2 * stages + 1 - place.level if place.part in _ENCODER_PARTS else place.level + 1


def require_parts(names: Iterable[str], recipe: Recipe) -> None:
    """Raises StageError where the network with the tensors ``names`` lacks a part that ``recipe`` treats apart."""
    known = list(names)
    if recipe.layer_decay != 1:
        depths(known)
    for option, epochs, part, is_there in (
        ("-heads_first_epochs", recipe.heads_first_epochs, "segmentation heads", any(HEADS in name for name in known)),
        ("-frozen_encoder_epochs", recipe.frozen_encoder_epochs, "encoder", any(map(_is_of_encoder, known))),
    ):
        if epochs and not is_there:
            raise StageError(f"{option} needs a network whose {part} can be told by name; leave it out for these plans")


def _is_of_encoder(name: str) -> bool:
    return name.startswith(ENCODER)

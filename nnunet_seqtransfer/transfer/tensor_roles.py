"""Where in nnU-Net's U-Nets a tensor belongs, by its name, and which tensor of another network is its counterpart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["first", "plain", "residual", "skip", "up", "decoder", "head", "other"]

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
class Place:
    """What a tensor is in a U-Net, told in a way that does not depend on the U-Net's depth."""

    part: Part
    "The first convolution, a plain encoder's, a residual block's, its skip's projection, an upsampling, and so on."
    level: int
    "Resolution: 0 is the input's, so that encoders are counted from the input and decoders from the output."
    position: int
    "The convolution, or the residual block, within its stage."
    tensor: str
    "The rest of its name: conv.weight, norm.bias, conv1.norm.weight; for other networks all of it."

    def __str__(self) -> str:
        where = {"plain": "encoder", "residual": "encoder", "skip": "encoder", "up": "upsampling"}.get(self.part)
        return "the rest" if self.part == "other" else f"{where or self.part} level {self.level}"


def is_alias(name: str) -> bool:
    """Whether nnU-Net's modules list this tensor a second time: the encoder in the decoder, a layer in a sequence."""
    return name.startswith("decoder.encoder.") or ".all_modules." in name


def places(names: Iterable[str]) -> dict[Place, str]:
    """The place of every tensor of a network, aliases left out."""
    plain = [name for name in names if not is_alias(name)]
    found = [pattern.fullmatch(name) for name in plain for pattern in _DECODER.values()]
    lowest = max((int(match["stage"]) for match in found if match), default=0)
    return {_place(name, lowest): name for name in plain}


def _place(name: str, lowest: int) -> Place:
    for part, pattern in _CONVOLUTIONS.items():
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            level, position = int(groups.get("level", 0)), int(groups["position"])
            is_first = part == "plain" and level == position == 0
            return Place("first" if is_first else part, level, position, groups["tensor"])
    for part, pattern in _DECODER.items():
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            return Place(part, lowest - int(groups["stage"]), int(groups.get("position", 0)), groups["tensor"])
    return Place("other", 0, 0, name)


def counterpart(place: Place, new: Mapping[Place, str], old: Mapping[Place, str]) -> str | None:
    """The name of the old network's tensor that does what ``place`` does in the new one; None where there is none.

    Encoder stages are counted from the input, decoder stages from the output, convolutions and blocks within a stage
    from its beginning. A plain stage becomes the first residual block where `replaces_plain_stage`.
    """
    if place in old:
        return old[place]
    if place.part != "residual" or not replaces_plain_stage(place, new, old):
        return None
    convolution, _, tensor = place.tensor.partition(".")
    return old.get(Place("plain", place.level, int(convolution == "conv2"), tensor))


def replaces_plain_stage(place: Place, new: Mapping[Place, str], old: Mapping[Place, str]) -> bool:
    """Whether a tensor lies in a residual block that can compute exactly what the old network's plain stage did.

    A block adds its skip to two convolutions. A stage of two plain convolutions is that block with a skip of 0, which
    takes a projection whose normalisation can be set to 0: so below the first stage, where the width changes.
    """
    stage = [Place("plain", place.level, position, "conv.weight") in old for position in range(3)]
    block = [
        Place("residual", place.level, 0, f"{convolution}.conv.weight") in new
        for convolution in ("conv1", "conv2", "conv3")
    ]
    projected = Place("skip", place.level, 0, "norm.weight") in new
    return place.position == 0 and projected and stage == block == [True, True, False]

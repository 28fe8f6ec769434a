"""Outlines of the markers of tasks: one for each community, told apart without colours, and the target's star."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_seqtransfer.report.page.markup import number

CORNERS = ((0, 0.0), (4, 45.0), (3, -90.0), (4, 0.0), (3, 90.0), (5, -90.0), (6, 0.0), (8, 22.5))
"""Of the markers of communities: how many (0 for a circle), and the angle of the first."""


def marker(group: int, x: float, y: float, radius: float) -> str:
    """The outline of a community's marker, all of about the same area."""
    corners, turn = CORNERS[(group + group // len(CORNERS)) % len(CORNERS)]
    if not corners:
        arc, across = f"a{number(radius)} {number(radius)} 0 1 0", number(2 * radius)
        return f"M{number(x - radius)} {number(y)}{arc} {across} 0{arc} -{across} 0z"
    reach = radius * math.sqrt(2 * math.pi / (corners * math.sin(2 * math.pi / corners)))
    return _outline(
        [
            (x + reach * math.cos(angle), y + reach * math.sin(angle))
            for angle in (math.radians(turn + 360 * k / corners) for k in range(corners))
        ]
    )


def star(x: float, y: float, radius: float) -> str:
    """The outline of the target's marker."""
    angles = [math.radians(-90 + 36 * k) for k in range(10)]
    reach = [radius * (1 if k % 2 == 0 else 0.45) for k in range(10)]
    return _outline([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(reach, angles, strict=True)])


def _outline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) + "z"

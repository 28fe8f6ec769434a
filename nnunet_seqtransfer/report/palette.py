"""Colours of pictures and pages, chosen so that colour-blind readers can follow; nothing rests on colour alone."""

from __future__ import annotations

COMMUNITIES = ("#4c78a8", "#f2b447", "#54a24b", "#b279a2", "#9d755d", "#72b7b2", "#ff9da6", "#8c8c8c", "#c2d46b")
"""One for each community, beside a marker of its own; further communities begin anew."""
TARGET = "#111111"
PATH = "#c43c39"
REFERENCE = "#ffd92f"
"""Of contours on grey images."""
PREDICTION = "#00b7ff"
START, SEARCH = "#4c78a8", "#bab0ac"
HOPS = ("#f2b447", "#54a24b", "#b279a2", "#9d755d")
"""Parts of a path's cost."""


def contrast(one: str, two: str) -> float:
    """Contrast ratio of two colours #rrggbb, 1 to 21, by WCAG 2.2: text needs 4.5, lines and markers 3."""
    lighter, darker = sorted((luminance(one), luminance(two)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, 0 (black) to 1 (white), by WCAG 2.2."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def viridis(share: float) -> str:
    """matplotlib's viridis as #rrggbb: light yellow at 0, dark violet at 1, evenly darker in between."""
    place = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    first = min(int(place), len(_VIRIDIS) - 2)
    pairs = zip(_VIRIDIS[first], _VIRIDIS[first + 1], strict=True)
    return "#" + "".join(f"{round(low + (high - low) * (place - first)):02x}" for low, high in pairs)


_VIRIDIS = (
    (253, 231, 37),
    (170, 220, 50),
    (92, 200, 99),
    (39, 173, 129),
    (33, 145, 140),
    (44, 114, 142),
    (59, 82, 139),
    (71, 45, 123),
    (68, 1, 84),
)

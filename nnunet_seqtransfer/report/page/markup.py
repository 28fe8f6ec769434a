"""HTML and SVG elements whose texts and attributes are always escaped: names of datasets are other people's text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from markupsafe import Markup, escape

Child: TypeAlias = Markup | str | float | None
Attribute: TypeAlias = str | float | bool | None

VOID = frozenset({"br", "hr", "img", "meta", "input"})
"""Elements that HTML never closes."""


def element(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """<name attributes>children</name>, everything escaped but children that are Markup already.

    Attributes: ``_`` at the end of a name is dropped, others become ``-`` (``class_``, ``aria_label``); None and False
    leave an attribute out, True gives it no value; numbers are rounded to two decimals. Children that are None are
    left out.
    """
    written = Markup("").join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup("<{}{}>").format(name, written)
    inside = Markup("").join(_text(child) for child in children if child is not None)
    return Markup("<{}{}>{}</{}>").format(name, written, inside, name)


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("").join(parts)


def number(value: float) -> str:
    """A coordinate: at most two decimals, none where they are 0."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """An SVG path through points."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def _attribute(name: str, value: Attribute) -> Markup:
    if value is None or value is False:
        return Markup("")
    # SVG has names such as viewBox, which are kept; Python's keywords end in an underscore.
    name = name.removesuffix("_").replace("_", "-")
    if value is True:
        return Markup(" {}").format(name)
    return Markup(' {}="{}"').format(name, _text(value))


def _text(value: Markup | str | float) -> Markup:
    return escape(value) if isinstance(value, str) else escape(number(value))

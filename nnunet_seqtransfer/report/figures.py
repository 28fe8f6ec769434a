"""Parts that all figures share: style, hover texts, files, and embedding in the page."""

import io
import re
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from nnunet_seqtransfer.storage import replacing

INK, SOFT, LINE, PAPER = "#1b2126", "#55606a", "#d3d9de", "#ffffff"
STRONG, SECOND, PATH, EDGE, WHISKER = "#20548f", "#a3480f", "#c43c39", "#b4bcc4", "#8fb3d9"
VARIABLES = {
    INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper",
    STRONG: "strong", SECOND: "second", PATH: "path", EDGE: "edge", WHISKER: "whisker",
}  # fmt: skip
"""Colours that the page replaces by style variables, so that figures follow the dark theme."""
COMMUNITIES = ("#4c78a8", "#f2b447", "#54a24b", "#b279a2", "#9d755d", "#72b7b2", "#ff9da6", "#8c8c8c", "#c2d46b")
HOPS = ("#f2b447", "#54a24b", "#b279a2", "#9d755d")
REFERENCE, PREDICTION = "#ffd92f", "#00b7ff"
"""Contours on grey images. All colours can be told apart by colour-blind readers; shapes or labels repeat them."""
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5, "text.color": INK, "axes.edgecolor": SOFT, "axes.labelcolor": SOFT, "xtick.color": SOFT,
    "ytick.color": SOFT, "xtick.labelcolor": SOFT, "ytick.labelcolor": INK, "grid.color": LINE, "grid.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.facecolor": "none",
    "axes.axisbelow": True, "legend.frameon": False, "image.composite_image": False,
}  # fmt: skip
"""For functions that draw: ``@mpl.rc_context(STYLE)``."""
PIXELS = 96
"""Pixels on the page per inch."""
_TIP, _BREAK = "tip:", "\N{PARAGRAPH SEPARATOR}"
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_KEPT = {"stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "stroke-opacity", "fill-opacity"}
_KEPT |= {"fill", "stroke", "opacity", "text-anchor", "font-size", "font-weight", "font-style", "fill-rule"}
_FILE_FONT = "'DejaVu Sans', Verdana, sans-serif"
_numbers = count(1)


def tip(artist: Artist, *lines: str) -> None:
    """Give an artist a hover text, one line per argument. In SVG it becomes a ``<title>``."""
    artist.set_gid(_TIP + _BREAK.join(line.replace("\n", " ") for line in lines))


def save(figure: Figure, path: Path) -> tuple[Path, ...]:
    """Write a figure as SVG (``path``) and PDF next to each other, and return both paths.

    The same figure always gives the same bytes.
    """
    svg = _tree(figure)
    svg.attrib |= {"font-family": _FILE_FONT, "style": f"background: {PAPER}"}
    paths = path.with_suffix(".svg"), path.with_suffix(".pdf")
    with replacing(paths[0]) as aside:
        aside.write_bytes(ElementTree.tostring(svg, encoding="utf-8"))
    pdf = io.BytesIO()  # on a full disk matplotlib would hide the reason behind an error of its own
    # journals refuse Type 3 fonts; dates would make each file different
    with mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "ModDate": None})
    with replacing(paths[1]) as aside:
        aside.write_bytes(pdf.getvalue())
    return paths


def embed(figure: Figure, label: str, look: str = "") -> Markup:
    """Return a figure as inline SVG for the page: no inline styles, unique ids, the page's colours.

    ``label``: text for screen readers. ``look``: further CSS classes.
    """
    # ids of two figures on one page must differ
    svg, prefix = _tree(figure), f"f{next(_numbers)}-"
    width, _ = figure.get_size_inches()
    svg.attrib |= {"role": "img", "aria-label": label, "class": f"drawing {look}".rstrip()}
    svg.attrib |= {"width": f"{width * PIXELS:.0f}"}
    for element in svg.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name in ("fill", "stroke") and value in VARIABLES:
                element.set(name, f"var(--{VARIABLES[value]})")
            elif "#" in value and name in ("href", "clip-path"):
                element.set(name, value.replace("#", f"#{prefix}", 1) if not value.startswith("data:") else value)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # noqa: S704 - written by matplotlib, texts escaped


def contrast(one: str, two: str) -> float:
    """Return the contrast ratio between colours #rrggbb, 1 to 21 (WCAG 2.2: text needs 4.5, lines and markers 3)."""
    lighter, darker = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def readable_ink(ground: str) -> str:
    """Return black or white, whichever is easier to read on the colour ``ground`` (#rrggbb)."""
    # not quite INK and PAPER: these change with the page's theme, cells of a heat map do not
    return max(("#000000", "#fffffe"), key=lambda ink: contrast(ink, ground))


def _luminance(colour: str) -> float:
    linear = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in mpl.colors.to_rgb(colour)
    )
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _tree(figure: Figure) -> ElementTree.Element:
    """Return matplotlib's SVG with hover texts, attributes instead of styles, short numbers, and each image once."""
    stream = io.BytesIO()
    # text stays text: small files, and the page's own font
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nnunet-seqtransfer"}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314 - written by matplotlib a line above
    # the page's policy forbids styles inside of figures
    for unwanted in ("metadata", "style"):
        for parent in list(root.iter()):
            for child in parent.findall(f"{{{_SVG}}}{unwanted}"):
                parent.remove(child)
    # the view box remains: files scale, and the page sets the width
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    images: dict[str, ElementTree.Element] = {}
    used = {value[1:] for element in root.iter() for value in (element.get(f"{{{_XLINK}}}href", ""),)}
    used |= set(re.findall(r"url\(#([^)]+)\)", stream.getvalue().decode()))
    for element in root.iter():
        _clean(element, used)
        if element.tag == f"{{{_SVG}}}image":
            _draw_once(element, images)
    return root


def _clean(element: ElementTree.Element, used: set[str]) -> None:
    """Turn style into attributes and the hover text into a ``<title>``, and drop ids that nothing refers to."""
    href = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if href is not None:
        element.set("href", href)
    for name, value in (part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part):
        if name.strip() == "font":
            size, weight = re.search(r"([\d.]+)px", value), re.search(r"\b(bold|[5-9]00)\b", value)
            element.attrib |= {"font-size": size[1]} if size else {}
            element.attrib |= {"font-weight": weight[1]} if weight else {}
        elif name.strip() in _KEPT:
            element.set(name.strip(), value.strip().removesuffix("px"))
    identifier = element.get("id", "")
    if identifier.startswith(_TIP):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = identifier.removeprefix(_TIP).replace(_BREAK, "\n")
        element.insert(0, title)
    # matplotlib numbers groups alike in every figure, which would repeat ids on the page
    if identifier not in used:
        element.attrib.pop("id", None)
    # hundredths of a point cannot be seen
    for name in element.attrib.keys() & {"d", "x", "y", "transform"}:
        element.set(
            name,
            re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), element.attrib[name]),
        )


def _draw_once(image: ElementTree.Element, images: dict[str, ElementTree.Element]) -> None:
    """Let an image that an earlier panel shows refer to that one, so that the file holds it once."""
    data = image.attrib["href"]
    is_panel = image.get("transform", "").startswith("matrix")  # the image of a colour bar is placed otherwise
    first = images.setdefault(data, image) if is_panel else image
    if first is image:
        image.set("id", f"image{len(images)}")
        return
    (across, down), (left, top) = (re.findall(r"[-\d.]+", one.attrib["transform"])[-2:] for one in (image, first))
    image.tag = f"{{{_SVG}}}use"
    image.attrib.clear()
    moved = f"translate({float(across) - float(left):.2f} {float(down) - float(top):.2f})"
    image.attrib |= {"href": f"#{first.attrib['id']}", "transform": moved}

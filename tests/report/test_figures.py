"""What all figures share: files, hover texts, and SVG that the page may embed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import XML

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from nnunet_seqtransfer.report.figures import (
    INK,
    PREDICTION,
    REFERENCE,
    STYLE,
    VARIABLES,
    contrast,
    embed,
    readable_ink,
    save,
    tip,
)
from nnunet_seqtransfer.report.pages import TEMPLATES


@mpl.rc_context(STYLE)
def picture() -> Figure:
    """A line with a hover text, a text, and the same image twice."""
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots(1, 3)
    (line,) = axes[0].plot([0, 1], [0, 1], color=INK)
    tip(line, "Dataset<1> & co", "second line")
    axes[0].text(0.5, 0.5, "<b>words</b>", fontweight="bold")
    for panel in axes[1:]:
        panel.imshow(np.arange(12).reshape(3, 4), interpolation="none")
    return figure


def test_files_are_svg_and_pdf_and_always_the_same(tmp_path: Path) -> None:
    """Nothing else is left behind; saved again, all have the same bytes."""
    paths = save(picture(), tmp_path / "a.svg")
    assert [path.name for path in paths] == ["a.svg", "a.pdf"]
    before = [path.read_bytes() for path in paths]
    assert before[1].startswith(b"%PDF") and b"/Type3" not in before[1]
    assert len(list(tmp_path.iterdir())) == 2
    save(picture(), tmp_path / "a.svg")
    assert [path.read_bytes() for path in paths] == before


def test_hover_texts_are_titles(tmp_path: Path) -> None:
    """In the file and on the page, escaped, with line breaks."""
    save(picture(), tmp_path / "a.svg")
    for text in ((tmp_path / "a.svg").read_text(), embed(picture(), "label")):
        titles = [element.text for element in XML(text).iter() if element.tag.endswith("title")]
        assert titles == ["Dataset<1> & co\nsecond line"]


def test_embedded_figures_fit_the_policy_and_the_theme() -> None:
    """No style, no link but to the figure itself, unique ids, text as text, colours as variables, each image once."""
    one, two = embed(picture(), 'a "label"', "wide"), embed(picture(), "other")
    for text in (one, two):
        root = XML(text)
        attributes = [(name, value) for element in root.iter() for name, value in element.attrib.items()]
        assert not [name for name, _ in attributes if name == "style" or name.startswith(("on", "{"))]
        assert not [1 for element in root.iter() if element.tag.endswith("style")]
        links = [value for name, value in attributes if name == "href"]
        ids = [value for name, value in attributes if name == "id"]
        assert len(ids) == len(set(ids)) and {link[1:] for link in links if link.startswith("#")} <= set(ids)
        assert {match for _, value in attributes for match in re.findall(r"url\(#(.*)\)", value)} <= set(ids)
        assert sum(link.startswith("data:image/png;base64,") for link in links) == 1
        assert not [value for name, value in attributes if name in ("fill", "stroke") and value == INK]
        assert "&lt;b&gt;words" in text and 'font-weight="700"' in text.replace("bold", "700")
    first, second = (set(re.findall(r' id="([^"]+)"', text)) for text in (one, two))
    assert first and not first & second
    assert XML(one).attrib["aria-label"] == 'a "label"'
    assert XML(one).attrib["class"] == "drawing wide"


def test_colours_can_be_told_apart() -> None:
    """Texts have a contrast of 4.5 with their ground, lines and markers of 3, in light, dark and print alike."""
    roots = re.findall(r":root \{(.*?)\}", (TEMPLATES / "page.css").read_text(), re.DOTALL)
    light, dark, printed = (dict(re.findall(r"--(\w+): (#\w{6})", root)) for root in roots)
    assert printed == light and set(light) == set(dark)
    assert {name: colour for colour, name in VARIABLES.items()}.items() <= light.items()
    for theme in (light, dark):
        for ground in ("paper", "raised", "chosen"):
            for ink in ("ink", "soft", "link", "good", "wait"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        for mark in ("path", "strong", "second"):
            assert contrast(theme[mark], theme["paper"]) >= 3, mark
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for share in np.linspace(0, 1, 16):
        ground = mpl.colors.to_hex(mpl.colormaps["viridis_r"](share))
        assert contrast(readable_ink(ground), ground) >= 4.5
    assert min(contrast(line, "#000000") for line in (REFERENCE, PREDICTION)) >= 3

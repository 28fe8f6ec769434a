"""The page itself: all parts put into one HTML file, which is forbidden to load anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nnunet_seqtransfer.report.page import sections
from nnunet_seqtransfer.report.page.findings import Findings, find
from nnunet_seqtransfer.report.page.heatmap import shades_css
from nnunet_seqtransfer.report.page.private import without_folders
from nnunet_seqtransfer.storage import replacing

TEMPLATES = Path(__file__).with_name("templates")


def write_report(folder: Path, path: Path) -> Findings:
    """Writes the report of the run in ``folder`` to ``path`` and returns what it rests on.

    Raises RecordError where the run's record cannot be read; anything else that is missing is said on the page.
    """
    found = find(folder)
    content = render(found)
    with replacing(path) as aside:
        aside.write_text(content, encoding="utf-8")
    return found


def render(found: Findings) -> str:
    """The page as text."""
    notes = list(found.notes)
    parts = {
        **sections.heading(found),
        **sections.choice(found),
        **sections.distances(found),
        **sections.results(found, notes),
        **sections.comparisons(found),
        **sections.origins(found),
        "notes": [without_folders(note) for note in notes],
    }
    parts["contents"] = [(anchor, name) for anchor, name, there in _contents(parts) if there]
    style = Markup((TEMPLATES / "page.css").read_text() + shades_css())  # noqa: S704 - our own file
    script = Markup((TEMPLATES / "page.js").read_text())  # noqa: S704 - our own file
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        **parts, style=style, script=script, policy=policy(style, script)
    )


def policy(style: str, script: str) -> str:
    """The content security policy: this style and this script, images in the page, and nothing else."""
    one, two = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{one}'; script-src 'sha256-{two}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _contents(parts: dict[str, Any]) -> Sequence[tuple[str, str, bool]]:
    return (
        ("why", "Why this path", bool(parts["why"])),
        ("candidates", "Candidates", parts["candidates"] is not None),
        ("distances", "Distances", parts["heat"] is not None),
        ("training", "Training", True),
        ("validation", "Validation", parts["cases"] is not None),
        *((each["anchor"], each["entry"], True) for each in parts["comparisons"]),
        ("methods", "Methods", True),
        ("provenance", "Provenance", True),
    )

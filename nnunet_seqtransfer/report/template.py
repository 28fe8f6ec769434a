"""Fill a page's template into one HTML file that can be mailed: it loads nothing from elsewhere."""

import base64
import hashlib
import importlib.metadata
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nnunet_seqtransfer.storage import replacing

TEMPLATES = Path(__file__).with_name("templates")


def fill(template: str, parts: Mapping[str, Any]) -> str:
    """Return the page that ``template`` makes of its parts."""
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("page.css", "page.js"))  # noqa: S704 - ours
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty section
        trim_blocks=True,
        lstrip_blocks=True,
    )
    about = {
        "version": importlib.metadata.version("nnunet-seqtransfer"),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "policy": policy(style, script),
    }
    return environment.get_template(template).render(**parts, **about, style=style, script=script)


def policy(style: str, script: str) -> str:
    """Return the content security policy: this style and script, images in the page, and nothing else."""
    # hashes instead of "unsafe-inline": names of datasets are other people's text and must never run
    one, two = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{one}'; script-src 'sha256-{two}'; "
        "base-uri 'none'; form-action 'none'"
    )


def write_page(path: Path, content: str) -> None:
    """Write a page aside, then rename it."""
    with replacing(path) as aside:
        aside.write_text(content, encoding="utf-8")

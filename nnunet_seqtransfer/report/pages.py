"""Pages as HTML files that load nothing from elsewhere, and the page of an affinity and the plan that rests on it."""

import base64
import hashlib
import importlib.metadata
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.planning.record import plan_file, read_plan
from nnunet_seqtransfer.report.plan_text import headline
from nnunet_seqtransfer.report.words import arrows, short
from nnunet_seqtransfer.storage import checksum, replacing, sha256


def write_choice(affinity: Affinity, file: Path) -> Path:
    """Write one folder for people: a page and its figures, as SVG and PDF. Return the page.

    Drawing takes seconds, so nothing is drawn again if the page rests on the same affinity and plan.
    The target's plan is shown if it rests on ``file``, the record of these distances.
    """
    key = affinity.target, affinity.plans, affinity.configuration
    rests_on = sha256(file)
    try:
        plan = read_plan(plan_file(*key))
    except SeqTransferError:  # missing or of an older version
        plan = None
    if plan is not None and plan.affinity_sha256 != rests_on:
        plan = None
    folder = affinity_path(*key, affinity.metric).with_suffix("")
    page, made_from = folder / "index.html", [__version__, rests_on, sha256(plan_file(*key)) if plan else None]
    mark = f"<!-- made from {checksum(made_from)} -->\n"
    if page.is_file() and page.read_text().endswith(mark):
        return page

    from nnunet_seqtransfer.report.figures import save  # noqa: PLC0415 - imports matplotlib
    from nnunet_seqtransfer.report.page_parts import choice_parts, drawings  # noqa: PLC0415 - imports matplotlib

    path = plan.path if plan else (affinity.target,)
    for name, (draw, width, _) in drawings(affinity, plan, path).items():
        save(draw(width), folder / f"{name}.svg")
    command = f"nnUNetv2_seq_plan -t {dataset_id(affinity.target)} -c {affinity.configuration}"
    parts = {
        "title": f"{short(affinity.target)}: sources",
        "name": short(affinity.target),
        "configuration": affinity.configuration,
        "plans": affinity.plans,
        "decision": arrows(headline(plan)) if plan else f"No plan rests on these distances yet; run {command}",
        **choice_parts(affinity, plan, path),
    }
    write_page(page, fill("choice.html", parts) + mark)
    return page


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

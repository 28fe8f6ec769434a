"""The page itself: all parts put into one HTML file, which is forbidden to load anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nnunet_seqtransfer.host.folders import preprocessed_folder, raw_folder, results_folder
from nnunet_seqtransfer.report.page import provenance, words
from nnunet_seqtransfer.report.page.curves import dice_plot, loss_plot
from nnunet_seqtransfer.report.page.findings import Findings, StageFound, find
from nnunet_seqtransfer.report.page.graph import draw_graph, lay_out
from nnunet_seqtransfer.report.page.heatmap import MOST, heat_map, legend, shades_css
from nnunet_seqtransfer.report.page.markup import element
from nnunet_seqtransfer.report.page.naming import arrows, counted, decimals, short
from nnunet_seqtransfer.report.page.overlays import case_views
from nnunet_seqtransfer.report.page.paired import paired_plots
from nnunet_seqtransfer.report.page.tables import (
    Cell,
    candidates_table,
    cases_table,
    comparison_tables,
    sources_table,
    table,
)
from nnunet_seqtransfer.report.page.validation import label_means
from nnunet_seqtransfer.storage import replacing

TEMPLATES = Path(__file__).with_name("templates")
LINE_STYLES = ("solid", "dashed", "dotted", "dash-dotted")
"""Of contours, one for each label; further labels begin anew."""


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
        **_heading(found),
        **_choice(found),
        **_distances(found),
        **_results(found, notes),
        **_comparison(found),
        **_sources_of_all(found),
        "notes": [_without_folders(note) for note in notes],
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


def _heading(found: Findings) -> dict[str, Any]:
    name = short(found.run.request.target)
    return {
        "title": f"{name}: sequential transfer report",
        "name": name,
        "request": found.run.request,
        "decision": words.decision(found),
        "result": words.result(found),
        "route": _stops(found),
        "versions": provenance.versions(),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _stops(found: Findings) -> list[dict[str, Any]]:
    """The strip at the top: every dataset of the path, with the states of its stages."""
    stops: dict[str, list[StageFound]] = {}
    for stage in found.stages:
        stops.setdefault(stage.entry.dataset, []).append(stage)
    return [_stop(found, dataset, stages) for dataset, stages in stops.items()]


def _stop(found: Findings, dataset: str, stages: Sequence[StageFound]) -> dict[str, Any]:
    count = found.case_counts.get(dataset)
    about = [*([counted(count, "case")] if count else []), counted(stages[0].entry.recipe.epochs, "epoch")]
    states = []
    for stage in stages:
        fold = f"fold {stage.entry.fold}: " if stage.is_target else ""
        without = counted(len(stage.entry.excluded), "shared case")
        left_out = f" (without {without})" if stage.entry.excluded else ""
        states.append((f"{fold}{stage.status}{left_out}", "good" if stage.status == "finished" else "wait"))
    return {
        "name": short(dataset),
        "is_target": stages[0].is_target,
        "about": ", ".join(about),
        "states": states,
    }


def _choice(found: Findings) -> dict[str, Any]:
    """Why this path: sentences, graph, candidates."""
    plan, affinity = found.plan, found.affinity
    path = (*found.run.request.sources, found.run.request.target)
    planned = (*plan.sources, plan.target) if plan else ()
    proposed = planned if planned and not found.follows_plan else ()
    layout = lay_out(affinity, (*path, *proposed)) if affinity and len(affinity.names) > 1 else None
    return {
        "plan": plan,
        "why": words.reasons(found),
        "flips": [arrows(line) for line in plan.flips] if plan else [],
        "proposed": bool(proposed),
        "graph": draw_graph(layout, affinity, path, proposed) if layout and affinity else None,
        "stress": f"{layout.stress:.2f}" if layout else "",
        "candidates": candidates_table(plan, path) if plan and plan.candidates else None,
    }


def _distances(found: Findings) -> dict[str, Any]:
    affinity = found.affinity
    if affinity is None or len(affinity.names) < 2:
        return {"heat": None}
    return {
        "heat": heat_map(affinity),
        "legend": legend(affinity),
        "sources": sources_table(affinity, found.run.request.sources),
        "metric": affinity.metric,
        "shown": min(MOST, len(affinity.sources)),
        "hidden": max(0, len(affinity.sources) - MOST),
    }


def _results(found: Findings, notes: list[str]) -> dict[str, Any]:
    """Curves and validation."""
    views = [
        {
            "heading": f"{view.rank.capitalize()} case: {view.case.case}, Dice {decimals(view.case.mean, 2)}",
            "slices": view.slices,
        }
        for view in (case_views(found, notes) if found.cases else ())
    ]
    means = ", ".join(f"{label} {decimals(value)}" for label, value in label_means(found.cases).items())
    return {
        "stages": [_curves(found, stage) for stage in found.stages],
        "cases": cases_table(found.cases) if found.cases else None,
        "cases_count": len(found.cases),
        "per_label": f"Mean Dice by label: {means}.",
        "views": views,
        "labels": list(found.labels),
        "styles": LINE_STYLES,
    }


def _curves(found: Findings, stage: StageFound) -> dict[str, Any]:
    name = f"{short(stage.entry.dataset)}, fold {stage.entry.fold}"
    epochs = stage.entry.recipe.epochs
    seconds = sum(epoch.seconds for epoch in stage.curve if epoch.seconds == epoch.seconds)
    took = f"{len(stage.curve)} of {epochs} epochs in {_duration(seconds)}."
    labels = list(found.labels) if stage.is_target else []
    return {
        "title": name,
        "dice": dice_plot(stage.curve, labels, name, epochs) if stage.curve else None,
        "loss": loss_plot(stage.curve, name, epochs) if stage.curve else None,
        "labels": max((len(epoch.pseudo_dice) for epoch in stage.curve), default=0),
        "about": took if stage.curve else f"No epoch of this stage is finished yet; {epochs} are asked for.",
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _comparison(found: Findings) -> dict[str, Any]:
    comparison = found.comparison
    if comparison is None:
        return {"comparison": None}
    state = "complete" if comparison.complete else "not complete yet"
    arms = counted(len(comparison.arms), "path")
    seeds = counted(len(comparison.seeds), "seed")
    return {
        "comparison": {
            "words": f"{arms} to this target, trained alike with {seeds}; {state}. Scores are of "
            f"{comparison.evaluated_on}.",
            "plots": paired_plots(comparison),
            "tables": comparison_tables(comparison),
        }
    }


def _sources_of_all(found: Findings) -> dict[str, Any]:
    """Methods and provenance."""
    rows = [
        [Cell(element("span", name, class_="file"), name), Cell(element("code", digest, class_="hash"), digest)]
        for name, digest in provenance.files(found)
    ]
    return {
        "methods": words.methods(found, provenance.versions()),
        "citations": words.CITATIONS,
        "facts": provenance.facts(found),
        "commands": provenance.commands(found),
        "files": table("Files that this report rests on", ["file", "SHA-256"], rows),
    }


def _contents(parts: dict[str, Any]) -> Sequence[tuple[str, str, bool]]:
    return (
        ("why", "Why this path", bool(parts["why"])),
        ("candidates", "Candidates", parts["candidates"] is not None),
        ("distances", "Distances", parts["heat"] is not None),
        ("training", "Training", True),
        ("validation", "Validation", parts["cases"] is not None),
        ("comparison", "Comparison", parts["comparison"] is not None),
        ("methods", "Methods", True),
        ("provenance", "Provenance", True),
    )


def _without_folders(note: str) -> str:
    """A note without the paths of this machine: pages are sent to others."""
    folders = {"nnUNet_raw": raw_folder, "nnUNet_preprocessed": preprocessed_folder, "nnUNet_results": results_folder}
    for name, folder in folders.items():
        note = note.replace(str(folder()), name)
    return note

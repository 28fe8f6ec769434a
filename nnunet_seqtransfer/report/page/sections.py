"""What each section of the page is filled with: drawings, tables and words by the names that the template has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from nnunet_seqtransfer.nnunet.validation import case_dice, label_means
from nnunet_seqtransfer.report.page import compared, provenance, words
from nnunet_seqtransfer.report.page.choice_tables import candidates_table, sources_table
from nnunet_seqtransfer.report.page.curves import dice_plot, loss_plot
from nnunet_seqtransfer.report.page.findings import Findings, StageFound
from nnunet_seqtransfer.report.page.graph import draw_graph, lay_out
from nnunet_seqtransfer.report.page.heatmap import MOST, heat_map, legend
from nnunet_seqtransfer.report.page.markup import element
from nnunet_seqtransfer.report.page.methods import CITATIONS, methods
from nnunet_seqtransfer.report.page.naming import counted, decimals, short
from nnunet_seqtransfer.report.page.overlays import case_views
from nnunet_seqtransfer.report.page.result_tables import cases_table
from nnunet_seqtransfer.report.page.tables import Cell, table

LINE_STYLES = ("solid", "dashed", "dotted", "dash-dotted")
"""Of contours, one for each label; further labels begin anew."""


def heading(found: Findings) -> dict[str, Any]:
    """What stands at the top: the decision, the stages, the result."""
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


def choice(found: Findings) -> dict[str, Any]:
    """Why this path: sentences, graph, candidates."""
    plan, affinity = found.plan, found.affinity
    path = (*found.run.request.sources, found.run.request.target)
    planned = (*plan.sources, plan.target) if plan else ()
    proposed = planned if planned and not found.follows_plan else ()
    layout = lay_out(affinity, (*path, *proposed)) if affinity and len(affinity.names) > 1 else None
    return {
        "plan": plan,
        "why": words.reasons(found),
        "proposed": bool(proposed),
        "graph": draw_graph(layout, affinity, path, proposed) if layout and affinity else None,
        "stress": f"{layout.stress:.2f}" if layout else "",
        "candidates": candidates_table(plan, path) if plan and plan.candidates else None,
    }


def distances(found: Findings) -> dict[str, Any]:
    """Heat map and sources; None where nothing was measured."""
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


def results(found: Findings, notes: list[str]) -> dict[str, Any]:
    """Curves and validation."""
    kind = "training case" if found.trained_on_cases else "case"
    views = [
        {
            "heading": f"{view.rank.capitalize()} {kind}: {view.case.case}, Dice {decimals(view.case.mean, 2)}",
            "slices": view.slices,
        }
        for view in (case_views(found, notes) if found.cases else ())
    ]
    means = ", ".join(f"{label} {decimals(value)}" for label, value in label_means(case_dice(found.cases)).items())
    return {
        "stages": [_curves(found, stage) for stage in found.stages],
        "cases": cases_table(found.cases) if found.cases else None,
        "cases_count": len(found.cases),
        "per_label": f"Mean Dice by label: {means}.",
        "views": views,
        "trained_on": found.trained_on_cases,
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


def comparisons(found: Findings) -> dict[str, Any]:
    """Paired plots and tables of the paths that were compared."""
    return {"comparisons": [compared.section(record, place) for place, record in enumerate(found.comparisons)]}


def origins(found: Findings) -> dict[str, Any]:
    """Methods and provenance."""
    rows = [
        [Cell(element("span", name, class_="file"), name), Cell(element("code", digest, class_="hash"), digest)]
        for name, digest in provenance.files(found)
    ]
    return {
        "methods": methods(found, provenance.versions()),
        "citations": CITATIONS,
        "facts": provenance.facts(found),
        "commands": provenance.commands(found),
        "files": table("Files that this report rests on", ["file", "SHA-256"], rows),
    }

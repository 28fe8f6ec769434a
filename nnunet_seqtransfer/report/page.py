"""The report as one HTML file that can be mailed: it loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases
from nnunet_seqtransfer.nnunet.preprocessing import read_raw_case, read_raw_labels, read_spacing
from nnunet_seqtransfer.nnunet.validation import ValidatedCase, case_dice, label_means, telling
from nnunet_seqtransfer.planning.decide import problem_of
from nnunet_seqtransfer.planning.published import default_communities, find_communities, source_graph
from nnunet_seqtransfer.report import page_tables, run_text
from nnunet_seqtransfer.report.distance_figures import MAX_TASKS, NUMBERED, draw_heat_map, draw_ranking
from nnunet_seqtransfer.report.figures import embed
from nnunet_seqtransfer.report.findings import Findings, StageFound, read_findings
from nnunet_seqtransfer.report.graph_figure import draw_graph
from nnunet_seqtransfer.report.overlay_figure import draw_overlays, telling_slices
from nnunet_seqtransfer.report.result_figures import draw_differences, draw_gains, draw_stage
from nnunet_seqtransfer.report.words import counted, decimals, duration, path_words, sentence, short, without_folders
from nnunet_seqtransfer.storage import replacing

TEMPLATES = Path(__file__).with_name("templates")
COLOUR_READER = "NaturalImage2DIO"
"""nnU-Net's reader for photographs. If it reads three channels, they are red, green and blue."""
NARROW = 3.7
"""Figure width on phones, in inches."""


def write_report(folder: Path, path: Path) -> Findings:
    """Write the report on the run in ``folder`` to ``path``, and return what it rests on.

    Raises RecordError if the run's record cannot be read. Anything else that is missing is noted on the page.
    """
    found = read_findings(folder)
    content = render(found)
    with replacing(path) as aside:
        aside.write_text(content, encoding="utf-8")
    return found


def render(found: Findings) -> str:
    """Return the page as text."""
    notes = list(found.notes)  # overlays add theirs while they are drawn
    parts = {
        **_heading(found),
        **_choice(found),
        **_distances(found),
        **_results(found, notes),
        "comparisons": [_comparison(record, place) for place, record in enumerate(found.comparisons)],
        "facts": run_text.facts(found),
        "commands": run_text.commands(found),
        "files": page_tables.files_table(run_text.files(found)),
        "notes": [without_folders(note) for note in notes],
    }
    parts["contents"] = _contents(parts)
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("page.css", "page.js"))  # noqa: S704 - ours
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty section
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(**parts, style=style, script=script, policy=policy(style, script))


def policy(style: str, script: str) -> str:
    """Return the content security policy: this style and script, images in the page, and nothing else."""
    # hashes instead of "unsafe-inline": names of datasets are other people's text and must never run
    one, two = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{one}'; script-src 'sha256-{two}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _contents(parts: dict[str, Any]) -> list[tuple[str, str]]:
    why = [("why", "Why this path" if parts["follows_plan"] else "Plan")] if parts["why"] else []
    return [
        *(why if parts["follows_plan"] else []),
        *([("distances", "Distances")] if parts["heat_map"] else []),
        ("training", "Training"),
        *([("validation", "Validation")] if parts["cases"] else []),
        *((each["anchor"], each["entry"]) for each in parts["comparisons"]),
        *([] if parts["follows_plan"] else why),
        ("provenance", "Provenance"),
    ]


def _heading(found: Findings) -> dict[str, Any]:
    """Return decision, stages, result, and the comparison with scratch."""
    name = short(found.run.request.target)
    verdict, scratch_command = run_text.against_scratch(found)
    return {
        "title": f"{name}: sequential transfer report",
        "name": name,
        "request": found.run.request,
        "decision": run_text.decision(found),
        "result": run_text.result(found),
        "verdict": verdict,
        "scratch_command": scratch_command,
        "route": _stops(found),
        "version": run_text.versions().get("nnunet-seqtransfer", ""),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _stops(found: Findings) -> list[dict[str, Any]]:
    """Return the datasets on the path with the states of their stages."""
    stops: dict[str, list[StageFound]] = {}  # folds of one dataset share a box
    for stage in found.stages:
        stops.setdefault(stage.entry.dataset, []).append(stage)
    told = []
    for dataset, stages in stops.items():
        count = found.case_counts.get(dataset)
        about = [counted(count, "case")] if count else []
        about.append(counted(stages[0].entry.recipe.epochs, "epoch"))
        states = run_text.stage_states(stages)
        told.append(
            {
                "name": short(dataset),
                "is_target": stages[0].role == "target",
                "about": ", ".join(about),
                "states": states,
            }
        )
    return told


def _both_widths(draw: Callable[[float], Figure], width: float, label: str) -> Markup:
    """Return a figure for wide screens and one for phones. The page shows the one that fits."""
    return embed(draw(width), label, "wide") + embed(draw(NARROW), label, "narrow")


def _choice(found: Findings) -> dict[str, Any]:
    """Return the plan's reasons and candidates."""
    plan = found.plan
    gains = None
    if plan and plan.candidates:
        label = f"Expected gains of {counted(len(plan.candidates), 'candidate path')}; the table below has the numbers"
        gains = _both_widths(lambda width: draw_gains(plan, found.path, width=width), 7.6, label)
    return {
        "plan": plan,
        "follows_plan": found.follows_plan,
        "why": run_text.reasons(found),
        "gains": gains,
        "candidates": page_tables.candidates_table(plan, found.path) if plan and plan.candidates else None,
    }


def _distances(found: Findings) -> dict[str, Any]:
    """Return graph, heat map, ranking and sources; nothing if no distance was measured."""
    affinity = found.affinity
    if affinity is None or len(affinity.names) < 2:
        return {"heat_map": None}
    shown = min(MAX_TASKS - 1, len(affinity.sources))
    return {
        "graph": _graph(found, affinity),
        "has_communities": found.plan is not None and found.plan.strategy == "published",
        "heat_map": _heat_map(affinity, f"Heat map of the distances of {shown + 1} tasks"),
        "ranking": _both_widths(
            lambda width: draw_ranking(affinity, found.path, width=width),
            5.5,
            "Distances of the sources to the target; the table below has the numbers",
        ),
        "sources": page_tables.sources_table(affinity, found.path),
        "metric": affinity.metric,
        "shown": shown,
        "hidden": len(affinity.sources) - shown,
    }


def _heat_map(affinity: Affinity, label: str) -> Markup:
    if len(affinity.names) > NUMBERED:  # many cells are not repeated for phones, which scroll
        return embed(draw_heat_map(affinity), label, "keep")
    return _both_widths(lambda width: draw_heat_map(affinity, width=width), 12.0, label)


def _graph(found: Findings, affinity: Affinity) -> Markup:
    problem = problem_of(affinity)
    known = {name: task for task, name in enumerate(problem.names)}
    path, planned = ([known[name] for name in names if name in known] for names in (found.path, found.planned_path))
    communities: Sequence[Sequence[int]] = ()
    if found.plan is not None and found.plan.strategy == "published":  # other strategies know no communities
        wanted = found.plan.options.communities or default_communities(len(problem.sources))
        communities = find_communities(problem, source_graph(problem), wanted)
    proposed = () if found.follows_plan else planned
    return _both_widths(
        lambda width: draw_graph(problem, path, communities, proposed=proposed, width=width),
        11.6,
        f"Graph of {counted(len(problem.sources), 'source')} around the target; path: {path_words(found.path)}",
    )


def _results(found: Findings, notes: list[str]) -> dict[str, Any]:
    """Return curves and validation."""
    means = label_means(case_dice(found.cases))
    return {
        "stages": [_curves(found, stage) for stage in found.stages],
        "cases": page_tables.cases_table(found.cases) if found.cases else None,
        "per_label": ", ".join(f"{label} {decimals(value)}" for label, value in means.items()),
        "views": _views(found, notes) if found.cases else [],
        "trained_on": found.trained_on_cases,
    }


def _curves(found: Findings, stage: StageFound) -> dict[str, Any]:
    title, epochs = run_text.stage_title(stage), stage.entry.recipe.epochs
    if not stage.curve:
        return {"title": title, "about": f"No epoch is finished yet; {epochs} are requested.", "picture": None}
    seconds = sum(epoch.seconds for epoch in stage.curve if epoch.seconds == epoch.seconds)
    labels = list(found.labels) if stage.role == "target" else []
    last = stage.curve[-1]
    label = f"Curves of {title}: mean pseudo Dice {decimals(stage.curve[0].mean_dice)} to {decimals(last.mean_dice)}"
    return {
        "title": title,
        "about": f"{len(stage.curve)} of {counted(epochs, 'epoch')} in {duration(seconds)}.",
        "picture": embed(draw_stage(stage.curve, labels, epochs), label),
    }


def _views(found: Findings, notes: list[str]) -> list[tuple[str, Markup]]:
    """Return title and overlays for the worst, median and best case. A case that cannot be read leaves a note."""
    kind = "training case" if found.trained_on_cases else "case"
    views = []
    try:
        raw = raw_cases(found.run.request.target, found.target_json) if found.target_json and found.reader else {}
    except SeqTransferError as error:
        notes.append(sentence(f"no overlays: {error}"))
        return []
    for rank, case in telling(found.cases):
        try:
            picture = _overlays(found, rank, case, raw[case.case])
        except KeyError:  # raw_cases lists what is on disk now
            notes.append(f"No overlay of {case.case}: its image is not in nnUNet_raw.")
        except (SeqTransferError, ValueError, OSError) as error:  # OSError: the prediction was deleted
            notes.append(sentence(f"no overlay of {case.case}: {error}"))
        else:
            views.append((f"{rank.capitalize()} {kind}: {case.case}, Dice {decimals(case.mean, 2)}", picture))
    return views


def _overlays(found: Findings, rank: str, case: ValidatedCase, raw: RawCase) -> Markup:
    data = read_raw_case(case.case, raw, found.reader)
    prediction = read_raw_labels(case.case, case.prediction, found.reader)
    ignore = found.target_json.get("labels", {}).get("ignore")
    colours = found.reader == COLOUR_READER and len(data.images) == 3
    slices = telling_slices(
        data.images,
        data.segmentation,
        prediction,
        read_spacing(raw, found.reader),
        colours=colours,
        ignore=None if ignore is None else int(ignore),
        caption=f"prediction, Dice {decimals(case.mean, 2)}",
    )
    channel = "image" if colours else channel_names(found.target_json)[0]
    figure = draw_overlays(slices, list(found.labels.items()), channel=channel)
    titles = "; ".join(one.title for one in slices)
    label = f"{rank} case {case.case}: image, reference, and prediction on the reference; {titles}"
    return embed(figure, label, "fit")


def _comparison(comparison: Comparison, place: int) -> dict[str, Any]:
    """Return heading, words, figure and tables. ``place`` counts the comparisons on the page from 0."""
    name = comparison.test_set
    figure = draw_differences(comparison)
    picture = None
    if figure is not None:
        label = "Differences in Dice between paths; the table below has the numbers"
        picture = embed(figure, label, "fit")
    return {
        "anchor": "comparison" if place == 0 else f"comparison-{place + 1}",
        "entry": "Comparison" if name is None else f"Comparison on {short(name)}",
        "heading": "Comparison with other paths" + ("" if name is None else f" on the test set {name}"),
        "words": run_text.comparison_words(comparison),
        "picture": picture,
        "tables": page_tables.comparison_tables(comparison),
    }

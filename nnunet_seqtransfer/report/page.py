"""The report as one HTML file that can be mailed: it loads nothing from elsewhere."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases
from nnunet_seqtransfer.nnunet.image_formats import COLOUR_READER
from nnunet_seqtransfer.nnunet.preprocessing import read_raw_case, read_raw_labels, read_spacing
from nnunet_seqtransfer.nnunet.validation import ValidatedCase, case_dice, label_means, telling
from nnunet_seqtransfer.report import page_parts, run_text
from nnunet_seqtransfer.report.distance_figures import draw_ranking_and_dice
from nnunet_seqtransfer.report.figures import embed
from nnunet_seqtransfer.report.findings import Findings, StageFound, read_findings
from nnunet_seqtransfer.report.overlay_figure import draw_overlays, telling_slices
from nnunet_seqtransfer.report.pages import fill, write_page
from nnunet_seqtransfer.report.result_figures import draw_differences, draw_stage
from nnunet_seqtransfer.report.words import counted, decimals, duration, mixed_words, sentence, short, without_folders
from nnunet_seqtransfer.training.run_record import REPORT


def write_report(folder: Path, path: Path | None = None) -> Findings:
    """Write the report on the run in ``folder`` to ``path``, by default next to the record; return what it rests on.

    Raises RecordError if the run's record cannot be read. Anything else that is missing is noted on the page.
    """
    found = read_findings(folder)
    write_page(path or folder / REPORT, render(found))
    return found


def render(found: Findings) -> str:
    """Return the page as text."""
    notes = list(found.notes)  # overlays add theirs while they are drawn
    parts = {
        **_heading(found),
        **page_parts.choice_parts(found.affinity, found.plan, found.path),
        "why": run_text.reasons(found),
        **_results(found, notes),
        "comparisons": [_comparison(record, place, found.affinity) for place, record in enumerate(found.comparisons)],
        "facts": run_text.facts(found),
        "commands": run_text.commands(found),
        "files": page_parts.files_table(run_text.files(found)),
        "notes": [without_folders(note) for note in notes],
    }
    parts["contents"] = _contents(parts)
    return fill("page.html", parts)


def _contents(parts: dict[str, Any]) -> list[tuple[str, str]]:
    why = [("why", "Why this path" if parts["follows_plan"] else "Plan")] if parts["why"] else []
    return [
        *((each["anchor"], each["entry"]) for each in parts["comparisons"]),
        *(why if parts["follows_plan"] else []),
        *([("distances", "Distances")] if parts["heat_map"] else []),
        ("training", "Training"),
        *([("validation", "Validation")] if parts["cases"] else []),
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
        "configuration": found.run.request.configuration,
        "plans": found.run.request.plans,
        "decision": run_text.decision(found),
        "result": run_text.result(found),
        "verdict": verdict,
        "scratch_command": scratch_command,
        "route": _stops(found),
    }


def _stops(found: Findings) -> list[dict[str, Any]]:
    """Return the datasets on the path with the states of their stages."""
    stops: dict[tuple[str, str], list[StageFound]] = {}  # folds of one dataset share a box
    for stage in found.stages:
        stops.setdefault((stage.entry.dataset, mixed_words(stage.entry.shares)), []).append(stage)
    told = []
    for (dataset, others), stages in stops.items():
        count = found.case_counts.get(dataset)
        about = [counted(count, "case")] if count else []
        about.append(counted(stages[0].entry.recipe.epochs, "epoch"))
        states = run_text.stage_states(stages)
        told.append(
            {
                "name": f"{short(dataset)}{others}",
                "is_target": stages[0].role == "target",
                "about": ", ".join(about),
                "states": states,
            }
        )
    return told


def _results(found: Findings, notes: list[str]) -> dict[str, Any]:
    """Return curves and validation."""
    means = label_means(case_dice(found.cases))
    return {
        "stages": [_curves(found, stage) for stage in found.stages],
        "cases": page_parts.cases_table(found.cases) if found.cases else None,
        "per_label": ", ".join(f"{label} {decimals(value)}" for label, value in means.items()),
        "views": _views(found, notes) if found.cases else [],
        "trained_on": found.trained_on_cases,
    }


def _curves(found: Findings, stage: StageFound) -> dict[str, Any]:
    entry, epochs = stage.entry, stage.entry.recipe.epochs
    title = f"{short(entry.dataset)}{mixed_words(entry.shares)}, fold {entry.fold}"
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


def _comparison(comparison: Comparison, place: int, affinity: Affinity | None) -> dict[str, Any]:
    """Return heading, words, figures and tables. ``place`` counts the comparisons on the page from 0."""
    name = comparison.test_set
    ranking = draw_ranking_and_dice(affinity, comparison) if affinity is not None else None
    label = "Sources by distance, and the Dice of the target after each"
    differences = draw_differences(comparison)
    other = "Differences in Dice between paths; the table below has the numbers"
    return {
        "anchor": "comparison" if place == 0 else f"comparison-{place + 1}",
        "entry": "Comparison" if name is None else f"Comparison on {short(name)}",
        "heading": "Comparison with other paths" + ("" if name is None else f" on the test set {name}"),
        "words": run_text.comparison_words(comparison),
        "ranking": None if ranking is None else embed(ranking, label, "fit"),
        "picture": None if differences is None else embed(differences, other, "fit"),
        "tables": page_parts.comparison_tables(comparison),
    }

"""The status of runs, what can be removed, how to predict, and recipes: text for the terminal."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from textwrap import shorten

from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.report.words import decimals, duration, mixed_words, path_words, text_table, without_folders
from nnunet_seqtransfer.storage import size_text
from nnunet_seqtransfer.training.clean import CATEGORIES, Item
from nnunet_seqtransfer.training.recipe import ADDED, Recipe
from nnunet_seqtransfer.training.run_record import Run, StageEntry
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.training.status import RunStatus, StageStatus, State

_BAR = 10
_HEADER = ("stage", "state", "epochs", "", "pseudo Dice", "Dice", "an epoch", "left", "wrote")


def status_text(runs: Sequence[RunStatus], now: float, *, detailed: bool = False) -> str:
    """Return all runs in order as of ``now`` (seconds since 1970); if ``detailed``, with folders and recipes."""
    if not runs:
        return f"no run is recorded below {results_folder()}; nnUNetv2_seq_train begins one"
    return "\n\n".join("\n".join(_run_lines(run, now, detailed)) for run in runs)


def _run_lines(status: RunStatus, now: float, detailed: bool) -> Iterator[str]:
    if status.run is None:
        yield f"{status.name}  unreadable: {status.problem}"
        return
    request = status.run.request
    path = path_words(request.path, " -> ")
    folds = f"fold{'s' * (len(request.folds) > 1)} {' '.join(request.folds)}"
    yield f"{status.name}  {_state_of_run(status)}"
    yield f"  {path}, {request.configuration}, {folds}, started {_local(status.run.started)}"
    table = text_table(_HEADER, [_row(stage, now) for stage in status.stages])
    yield from (f"  {line}" for line in table.splitlines())
    for stage in status.stages:
        if stage.error is not None:
            words = stage.error if detailed else shorten(stage.error, 150, placeholder=" ...")
            yield f"  error of {_title(stage)}: {words}"
    if detailed:
        for stage in status.stages:
            yield from _details(stage)
    command = status.continue_command
    if command is not None:
        yield f"  continue with: {' '.join(command)}"


def _state_of_run(status: RunStatus) -> str:
    at_work = [str(stage.on_disk.holder) for stage in status.stages if stage.state in (State.RUNNING, State.SILENT)]
    words = status.state.value + (f" by {', '.join(dict.fromkeys(at_work))}" if at_work else "")
    if status.is_left and status.seconds_left:
        words += f", about {duration(status.seconds_left)} left"
    return words


def _row(stage: StageStatus, now: float) -> list[str]:
    epochs, end = stage.entry.recipe.epochs, stage.on_disk.log
    is_shown = stage.epochs_done > 0
    validated = stage.on_disk.dice if stage.role == "target" and stage.on_disk.validated else None
    return [
        _title(stage),
        _state(stage),
        f"{stage.epochs_done} of {epochs}",
        _bar(stage.epochs_done, epochs),
        decimals(end.last.mean_dice, missing="") if end.last and is_shown else "",
        decimals(validated, missing=""),
        duration(end.median_seconds) if end.median_seconds else "",
        duration(stage.seconds_left) if stage.seconds_left else "",
        f"{duration(max(0.0, now - stage.on_disk.written))} ago" if stage.on_disk.written is not None else "",
    ]


def _state(stage: StageStatus) -> str:
    words = stage.state.value
    if stage.state is State.SILENT and stage.on_disk.holder is not None:
        words = f"last sign {duration(stage.on_disk.holder.seconds_ago)} ago"
    if stage.state is State.RUNNING and stage.on_disk.final and stage.cases:
        words = f"validating {stage.on_disk.log.predicted}/{stage.cases}"
    return words if stage.queue is None else f"{words} ({stage.queue})"


def _details(stage: StageStatus) -> Iterator[str]:
    recipe, last = stage.entry.recipe, stage.on_disk.log.last
    yield f"  {_title(stage)}: {stage.entry.key}"
    yield f"    {recipe_text(recipe)}"
    if stage.entry.excluded_count:
        yield f"    without {stage.entry.excluded_count} of its cases"
    if last is not None and last.pseudo_dice:
        yield f"    pseudo Dice of the labels: {' '.join(f'{dice:.3f}' for dice in last.pseudo_dice)}"
    if stage.on_disk.holder is not None:
        presence = stage.on_disk.holder
        yield f"    {presence}: {presence.life}, last sign {duration(presence.seconds_ago)} ago"
    yield f"    {results_folder() / stage.entry.output}"
    if stage.on_disk.command_log is not None:
        yield f"    {stage.on_disk.command_log}"


def _title(stage: StageStatus) -> str:
    return f"{stage.entry.dataset}{mixed_words(stage.entry.shares)} {stage.entry.fold}"


def _bar(done: int, epochs: int) -> str:
    filled = min(_BAR, _BAR * done // max(1, epochs))
    return "#" * filled + "." * (_BAR - filled)


def _local(started: str) -> str:
    try:
        return datetime.fromisoformat(started).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return started


MAX_ITEMS = 20
"""Items listed per category; the rest is summed up."""
MEANINGS = {
    "leftovers": "half-written files, damaged and superseded checkpoints, locks of ended processes",
    "preprocessed": "sources preprocessed for a target, read by no unfinished run",
}
Sized = list[tuple[Item, int]]


def clean_text(items: Sized) -> str:
    """Return a category table, then their items; ``items`` come with sizes in bytes, the largest first."""
    groups = {name: [pair for pair in items if pair[0].category == name] for name in CATEGORIES}
    shown = sorted((name for name in groups if groups[name]), key=lambda name: -_total(groups[name]))
    if not shown:
        return "there is nothing to remove"
    rows = [[size_text(_total(groups[name])), str(len(groups[name])), name, MEANINGS[name]] for name in shown]
    lines = [text_table(["size", "items", "category", "content"], rows)]
    for name in shown:
        lines += ["", f"{name}:", *_listed(groups[name])]
    return "\n".join(lines)


def _listed(items: Sized) -> list[str]:
    lines = [
        f"  {size_text(size).rjust(8)}  {without_folders(str(item.path))}  {item.reason}"
        for item, size in items[:MAX_ITEMS]
    ]
    rest = items[MAX_ITEMS:]
    return [*lines, f"  {size_text(_total(rest)).rjust(8)}  in {len(rest)} more"] if rest else lines


def _total(items: Sized) -> int:
    return sum(size for _, size in items)


def predict_commands(run: Run) -> dict[str, str]:
    """Return trained model (relative to nnUNet_results) -> nnU-Net command that predicts with its finished folds."""
    models: dict[str, list[StageEntry]] = {}  # folds without shared cases have plans of their own
    for entry in run.stages:
        if run.role(entry) == "target":
            models.setdefault(entry.output.rpartition("/")[0], []).append(entry)
    device = run.options.device
    commands = {}
    for folder, every in models.items():
        entries = [entry for entry in every if entry.files.final.is_file()] or every
        words = ["nnUNetv2_predict", "-d", str(dataset_id(run.request.target))]
        words += ["-i", "INPUT_FOLDER", "-o", "OUTPUT_FOLDER", "-tr", TRAINER, "-p", entries[0].plans_name]
        words += ["-c", run.request.configuration, "-f", *(entry.fold for entry in entries)]
        # nnU-Net predicts on a GPU by default and fails without one
        commands[folder] = shlex.join([*words, *(["-device", device] if device != "cuda" else [])])
    return commands


def recipe_text(recipe: Recipe) -> str:
    """Return the recipe in one line. Parts that nnU-Net does not have are named only if they are set."""
    parts = [(part, getattr(recipe, part.name)) for part in fields(Recipe) if part.name in ADDED]
    added = [f"{part.name} {value}" for part, value in parts if value != part.default]
    basic = f"{recipe.epochs} epochs of {recipe.iterations} iterations, learning rate {recipe.initial_lr:g}"
    return ", ".join([basic, f"warm-up {recipe.warmup_epochs} epochs", *added])

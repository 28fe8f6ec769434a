"""The status of runs: text for the terminal."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from textwrap import shorten

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.report.training_text import recipe_text
from nnunet_seqtransfer.report.words import decimals, duration, mixed_words, path_words, text_table
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

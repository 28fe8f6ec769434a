"""Describe what a chain would do, for --dry_run: lines for the terminal."""

from collections.abc import Iterator, Sequence

from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.report.status_text import recipe_text
from nnunet_seqtransfer.report.words import duration, percent
from nnunet_seqtransfer.storage import size_text
from nnunet_seqtransfer.training.actions import DONE, Action
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.prepare import preprocessed_bytes
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.transfer.correspondence import Correspondence, channel_words


def chain_text(outlook: Outlook) -> str:
    """Return lines about every stage that is left: what is read, written, and how long it takes."""
    lines = [line for stage in outlook.stages for line in _stage_lines(outlook, stage)]
    total = duration(sum((*outlook.seconds.values(), *outlook.preprocessing.values())))
    clock = outlook.survey.clock
    basis = "by the newest training" if clock.pace.epochs else "a guess, this network was not trained here yet"
    return "\n".join([*lines, f"in all about {total} on {clock.device} ({basis}), nothing was done (--dry_run)"])


def _stage_lines(outlook: Outlook, stage: Stage) -> Iterator[str]:
    action, survey, recipe = outlook.actions[stage], outlook.survey, stage.recipe
    yield f"{outlook.title(stage)} {action.value}"
    if action in DONE:
        return
    yield f"  trains   {recipe_text(recipe)}; about {duration(outlook.seconds[stage])}"
    yield f"  reads    {data_folder(stage.dataset, survey.plans[stage], stage.configuration)}"
    yield from _data_lines(outlook, stage, stage.dataset, stage.excluded)
    for one in stage.mixed:
        part = "" if one.until == 1 else f" in the first {percent(one.until)} of the epochs"
        folder = data_folder(one.dataset, survey.aligned[one.dataset], stage.configuration)
        yield f"  reads    {folder}: {percent(one.share)} of the batches{part}"
        yield from _data_lines(outlook, stage, one.dataset, one.excluded)
        channels = outlook.fed_channels(stage, one.dataset)
        if channels is not None:
            old, new = (survey.tasks[name].channels for name in (one.dataset, stage.dataset))
            yield f"           {channel_words(channels, old, new, 'zeros')}"
    yield from _weights_lines(outlook, stage)
    yield f"  writes   {stage.files.plans}"
    yield f"           {stage.output}"


def _data_lines(outlook: Outlook, stage: Stage, name: str, excluded: Sequence[str]) -> Iterator[str]:
    """Yield what is done to the cases of one of the stage's datasets before they are read."""
    missing = outlook.to_preprocess.get(name, ())
    if missing:
        survey = outlook.survey
        size = preprocessed_bytes(survey.tasks[name], survey.aligned[name], stage.configuration, len(missing))
        time = duration(outlook.preprocessing[name])
        yield f"           preprocessing {len(missing)} cases of it first, about {time}, up to {size_text(size)}"
    if excluded:
        yield f"  without  {', '.join(excluded)}: fold {stage.without} of the target validates on them"


def _weights_lines(outlook: Outlook, stage: Stage) -> Iterator[str]:
    """Yield where the weights come from, and which channels and heads go together unless it is the usual."""
    previous, initial, tasks = outlook.previous(stage), outlook.initial.get(stage), outlook.survey.tasks
    if previous is not None and outlook.actions[stage] is Action.START:
        yield f"           weights of {previous.files.final}"
        yield from _match_lines(outlook.match(stage), tasks[previous.dataset].channels, tasks[stage.dataset].channels)
    elif previous is None and initial is not None:
        yield f"           weights of {initial.origin}"
        yield f"           {initial.adaptation.summary()}"
        if initial.adaptation.coverage < 1:
            yield f"           missing: {initial.adaptation.reasons()}"
        yield from _match_lines(initial.match, initial.channels, tasks[stage.dataset].channels)


def _match_lines(match: Correspondence, old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if match.channels is not None:
        yield f"           {channel_words(match.channels, old, new)}"
    if match.heads:
        yield f"           {match.heads.words}"

"""Verbs: train a chain, continue a recorded run, or look ahead at what either would do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import (
    DatasetError,
    Problems,
    RecordError,
    SeqTransferError,
    StageError,
    collecting,
    raise_collected,
)
from nnunet_seqtransfer.parallel import one_pool
from nnunet_seqtransfer.tasks.check import check_dataset
from nnunet_seqtransfer.training.decide import Outlook, decide
from nnunet_seqtransfer.training.executors import Executor, LocalExecutor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.overlap_guard import find_exclusions
from nnunet_seqtransfer.training.run_record import Run, find_run, read_run, write_run
from nnunet_seqtransfer.training.run_stage import initial_weights, prepare_data, run_stage
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions
from nnunet_seqtransfer.training.survey import Survey, take_survey


def train_chain(
    request: ChainRequest,
    context: Context = Context(),
    *,
    options: DeviceOptions = DeviceOptions(),
    executor: Executor | None = None,
    before_replacing: Callable[[Path], None] | None = None,
) -> Run:
    """Train what is left in a chain and return the run record.

    Call it again after any interruption: finished stages are kept, an interrupted one resumes from a checkpoint.

    Args:
        request: path, folds and recipes.
        context: progress, and worker processes for preprocessing.
        options: devices to train on.
        executor: who runs the stages; None for this process, one stage after the other.
        before_replacing: called with the run's folder before a record with another request is replaced; may raise.

    Raises a SeqTransferError with every problem before anything is written, StageError if a stage fails.
    """
    executor = executor or LocalExecutor()
    outlook = look_ahead(request, context, options=options, check=lambda: executor.check(options))
    run_chain(outlook, options, executor, context, before_replacing=before_replacing)
    return _recorded(outlook, options, context)


def continue_run(
    run: Run | str, context: Context | None = None, *, executor: Executor | None = None, stage: str | None = None
) -> Run:
    """Do what is left in a recorded run and return the record.

    Args:
        run: record, or TARGET/NAME, NAME alone or the run folder. A changed record trains on other devices.
        context: progress, and worker processes; None for as many processes as recorded.
        executor: who runs the stages; None for this process, one stage after the other.
        stage: key for the only stage to do, here; the previous stage must be finished. None for all.

    Raises as `train_chain`, and StageError for an unknown run or stage.
    """
    run = run if isinstance(run, Run) else read_run(find_run(run))
    context = context or Context(processes=run.processes)
    executor = executor or LocalExecutor()
    options = run.options
    outlook = look_ahead(run.request, context, options=options, check=lambda: executor.check(options))
    if stage is None:
        run_chain(outlook, options, executor, context)
        return _recorded(outlook, options, context)
    found = [one for one in outlook.stages if one.key == stage]
    if not found:
        keys = ", ".join(one.key for one in outlook.stages)
        raise StageError(f"the run has no stage {stage!r}; choose from: {keys}")
    run_stage(outlook, found[0], context, wait=isinstance(executor, LocalExecutor) and executor.wait)
    return run


def prepare_run(run: Run, context: Context) -> None:
    """Preprocess what the sources that are left to train need, and train nothing."""
    prepare_data(look_ahead(run.request, context, options=run.options), context)


@one_pool()
def look_ahead(
    request: ChainRequest,
    context: Context = Context(),
    *,
    options: DeviceOptions = DeviceOptions(),
    check: Callable[[], None] | None = None,
    exclusions: Exclusions | None = None,
) -> Outlook:
    """Return what would happen to a chain. Write nothing but what is known about cases, so that the next call is quick.

    Args:
        request, context, options: as in `train_chain`.
        check: called unless nothing is left to do, before the minutes-long search for shared patients; may raise.
        exclusions: cases to exclude from the sources if they are known; None to search for shared patients.

    Raises a SeqTransferError with every problem that would stop the chain later.
    """
    survey = take_survey(request, options, context)
    is_known = exclusions is not None or request.overlap != "exclude"
    outlook = _outlook(survey, exclusions or {})
    errors = list(outlook.problems if is_known else outlook.request_problems)
    is_checked = check is not None and not outlook.is_finished and not _is_finished_without_shared(survey)
    if check is not None and is_checked:
        with collecting(errors):
            check()
    raise_collected(errors)
    if not outlook.is_finished and not _is_finished_without_shared(survey):
        _check_datasets(outlook, context)
    if exclusions is None:
        exclusions = find_exclusions(request, survey.tasks, survey.target_plans, context)
        outlook = _outlook(survey, exclusions) if exclusions else outlook
        raise_collected(outlook.problems)
    if check is not None and not is_checked and not outlook.is_finished:
        check()
    return _with_initial_weights(outlook)


def _outlook(survey: Survey, exclusions: Exclusions) -> Outlook:
    """Decide about the stages, if all tasks could be read; otherwise about the request alone."""
    names = {survey.request.target, *survey.request.datasets}
    return decide(survey.with_stages(exclusions) if names <= survey.tasks.keys() else survey)


def _check_datasets(outlook: Outlook, context: Context) -> None:
    """Check every case of the datasets that will be trained on. Raise all problems together."""
    errors: list[SeqTransferError] = []
    for name in dict.fromkeys(name for stage in outlook.unfinished for name in stage.datasets):
        try:
            check_dataset(name, context)
        except (DatasetError, Problems) as error:  # a full disk ends the command at once
            errors.append(error)
    raise_collected(errors)


def _is_finished_without_shared(survey: Survey) -> bool:
    """Return True if the chain is finished under the names it has if some cases are excluded.

    Before the search for shared patients it is unknown whether there are any, but a finished chain needs no devices.
    """
    request = survey.request
    if request.overlap != "exclude" or not request.datasets:
        return False
    return _outlook(survey, {fold: {request.datasets[0]: ("any",)} for fold in request.folds}).is_finished


def _with_initial_weights(outlook: Outlook) -> Outlook:
    """Add what the stages that start next get from their checkpoints, by names and shapes. Raise what does not fit."""
    errors: list[SeqTransferError] = []
    initial, seen = {}, set[Path]()
    for stage in outlook.unfinished:
        if stage.weights not in seen:
            with collecting(errors):
                found = initial_weights(outlook, stage, check_only=True)
                if found is not None:
                    initial[stage] = found
        seen.add(stage.weights)
    raise_collected(errors)
    return replace(outlook, initial=initial)


def _recorded(outlook: Outlook, options: DeviceOptions, context: Context) -> Run:
    """Return a run's record; write it if a finished chain has none."""
    try:
        return read_run(outlook.folder)
    except RecordError:
        return write_run(outlook.request, outlook.stages, options, context.processes)

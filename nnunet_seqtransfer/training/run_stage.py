"""Do one stage, or prepare all data: decided again under the stage's lock, so that no work is done twice."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError, raise_collected
from nnunet_seqtransfer.storage import disk_errors_as_user_errors
from nnunet_seqtransfer.training.actions import DONE, Action
from nnunet_seqtransfer.training.decide import Outlook, decide, has_mix
from nnunet_seqtransfer.training.initial import initial_weights, mixed_datasets, write_initial
from nnunet_seqtransfer.training.job import Job, stage_job
from nnunet_seqtransfer.training.locks import locked, locked_in_turn, require_free, training_lock
from nnunet_seqtransfer.training.prepare import (
    mend_results,
    prepare_source,
    prepare_target,
    write_data_plans,
    write_stage_plans,
)
from nnunet_seqtransfer.training.recipe import Init, StageBlock
from nnunet_seqtransfer.training.recovery import recover
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import run_job


def run_stage(
    outlook: Outlook, stage: Stage, context: Context, *, train: Callable[[Job], None] = run_job, wait: bool = False
) -> None:
    """Do what is left in one stage after the previous stage has finished.

    Args:
        outlook: what the chain needs, as decided before the lock was taken.
        stage: stage in that chain.
        context: progress, and worker processes for preprocessing.
        train: runs the command of a training to its end.
        wait: whether to wait for another process that works on this stage, instead of an error.

    Raises StageError if the previous stage is not finished, another process works on this stage or has trained it
    differently since, or the training fails.
    """
    title = outlook.title(stage)
    if outlook.actions[stage] in DONE:
        context.notify(f"{title} {outlook.actions[stage].value}")
        if outlook.actions[stage] is Action.NOTHING:
            mend_results(stage, outlook.survey.tasks[stage.dataset])
        return
    lock: Callable[..., AbstractContextManager[None]] = locked_in_turn if wait else locked
    with disk_errors_as_user_errors(stage.output), lock(stage.files.lock, title, context.notify):
        require_free(training_lock(stage.output), title, context.notify)
        now = read_again(outlook, stage)
        action = now.actions[stage]
        context.notify(f"{title} {action.value}")
        if action in DONE:  # another process has finished it since the first look
            return
        _prepare(now, stage, context)
        recover(stage, action, context.notify)
        # stale: the final checkpoint was deleted, or --npz was added; the next validation rewrites it
        stage.files.summary.unlink(missing_ok=True)
        left = partial(now.seconds_left, stage)
        train(stage_job(stage, action, now.survey.options, title, now.log(stage), now.cases_left(stage), left))


def read_again(outlook: Outlook, stage: Stage) -> Outlook:
    """Return the outlook with a stage and the one before it read again. Raise what is wrong with that stage now."""
    previous = outlook.previous(stage)
    now = decide(outlook.survey.read_again([stage] if previous is None else [previous, stage]))
    raise_collected((*now.survey.problems, *(now.stage_problems or {}).get(stage, ())))
    return now


def prepare_data(outlook: Outlook, context: Context) -> None:
    """Preprocess what the sources that are left to train need, in order. Nothing else is written."""
    survey = outlook.survey
    for name in outlook.to_preprocess:
        prepare_source(survey.tasks[name], survey.aligned[name], survey.request.configuration, context)


def _prepare(outlook: Outlook, stage: Stage, context: Context) -> None:
    """Prepare data, plans and starting weights for a stage that will train or validate."""
    survey = outlook.survey
    if stage.role == "target":
        prepare_target(survey.tasks[stage.dataset], survey.plans[stage], stage, outlook.request.plans)
    for name in (name for name in stage.datasets if name != stage.target):
        prepare_source(survey.tasks[name], survey.aligned[name], stage.configuration, context)
    for one in stage.mixed:
        write_data_plans(one, survey.aligned[one.dataset], stage.configuration, context.notify)
    # All folds and configurations share the plans file, most folds the weights: two may start at the same time.
    with locked_in_turn(stage.files.plans_lock, f"plans {stage.plans_name}", context.notify):
        if outlook.actions[stage] is Action.START:
            outlook = read_again(outlook, stage)
        write_stage_plans(stage.files, survey.plans[stage], _block(outlook, stage, context))


def _block(outlook: Outlook, stage: Stage, context: Context) -> StageBlock:
    """Return the stage's block. If the stage starts, the weights are made unless they exist."""
    on_disk = outlook.survey.on_disk[stage]
    known = on_disk.block
    block = StageBlock(
        target=stage.target,
        path=stage.path,
        role=stage.role,
        recipe=stage.recipe,
        init=known.init if known else None,
        excluded=stage.excluded,
        fold=stage.fold if stage.has_own_weights else None,
        pretrained=stage.pretrained,
        keep_heads=stage.keep_heads,
        mixed=known.mixed if known and has_mix(stage, on_disk) else mixed_datasets(outlook, stage),
    )
    init = _new_weights(outlook, stage, context) if outlook.actions[stage] is Action.START else None
    return block if init is None else replace(block, init=init)


def _new_weights(outlook: Outlook, stage: Stage, context: Context) -> Init | None:
    """Write the weights that a stage starts from; None if it needs none, or they exist already."""
    previous = outlook.previous(stage)
    if previous is not None and not outlook.survey.on_disk[previous].final and outlook.weights_are_stale(stage):
        raise StageError(
            f"{outlook.title(stage)} begins with the weights of {previous.output}, which is not trained yet; run "
            "nnUNetv2_seq_train, or nnUNetv2_seq_continue without -stage, which trains all in their order"
        )
    initial = initial_weights(outlook, stage)
    if initial is None:
        return None
    if initial.match.heads:
        context.notify(initial.match.heads.words)
    return write_initial(initial, stage)

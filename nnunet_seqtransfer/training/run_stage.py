"""Do one stage, decided again under its lock: data, starting weights or a sound checkpoint, and the training."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.errors import CheckpointError, StageError, raise_collected
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, sha256
from nnunet_seqtransfer.training.actions import DONE, Action
from nnunet_seqtransfer.training.decide import Outlook, decide, has_mix, weights_fit
from nnunet_seqtransfer.training.job import Job, stage_job
from nnunet_seqtransfer.training.locks import locked, locked_in_turn, require_free, training_lock
from nnunet_seqtransfer.training.on_disk import fault_of
from nnunet_seqtransfer.training.prepare import (
    mend_results,
    prepare_source,
    prepare_target,
    write_data_plans,
    write_stage_plans,
)
from nnunet_seqtransfer.training.recipe import Init, MixedDataset, StageBlock
from nnunet_seqtransfer.training.stage_files import BEST, FINAL, LATEST, PREVIOUS, UNFINISHED
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import run_job
from nnunet_seqtransfer.transfer.handoff import InitialWeights, from_model, from_stage


def run_stage(
    outlook: Outlook, stage: Stage, context: Context, *, train: Callable[[Job], None] = run_job, wait: bool = False
) -> None:
    """Do what is left in one stage after the previous stage has finished.

    ``outlook`` was decided before the lock was taken. ``train`` runs the command of a training to its end. ``wait``:
    wait for another process that works on this stage, instead of an error.

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


def initial_weights(outlook: Outlook, stage: Stage, *, check_only: bool = False) -> InitialWeights | None:
    """Return the weights that a stage starts from; None if they exist, are not needed, or the source is not trained.

    ``check_only``: compare names and shapes only, and return no weights.

    Raises CheckpointError if the checkpoint is damaged or does not fit the network.
    """
    survey, previous, model = outlook.survey, outlook.previous(stage), outlook.request.pretrained
    if outlook.actions[stage] is not Action.START:
        return None
    if previous is None:
        if model is None or weights_fit(stage, survey.on_disk[stage]):
            return None
        return from_model(model, outlook.network(stage), outlook.request.min_coverage, check_only=check_only)
    if not survey.on_disk[previous].final or not outlook.weights_are_stale(stage):
        return None
    return from_stage(
        previous.files.final,
        survey.tasks[previous.dataset],
        outlook.network(stage),
        outlook.match(stage),
        check_only=check_only,
    )


def mixed_datasets(outlook: Outlook, stage: Stage) -> tuple[MixedDataset, ...]:
    """Return the further datasets of a stage that starts, with their channels and heads.

    A dataset that an earlier stage of the chain was for continues with the heads of that stage.
    """
    mixed = []
    for one in stage.mixed:
        completed = replace(one, channels=outlook.fed_channels(stage, one.dataset))
        earlier = outlook.previous(stage)
        while earlier is not None and earlier.dataset != one.dataset:
            earlier = outlook.previous(earlier)
        if earlier is not None and earlier.files.final.is_file():
            heads = str(earlier.files.final.relative_to(results_folder()))
            completed = replace(completed, heads=heads, heads_sha256=sha256(earlier.files.final))
        mixed.append(completed)
    return tuple(mixed)


def write_initial(initial: InitialWeights, stage: Stage) -> Init:
    """Write the weights that a stage starts from, and return their record."""
    from nnunet_seqtransfer.transfer.checkpoints import write_weights  # noqa: PLC0415 - imports torch

    # checkpoints of stages are recorded relative to nnUNet_results, which may be moved; models of others are not
    from_stage_before = len(stage.path) > 1
    origin = str(Path(initial.origin).relative_to(results_folder())) if from_stage_before else initial.origin
    return Init(
        checkpoint=origin,
        checkpoint_sha256=initial.sha256,
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, initial.weights),
        coverage=initial.adaptation.coverage,
        channels=initial.match.channels,
        heads=initial.match.heads.indices if initial.match.heads else None,
    )


def recover(stage: Stage, action: Action, notify: Notify) -> None:
    """Leave only checkpoints in a stage's folder that nnU-Net can load, under the names that it looks for.

    Truncated checkpoints are renamed to ``NAME.damaged``. If the training resumes, so are checkpoints in which a byte
    has changed, and the previous checkpoint replaces a latest one that is damaged or missing.

    Raises StageError if the training should resume and no checkpoint is left.
    """
    if action is not Action.RESUME:
        for name in (FINAL, *UNFINISHED):
            _is_kept(stage.output / name, notify, deeply=False)
        return
    latest, best, previous = (_is_kept(stage.output / name, notify, deeply=True) for name in (LATEST, BEST, PREVIOUS))
    _is_kept(stage.output / FINAL, notify, deeply=False)
    if not (latest or best or previous):
        raise StageError(
            f"every checkpoint in {stage.output} is damaged and was renamed; run the same command again to train this "
            "stage from its start"
        )
    # nnU-Net resumes from the latest checkpoint, otherwise from the best. The latest is never older than the previous
    # one, but the best may be of any epoch: it must not win over a previous checkpoint that is further.
    if not latest and previous and (not best or _epoch(stage.output / PREVIOUS) > _epoch(stage.output / BEST)):
        notify(f"{stage.output / LATEST} is not there; the training resumes from {PREVIOUS}")
        (stage.output / PREVIOUS).replace(stage.output / LATEST)


def _is_kept(path: Path, notify: Notify, *, deeply: bool) -> bool:
    """Return True if a checkpoint exists and is sound; rename a damaged one."""
    if not path.is_file():
        return False
    fault = fault_of(path, deeply=deeply)
    if fault is not None:
        notify(f"{path} is {fault}; renamed to {path.name}.damaged")
        path.replace(path.with_name(path.name + ".damaged"))
    return fault is None


def _epoch(path: Path) -> int:
    from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint  # noqa: PLC0415 - imports torch

    try:
        return int(load_checkpoint(path)["current_epoch"])
    except (CheckpointError, KeyError, TypeError, ValueError):  # nnU-Net may be able to read it, but the epoch is lost
        return -1

"""One stage done, or the data of all: decided anew under its lock, so that whoever comes second finds it done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.datasets import write_missing_splits
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.storage import disk_errors_as_user_errors
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.job import DeviceOptions, Job, stage_job
from nnunet_seqtransfer.training.locks import locked, locked_in_turn, require_free, training_lock
from nnunet_seqtransfer.training.prepare import preprocess_missing, require_own_plans, write_stage_plans
from nnunet_seqtransfer.training.recipe import Init, StageBlock
from nnunet_seqtransfer.training.recovery import recover
from nnunet_seqtransfer.training.repair import (
    copy_dataset_json,
    copy_references,
    mend_results,
    remove_cut_off,
    require_whole_cases,
)
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.state import Action, StageState, action_of, inspect, require_same, require_same_origin
from nnunet_seqtransfer.training.supervise import run_job
from nnunet_seqtransfer.transfer.checkpoints import write_weights
from nnunet_seqtransfer.transfer.handoff import InitialWeights

Notify = Callable[[str], None]


def run_stage(
    chain: Chain,
    stage: Stage,
    options: DeviceOptions,
    processes: int,
    notify: Notify,
    *,
    train: Callable[[Job], None] = run_job,
    wait: bool = False,
) -> None:
    """Does what is left of one stage whose previous stage is finished.

    Args:
        chain, stage: what is done.
        options: where it is trained.
        processes: at most so many worker processes preprocess.
        notify: is told in a line what happens.
        train: runs the training's command to its end.
        wait: whether to wait for another process that is at this stage, rather than to say so and stop.

    Raises StageError where the stage before is not finished, another process is at this one or has trained it otherwise
    meanwhile, or the training fails.
    """
    if chain.actions[stage] in (Action.NOTHING, Action.NOT_NEEDED):
        notify(f"{chain.title(stage)} {chain.actions[stage].value}")
        if chain.actions[stage] is Action.NOTHING:
            mend_results(stage, chain.tasks[stage.dataset])
        return
    lock: Callable[..., AbstractContextManager[None]] = locked_in_turn if wait else locked
    with disk_errors_as_user_errors(stage.output), lock(stage.lock, chain.title(stage), notify):
        require_free(training_lock(stage.output), chain.title(stage), notify)
        state = inspect(stage)
        _require_same(chain, stage, state)
        action = action_of(stage, state, options.npz)
        notify(f"{chain.title(stage)} {action.value}")
        if action is Action.NOTHING:  # another process has finished it since this one looked
            return
        _prepare(chain, stage, state, action, processes, notify)
        recover(stage, action, notify)
        # of a final checkpoint that is gone, or without softmax outputs: the validation to come writes a new one
        (stage.output / "validation" / "summary.json").unlink(missing_ok=True)
        train(stage_job(stage, action, options, chain.title(stage), chain.log(stage)))


def _require_same(chain: Chain, stage: Stage, state: StageState) -> None:
    """Raises StageError where another command has trained this stage otherwise since the chain was looked at."""
    require_same(stage, state)
    require_own_plans(stage, state, chain.plans[stage])
    previous = chain.previous(stage)
    if previous is not None and state.has_begun:
        require_same_origin(stage, state, previous)


def prepare_data(chain: Chain, processes: int, notify: Notify) -> None:
    """Preprocesses what the source stages that are left will read, in their order; nothing else is written."""
    for stage in chain.stages:
        if stage.dataset in chain.cases_to_preprocess:
            _prepare_data(chain, stage, processes, notify)


def _prepare_data(chain: Chain, stage: Stage, processes: int, notify: Notify) -> None:
    task, plans = chain.tasks[stage.dataset], chain.plans[stage]
    copy_dataset_json(task)
    if stage.role == "target":
        copy_references(task)
        require_whole_cases(task, plans, chain.request.plans, stage.configuration)
        if stage.fold != "all":
            folder = data_folder(task.dataset, plans, stage.configuration)
            write_missing_splits(task.dataset, preprocessed_cases(folder))
        return
    folder = data_folder(task.dataset, plans, stage.configuration)
    with locked_in_turn(folder.with_name(f".{folder.name}.lock"), f"preprocessing of {task.dataset}", notify):
        remove_cut_off(task, plans, stage.configuration, notify)
        preprocess_missing(task, plans, stage.configuration, processes)


def _prepare(chain: Chain, stage: Stage, state: StageState, action: Action, processes: int, notify: Notify) -> None:
    """Plans, data and starting weights of a stage that will train or validate.

    All folds and configurations share the plans file, folds mostly the weights: the second lock is for two that begin
    at the same time.
    """
    _prepare_data(chain, stage, processes, notify)
    with locked_in_turn(stage.plans_lock, f"plans {stage.plans_name}", notify):
        state = inspect(stage) if action is Action.START else state
        write_stage_plans(stage, chain.plans[stage], _block(chain, stage, state, action, notify))


def _block(chain: Chain, stage: Stage, state: StageState, action: Action, notify: Notify) -> StageBlock:
    """The stage's block; where it starts, the weights that it starts from are made if they are not there."""
    block = StageBlock(
        target=stage.target,
        path=stage.path,
        role=stage.role,
        recipe=stage.recipe,
        init=state.block.init if state.block else None,
        excluded=stage.excluded,
        fold=stage.fold if stage.has_own_weights else None,
        landmark=stage.landmark,
        keep_heads=stage.keep_heads,
    )
    if action is not Action.START:
        return block
    previous, initial = chain.previous(stage), None
    if previous is not None and chain.weights_are_stale(previous, stage, state):
        if not inspect(previous).final:
            raise StageError(
                f"{chain.title(stage)} begins with the weights of {previous.output}, which is not trained yet; run "
                "nnUNetv2_seq_train, or nnUNetv2_seq_continue without -stage, which trains all in their order"
            )
        initial = chain.from_previous(previous, stage)
    elif previous is None:
        initial = chain.from_model(stage, state)
    if initial is None:
        return block
    if initial.match.heads:
        notify(initial.match.heads.words)
    return replace(block, init=write_initial(initial, stage))


def write_initial(initial: InitialWeights, stage: Stage) -> Init:
    """Write the weights that ``stage`` starts from. Return their record."""
    checkpoint = Path(initial.origin)
    if checkpoint.is_relative_to(results_folder()) and len(stage.path) > 1:  # stages move with nnUNet_results
        checkpoint = checkpoint.relative_to(results_folder())
    return Init(
        checkpoint=str(checkpoint),
        checkpoint_sha256=initial.sha256,
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, initial.weights),
        coverage=initial.adaptation.coverage,
        channels=initial.match.channels,
        heads=initial.match.heads.indices if initial.match.heads else None,
    )

"""Compare paths to one target: train what is left, evaluate, and write the record after every trial."""

from collections.abc import Mapping

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.comparison import (
    CompareRequest,
    Comparison,
    ModelScores,
    read_comparison,
    write_comparison,
)
from nnunet_seqtransfer.evaluation.held_out import predict
from nnunet_seqtransfer.evaluation.statistics import differences, direct_dice, measurements, rankings
from nnunet_seqtransfer.evaluation.trials import CompareSurvey, Trial, load_trial, survey_comparison
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.nnunet.validation import SUMMARY, CaseDice, evaluate_folder, mean_dice, read_summary
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.training.executors import Executor, LocalExecutor, run_chain
from nnunet_seqtransfer.training.stages import Stage


def compare_paths(request: CompareRequest, context: Context) -> Comparison:
    """Train several paths to one target with equal target iterations, evaluate them on unseen cases, and compare.

    What earlier calls have finished is not repeated. The record is written after every trial.

    Raises a SeqTransferError if the request makes no sense or a training fails; the record then holds what is finished.
    """
    return run_comparison(survey_comparison(request, context), context)


def run_comparison(survey: CompareSurvey, context: Context, executor: Executor | None = None) -> Comparison:
    """Train, predict and evaluate what is left, trial by trial; see `compare_paths`.

    Finished trials are evaluated first, so that an interruption removes nothing from the record.
    """
    executor = executor or LocalExecutor()
    devices = survey.request.devices
    _announce_dropped(survey, context)
    found: dict[Trial, tuple[ModelScores, ...]] = {}  # in the order of work; the record has the order of the trials
    comparison = _record(survey, found)
    order = sorted(survey.chains, key=lambda trial: not survey.chains[trial].is_finished)
    for number, trial in enumerate(order, 1):
        chain = survey.chains[trial]
        if not chain.is_finished:
            context.notify(f"{trial.title} ({number} of {len(order)})")
            # load it again: earlier trials have trained stages that this one shares
            chain = load_trial(survey.base, trial, survey.exclusions, devices, context)
        if not chain.is_finished:
            run_chain(chain, devices, executor, context, before_replacing=require_nothing_queued)
        found[trial] = tuple(
            ModelScores(trial.arm.name, stage.fold, trial.seed, _scores(survey, stage, context))
            for stage in chain.stages
            if stage.role == "target"
        )
        comparison = _record(survey, found)
        write_comparison(survey.path, comparison, measurements(comparison))
        context.notify(f"{trial.title}: Dice {mean_dice(one for model in found[trial] for one in model.cases):.3f}")
    return comparison


def _announce_dropped(survey: CompareSurvey, context: Context) -> None:
    """Report paths and seeds in an earlier record that this call does not ask for."""
    try:
        earlier = read_comparison(survey.path)
    except RecordError:  # missing or unreadable: nothing to drop
        return
    dropped = [arm.name for arm in earlier.arms if arm.name not in {one.name for one in survey.arms}]
    dropped += [f"seed {seed}" for seed in earlier.seeds if seed not in survey.request.seeds]
    if dropped:
        context.notify(
            f"{survey.path} is replaced without {', '.join(dropped)}, which this call does not ask for; a call that "
            "asks for all of them brings them back without training them again"
        )


def _scores(survey: CompareSurvey, stage: Stage, context: Context) -> tuple[CaseDice, ...]:
    """Return one model's Dice by nnU-Net, on the final validation or on the predicted test set."""
    content = survey.task.dataset_json
    if survey.test is None:
        return read_summary(stage.output / "validation" / SUMMARY, foreground_labels(content), content["file_ending"])
    request, folder = survey.request, survey.path.parent
    mirroring = request.mirroring
    references, predictions = predict(survey.test, stage, folder, request.devices.device, context, mirroring=mirroring)
    return evaluate_folder(references, predictions, survey.reader_writer, content, context.processes)


def _record(survey: CompareSurvey, found: Mapping[Trial, tuple[ModelScores, ...]]) -> Comparison:
    """Return the record with all finished trials, in training order."""
    scores = tuple(model for trial in survey.chains for model in found.get(trial, ()))
    return Comparison(
        target=survey.base.target,
        plans=survey.base.plans,
        configuration=survey.base.configuration,
        folds=survey.base.folds,
        seeds=tuple(dict.fromkeys(survey.request.seeds)),
        test_set=None if survey.test is None else survey.test.name,
        cases=survey.cases,
        budget=survey.budget,
        arms=survey.arms,
        scores=scores,
        differences=differences(survey.arms, scores),
        rankings=rankings(survey.affinities, direct_dice(survey.arms, scores)),
        provenance=survey.provenance,
    )

"""A run in sentences: the decision, its reasons, the result, and whether it beats training from scratch."""

import importlib.metadata
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.affinity.sources import AUTO_CASES, SIGNATURE_ENDING
from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.nnunet.validation import case_dice, label_means, mean_dice
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file
from nnunet_seqtransfer.report import words
from nnunet_seqtransfer.report.comparison_text import evaluated_on
from nnunet_seqtransfer.report.findings import Findings, StageFound
from nnunet_seqtransfer.report.plan_text import sentences
from nnunet_seqtransfer.report.status_text import predict_commands
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.path_syntax import members
from nnunet_seqtransfer.training.command import seq_train_command
from nnunet_seqtransfer.training.run_record import RECORD, Run

FEW_CASES = 10


def decision(found: Findings) -> str:
    """Return what is trained and why, in one sentence."""
    request = found.run.request
    begin = f", starting from the weights of {request.pretrained.file.name}" if request.pretrained else ""
    together = [" together with ".join(members(element)) for element in request.path]
    alone = (" alone" if request.sources == () else "") if begin else " from scratch"
    after = f" after {' and then '.join(together[:-1])}" if together[:-1] else alone
    replayed = f", which keep {words.percent(request.replay)} of the batches of later stages" if request.replay else ""
    return f"{together[-1]} is trained{after}{replayed}{begin}{_reason(found)}."


def _reason(found: Findings) -> str:
    """Return why, to complete the sentence."""
    if found.plan is None:
        return ", as requested: there is no plan for this target"
    if not found.follows_plan:
        planned = found.plan.starred(found.plan.path)
        proposed = words.path_words(planned) if found.plan.sources else "scratch"
        return f", as requested: the plan proposes {proposed}"
    if not found.plan.sources:
        return ": no source is expected to help"
    chosen = found.plan.chosen
    gain = words.interval(chosen.gain, chosen.low, chosen.high, "+")
    return f": expected gain over scratch {gain} Dice, chance of harm {words.percent(chosen.harm)}"


def reasons(found: Findings) -> list[str]:
    """Return the plan's own reasons. What the plan would take to train is left out: the run has its own recipe."""
    if found.plan is None:
        return []
    return [words.arrows(line) for line in sentences(found.plan) if not line.startswith("To train: ")]


def result(found: Findings) -> str:
    """Return what the run has reached so far, in a sentence or two."""
    done = sum(stage.is_finished for stage in found.stages)
    progress = f"{done} of {words.counted(len(found.stages), 'stage')} finished"
    if not found.cases:
        return f"{progress}; no fold of the target has been validated yet."
    few = " With so few cases this is a rough figure." if len(found.cases) < FEW_CASES else ""
    return f"Dice {words.decimals(mean_dice(case_dice(found.cases)))} {_evaluated_on(found)}; {progress}.{few}"


def results_text(run: Run, found: Findings | None, report: Path | None) -> str:
    """Return what a finished run has reached, if that could be read, and what to do next: lines for the terminal."""
    commands = predict_commands(run)
    lines = [f"done: {results_folder() / folder}" for folder in commands]
    if found is None:
        pass
    elif found.trained_on_cases:
        lines.append("no Dice: fold all holds no case out")
    elif found.cases:
        means = label_means(case_dice(found.cases)).items()
        labels = ", ".join(f"{label} {words.decimals(value)}" for label, value in means)
        lines.append(f"Dice {words.decimals(mean_dice(case_dice(found.cases)))} {_evaluated_on(found)}: {labels}")
        verdict, scratch = against_scratch(found)
        lines += [f"compare with scratch: {scratch}"] if scratch else [verdict] if verdict else []
    lines += [f"report: {report}"] if report else []
    return "\n".join([*lines, *(f"predict with: {command}" for command in commands.values())])


def _evaluated_on(found: Findings) -> str:
    cases = words.counted(len(found.cases), "case")
    if found.trained_on_cases:
        return f"on the training cases themselves ({cases}), since fold all holds none out"
    folds = list(dict.fromkeys(case.fold for case in found.cases))
    request = found.run.request
    shared = ", some of which sources may hold" if request.overlap == "allow" and request.sources else ""
    return f"in the validation of fold{'' if len(folds) == 1 else 's'} {words.listed(folds)} ({cases}{shared})"


def against_scratch(found: Findings) -> tuple[str, str]:
    """Return whether the run beats training from scratch, and the command that finds out ("" if it is known).

    Without sources there is nothing to compare: both are empty.
    """
    request = found.run.request
    if not request.sources and request.pretrained is None:
        return "", ""
    for comparison in found.comparisons:
        entry = _difference(found, comparison)
        if entry is not None:
            where = f" on the test set {comparison.test_set}" if comparison.test_set else ""
            told = words.interval(entry.mean, entry.low, entry.high, "+")
            return f"Dice {told} against scratch{where}, over {words.counted(entry.cases, 'case')}.", ""
    if found.scratch:
        both = {(case.case, case.fold) for case in found.scratch}
        ours = [case for case in found.cases if (case.case, case.fold) in both]
        difference = mean_dice(case_dice(ours)) - mean_dice(case_dice(found.scratch))
        cases = words.counted(len(both), "case")
        return f"Dice {words.decimals(difference, sign='+')} against scratch, over {cases}, one training each.", ""
    scratch = replace(request, sources=(), source_recipes=(), pretrained=None, replay=0.0)
    command = seq_train_command(scratch, found.run.options)
    return "Whether this beats training from scratch is unknown. To find out, train from scratch too:", shlex.join(
        command
    )


def _difference(found: Findings, comparison: Comparison) -> Difference | None:
    """Return the difference in Dice between the run's path and scratch."""
    start = found.run.request.sources, found.run.request.pretrained
    own = {arm.name for arm in comparison.arms if (arm.sources, arm.model) == start and not arm.extra_epochs}
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    return next((one for one in comparison.differences if one.arm in own and one.against in scratch), None)


def comparison_words(comparison: Comparison) -> str:
    """Return what was compared, on which cases, and whether it is complete."""
    state = "complete" if comparison.complete else "not complete yet"
    arms, seeds = words.counted(len(comparison.arms), "path"), words.counted(len(comparison.seeds), "seed")
    return f"{arms} to this target, trained alike with {seeds}; {state}. Scores are of {evaluated_on(comparison)}."


def stage_states(stages: Sequence[StageFound]) -> list[tuple[str, bool]]:
    """Return each state in words, and whether the stage is finished."""
    told = []
    for stage in stages:
        fold = f"fold {stage.entry.fold}: " if stage.role == "target" else ""
        left_out = stage.entry.excluded_count
        without = f" (without {words.counted(left_out, 'shared case')})" if left_out else ""
        told.append((f"{fold}{stage.status}{without}", stage.is_finished))
    return told


PACKAGES = ("nnunet-seqtransfer", "nnunetv2", "torch", "numpy", "SimpleITK", "batchgenerators", "acvl-utils")


def versions() -> dict[str, str]:
    """Return the versions of Python and packages that are installed while the report is made."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts(found: Findings) -> list[tuple[str, str]]:
    """Return terms and values: the run, devices, seeds, constants, versions."""
    run = found.run
    told = [
        ("run", run.name),
        ("recorded", f"{run.started} by nnunet-seqtransfer {run.version}"),
        ("device", run.options.device + (f", {run.options.gpus} at once" if run.options.gpus > 1 else "")),
    ]
    told += [("trained on", machine) for machine in _machines(found)]
    seeds = dict.fromkeys(str(stage.entry.recipe.seed) for stage in found.stages)
    told.append(("seed of the trainings", ", ".join(seed.replace("None", "none") for seed in seeds)))
    if found.affinity is not None:
        told.append(("seed of the affinity", str(found.affinity.seed)))
        weights = ", ".join(f"{name} {weight:.4g}" for name, weight in found.affinity.combination.weights.items())
        told.append(("weights of the distance", f"{weights} (guesses)"))
    if found.plan is not None:
        told.append(("expected gains", f"fitted on {gain_origin(found.plan)}"))
    return [*told, ("installed now", ", ".join(f"{name} {version}" for name, version in versions().items()))]


def gain_origin(plan: SequencePlan) -> str:
    """Return what the expected gains were fitted on."""
    transfers, targets = plan.measured
    own = f", among them those of {plan.calibration}" if plan.calibration else ""
    return f"{transfers} measured transfers to {targets} targets{own}"


def files(found: Findings) -> list[tuple[str, str]]:
    """Return every file that the report rests on, relative to nnU-Net's folders, with the SHA-256."""
    # absolute paths would tell readers about this machine
    return [(words.without_folders(str(path)), sha256(path)) for path in dict.fromkeys(_files(found)) if path.is_file()]


def commands(found: Findings) -> list[tuple[str, str]]:
    """Return the commands that repeat what was done, each with what it does."""
    request = found.run.request
    key = ["-t", str(dataset_id(request.target)), "-c", request.configuration]
    key += ["-p", request.plans] if request.plans != DEFAULT_PLANS else []
    made = []
    if found.affinity is not None:
        made.append(_affinity_command(found.affinity, key))
    if found.follows_plan and found.plan is not None:
        made.append(_plan_command(found.plan, key))
    made.append(("Train", seq_train_command(request, found.run.options)))
    made.append(("Continue this run", ["nnUNetv2_seq_continue", found.run.name]))
    return [
        *((what, shlex.join(command)) for what, command in made),
        *(("Predict", command) for command in predict_commands(found.run).values()),
    ]


def _affinity_command(affinity: Affinity, key: list[str]) -> tuple[str, list[str]]:
    """Return the affinity command. Files that it needs are named after their content, and listed in words."""
    elsewhere = [task.dataset for task in affinity.tasks[:-1] if not task.registered]
    here = [str(dataset_id(task.dataset)) for task in affinity.tasks[:-1] if task.registered]
    sources = ["-s", *here, *(f"{name}{SIGNATURE_ENDING}" for name in elsewhere)]
    cases = "auto" if affinity.cases == AUTO_CASES else str(affinity.cases)
    own = ["-m", affinity.metric, "-n_cases", cases, "-seed", str(affinity.seed)]
    needed = f" (with the signature file{'s' * (len(elsewhere) > 1)} of {words.listed(elsewhere)})" if elsewhere else ""
    return f"Measure the distances{needed}", ["nnUNetv2_seq_affinity", *key, *sources, *own]


def _plan_command(plan: SequencePlan, key: list[str]) -> tuple[str, list[str]]:
    needed, own = "the options in the record", list[str]()
    if plan.calibration:
        needed += f" and the file of the calibration {plan.calibration}"
        own = ["-calibration", f"{plan.calibration}.json"]
    return f"Plan (with {needed})", ["nnUNetv2_seq_plan", *key, "-m", plan.metric, *own]


def _machines(found: Findings) -> list[str]:
    """Return what nnU-Net noted about each different machine that trained."""
    told = []
    for stage in found.stages:
        noted = {key: stage.machine.get(key) for key in ("gpu_name", "torch_version", "cudnn_version")}
        # nnU-Net writes "None" without a GPU
        parts = [f"{key.replace('_', ' ')} {value}" for key, value in noted.items() if value not in (None, "None")]
        if parts:
            told.append(", ".join(parts))
    return list(dict.fromkeys(told))


def _files(found: Findings) -> Iterator[Path]:
    request = found.run.request
    yield found.run.folder / RECORD
    yield plan_file(request.target, request.plans, request.configuration)
    if found.affinity_file is not None:
        yield found.affinity_file
    for stage in found.stages:
        yield stage.entry.files.plans
        if stage.disk.block is not None and stage.disk.block.init is not None:
            yield results_folder() / stage.disk.block.init.weights
        yield stage.entry.files.final

"""Where everything on the page comes from: versions, seeds, machines, files with their checksums, commands."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Iterator
from pathlib import Path

from nnunet_seqtransfer.affinity.measure import AUTO_CASES
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.affinity.sources import SIGNATURE_ENDING
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.planning.record import SequencePlan, plan_path
from nnunet_seqtransfer.report.page.findings import Findings
from nnunet_seqtransfer.report.page.methods import constants_origin
from nnunet_seqtransfer.report.page.naming import listed
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.command import seq_train_command
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import TRAINER

PACKAGES = ("nnunet-seqtransfer", "nnunetv2", "torch", "numpy", "SimpleITK", "batchgenerators", "acvl-utils")


def versions() -> dict[str, str]:
    """Versions of what is installed where the report is made."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts(found: Findings) -> list[tuple[str, str]]:
    """What is worth knowing of the run, as pairs of a term and its value."""
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
        told.append(("weights of the distance", f"{weights} ({found.affinity.calibration or 'guesses'})"))
    if found.plan is not None:
        constants = ", ".join(f"{name} {value:.4g}" for name, value in found.plan.constants.items())
        told.append(("constants of the cost", f"{constants} ({constants_origin(found.plan)})"))
    told += [("installed now", ", ".join(f"{name} {version}" for name, version in versions().items()))]
    return told


def files(found: Findings) -> list[tuple[str, str]]:
    """Every file that the report rests on, relative to nnU-Net's folders, with its SHA-256."""
    roots = ("nnUNet_results", results_folder()), ("nnUNet_preprocessed", preprocessed_folder())
    entries = []
    for path in dict.fromkeys(_files(found)):
        if path.is_file():
            place = next(((name, root) for name, root in roots if path.is_relative_to(root)), None)
            shown = f"{place[0]}/{path.relative_to(place[1]).as_posix()}" if place else path.name
            entries.append((shown, sha256(path)))
    return entries


def commands(found: Findings) -> list[tuple[str, str]]:
    """Commands that repeat what was done, each with what it does."""
    request = found.run.request
    target = str(dataset_id(request.target))
    where = ["-t", target, "-c", request.configuration]
    where += ["-p", request.plans] if request.plans != DEFAULT_PLANS else []
    made = []
    if found.affinity is not None:
        made.append(_affinity_command(found.affinity, where))
    if found.follows_plan and found.plan is not None:
        made.append(_plan_command(found.plan, where))
    made.append(("Train", seq_train_command(request, found.run.options)))
    made.append(("Go on with this run", ["nnUNetv2_seq_continue", found.run.name]))
    last = found.run.stages[-1].plans_name if not found.stages else _target_plans(found)
    predict = ["nnUNetv2_predict", "-d", target, "-i", "IN", "-o", "OUT", "-tr", TRAINER, "-p", last]
    made.append(("Predict", [*predict, "-c", request.configuration, "-f", *request.folds]))
    return [(what, shlex.join(words)) for what, words in made]


def _affinity_command(affinity: Affinity, where: list[str]) -> tuple[str, list[str]]:
    """Files that it needs are named after what they hold; which these are is said in words."""
    elsewhere = [task.dataset for task in affinity.tasks[:-1] if not task.registered]
    here = [str(dataset_id(task.dataset)) for task in affinity.tasks[:-1] if task.registered]
    sources = ["-s", *here, *(f"{name}{SIGNATURE_ENDING}" for name in elsewhere)]
    cases = "auto" if affinity.cases == AUTO_CASES else str(affinity.cases)
    own = ["-m", affinity.metric, "-n_cases", cases, "-seed", str(affinity.seed), *_weights(affinity.calibration)]
    signatures = f"the signature file{'s' * (len(elsewhere) > 1)} of {listed(elsewhere)}" if elsewhere else ""
    needed = [part for part in (signatures, _weights_words(affinity.calibration)) if part]
    what = "Measure the distances" + (f" (with {listed(needed)})" if needed else "")
    return what, ["nnUNetv2_seq_affinity", *where, *sources, *own]


def _plan_command(plan: SequencePlan, where: list[str]) -> tuple[str, list[str]]:
    needed = ["the options in the record", *filter(None, [_weights_words(plan.calibration)])]
    what = f"Plan (with {listed(needed)})"
    return what, ["nnUNetv2_seq_plan", *where, "-m", plan.metric, *_weights(plan.calibration)]


def _weights(calibration: str | None) -> list[str]:
    """A calibration is called by the stem of its file."""
    return ["-calibration", f"{calibration}.json"] if calibration else []


def _weights_words(calibration: str | None) -> str:
    return f"the file of the calibration {calibration}" if calibration else ""


def _target_plans(found: Findings) -> str:
    return next(stage.entry.plans_name for stage in reversed(found.stages) if stage.is_target)


def _machines(found: Findings) -> list[str]:
    """What nnU-Net noted about each different machine that trained."""
    told = []
    for stage in found.stages:
        noted = {key: stage.machine.get(key) for key in ("gpu_name", "torch_version", "cudnn_version")}
        words = [f"{key.replace('_', ' ')} {value}" for key, value in noted.items() if value not in (None, "None")]
        if words:
            told.append(", ".join(words))
    return list(dict.fromkeys(told))


def _files(found: Findings) -> Iterator[Path]:
    request = found.run.request
    yield found.run.folder / RECORD
    yield plan_path(request.target, request.plans, request.configuration)
    if found.affinity_file is not None:
        yield found.affinity_file
    for stage in found.stages:
        yield plans_path(stage.entry.dataset, stage.entry.plans_name)
        if stage.block is not None and stage.block.init is not None:
            yield results_folder() / stage.block.init.weights
        yield stage.folder / FINAL

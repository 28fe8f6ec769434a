"""Origins of everything on the page: versions, seeds, machines, files with checksums, commands."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Iterator
from pathlib import Path

from nnunet_seqtransfer.affinity.measure import AUTO_CASES, SIGNATURE_ENDING
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file
from nnunet_seqtransfer.report.findings import Findings
from nnunet_seqtransfer.report.words import listed
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.command import seq_train_command
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stages import TRAINER

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
        told.append(("weights of the distance", f"{weights} ({found.affinity.calibration or 'guesses'})"))
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
    roots = ("nnUNet_results", results_folder()), ("nnUNet_preprocessed", preprocessed_folder())
    entries = []
    for path in dict.fromkeys(_files(found)):
        if path.is_file():
            root = next(((name, root) for name, root in roots if path.is_relative_to(root)), None)
            shown = f"{root[0]}/{path.relative_to(root[1]).as_posix()}" if root else path.name
            entries.append((shown, sha256(path)))
    return entries


def commands(found: Findings) -> list[tuple[str, str]]:
    """Return the commands that repeat what was done, each with what it does."""
    request, device = found.run.request, found.run.options.device
    target = str(dataset_id(request.target))
    key = ["-t", target, "-c", request.configuration]
    key += ["-p", request.plans] if request.plans != DEFAULT_PLANS else []
    made = []
    if found.affinity is not None:
        made.append(_affinity_command(found.affinity, key))
    if found.follows_plan and found.plan is not None:
        made.append(_plan_command(found.plan, key))
    made.append(("Train", seq_train_command(request, found.run.options)))
    made.append(("Continue this run", ["nnUNetv2_seq_continue", found.run.name]))
    plans = next(
        (stage.entry.plans_name for stage in found.stages if stage.role == "target"), found.run.stages[-1].plans_name
    )
    predict = ["nnUNetv2_predict", "-d", target, "-i", "INPUT_FOLDER", "-o", "OUTPUT_FOLDER", "-tr", TRAINER]
    predict += ["-p", plans, "-c", request.configuration, "-f", *request.folds]
    # nnU-Net predicts on a GPU by default and fails without one
    made.append(("Predict", [*predict, *(["-device", device] if device != "cuda" else [])]))
    return [(what, shlex.join(words)) for what, words in made]


def _affinity_command(affinity: Affinity, key: list[str]) -> tuple[str, list[str]]:
    """Return the affinity command. Files that it needs are named after their content, and listed in words."""
    elsewhere = [task.dataset for task in affinity.tasks[:-1] if not task.registered]
    here = [str(dataset_id(task.dataset)) for task in affinity.tasks[:-1] if task.registered]
    sources = ["-s", *here, *(f"{name}{SIGNATURE_ENDING}" for name in elsewhere)]
    cases = "auto" if affinity.cases == AUTO_CASES else str(affinity.cases)
    own = ["-m", affinity.metric, "-n_cases", cases, "-seed", str(affinity.seed)]
    signatures = f"the signature file{'s' * (len(elsewhere) > 1)} of {listed(elsewhere)}" if elsewhere else ""
    what = "Measure the distances" + (f" (with {signatures})" if signatures else "")
    return what, ["nnUNetv2_seq_affinity", *key, *sources, *own]


def _plan_command(plan: SequencePlan, key: list[str]) -> tuple[str, list[str]]:
    needed = ["the options in the record", *filter(None, [_calibration_words(plan.calibration)])]
    what = f"Plan (with {listed(needed)})"
    return what, ["nnUNetv2_seq_plan", *key, "-m", plan.metric, *_calibration(plan.calibration)]


def _calibration(name: str | None) -> list[str]:
    return ["-calibration", f"{name}.json"] if name else []


def _calibration_words(name: str | None) -> str:
    return f"the file of the calibration {name}" if name else ""


def _machines(found: Findings) -> list[str]:
    """Return what nnU-Net noted about each different machine that trained."""
    told = []
    for stage in found.stages:
        noted = {key: stage.machine.get(key) for key in ("gpu_name", "torch_version", "cudnn_version")}
        # nnU-Net writes "None" without a GPU
        words = [f"{key.replace('_', ' ')} {value}" for key, value in noted.items() if value not in (None, "None")]
        if words:
            told.append(", ".join(words))
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

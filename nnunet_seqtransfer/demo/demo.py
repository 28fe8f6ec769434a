"""The whole demo: draw phantoms, plan the target, compare paths to it, and write the report."""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import entry_points
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.demo.phantoms import (
    SOURCES,
    STRUCTURES,
    TARGET,
    case_name,
    draw_phantom,
    label_image,
    write_task,
)
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.compare import run_comparison
from nnunet_seqtransfer.evaluation.comparison import CompareRequest, Comparison
from nnunet_seqtransfer.evaluation.trials import CompareSurvey, Trial, load_trial, survey_comparison
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text
from nnunet_seqtransfer.report.page import write_report
from nnunet_seqtransfer.report.result_figures import draw_comparison
from nnunet_seqtransfer.signals import STOPPED, Stopped
from nnunet_seqtransfer.storage import checksum, read_json, read_record, write_json, write_record
from nnunet_seqtransfer.tasks.task import load_target
from nnunet_seqtransfer.training.executors import LocalExecutor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions, Job
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions

MARK, KIND, FORMAT = "nnunet_seqtransfer_demo.json", "demo", 1
CONFIGURATION, FOLD = "2d", "0"
EPOCHS, SOURCE_EPOCHS, ITERATIONS = 4, 4, 100
ARMS = ("scratch", "long", "direct", "planned")
FEATURES = (8, 16, 32, 64, 64)
"""Features per network stage, with one convolution each; nnU-Net plans 32 to 512 and two, hours for a CPU."""
PLAN_COMMAND = "nnUNetv2_plan_and_preprocess"
PRELOADED = ("nnunetv2.run.run_training", "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass
class Clock:
    """Prints lines with the time since the demo began."""

    begun: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """Print one line at once."""
        seconds = int(time.monotonic() - self.begun)
        print(f"[{seconds // 60}:{seconds % 60:02d}] {line}", flush=True)


def run_demo(folder: Path, seeds: int, processes: int) -> Path:
    """Run or resume the demo in ``folder``, print the results, and return the report's path.

    Paths are trained side by side, in ``processes`` processes.

    Raises SeqTransferError if the folder holds anything else, or a command fails.
    """
    clock = Clock()
    request = demo_request(seeds)
    folder = open_folder(folder, demo_digest())
    context = Context(clock.say, 1)  # the images are so small that worker processes would only cost time
    with demo_environment(folder), pools("forkserver") as server:
        clock.say(f"drawing {1 + len(SOURCES)} datasets of phantoms in {folder / 'nnUNet_raw'}")
        for task in (TARGET, *SOURCES):
            write_task(folder / "nnUNet_raw", task)
        _plan_target(folder, clock)
        clock.say(f"distances of {len(SOURCES)} sources, and a plan")
        survey = survey_comparison(request, context)
        clock.say(f"what will be trained, on {TARGET.trained} labelled cases, {seeds} seeds:")
        budget = replace(survey.budget, hours=survey.budget.hours / processes)
        print(f"\n{budget_text(survey.arms, budget, request.seeds)}\n", flush=True)
        with ProcessPoolExecutor(processes, mp_context=server) as pool:
            parts = (survey.base, survey.exclusions, survey.request.devices)
            for title in pool.map(train_trial, survey.chains, *([part] * len(survey.chains) for part in parts)):
                clock.say(f"{title} is trained")
        comparison = run_comparison(survey, context)  # evaluates what was trained
        draw_comparison(comparison, survey.path.parent)
        report = _report(folder, survey, comparison)
    clock.say("done")
    print(f"\n{comparison_text(comparison)}\n")
    print("A few phantoms show how the commands work; they are no evidence for or against the method.")
    print(f"The ranking of the sources next to their Dice, and the rest of the report: {report.as_uri()}#comparison")
    return report


def train_trial(trial: Trial, base: ChainRequest, exclusions: Exclusions, devices: DeviceOptions) -> str:
    """Train what is left of one path with one seed, in this process; return its title."""
    context = Context(lambda _: None, 1)
    chain = load_trial(base, trial, exclusions, devices, context)
    with pools("fork"):
        run_chain(chain, devices, LocalExecutor(run_forked, wait=True, prefetch=0), context)
    return trial.title


def demo_request(seeds: int) -> CompareRequest:
    """Return the comparison: scratch, scratch as long, each source alone, and the planned path."""
    return CompareRequest(
        target=TARGET.name,
        configuration=CONFIGURATION,
        folds=(FOLD,),
        seeds=tuple(range(seeds)),
        kinds=ARMS,
        nearest=len(SOURCES),
        recipe=Recipe(EPOCHS, ITERATIONS),
        source_epochs=SOURCE_EPOCHS,
        devices=DeviceOptions("cpu"),
    )


def demo_digest() -> str:
    """Return a checksum over everything that the results depend on; another one needs another folder."""
    # an example stands for the drawing code, whose changes the settings do not show
    drawn = draw_phantom(np.random.default_rng(0), TARGET.scanner)
    example = [drawn.image.tobytes().hex(), label_image(drawn, STRUCTURES).tobytes().hex()]
    return checksum([[asdict(task) for task in (TARGET, *SOURCES)], example, asdict(demo_request(0)), FEATURES])


def open_folder(folder: Path, digest: str) -> Path:
    """Create the demo's folder, or check that it holds this demo; return the absolute path.

    Raises SeqTransferError if it holds anything else.
    """
    folder = folder.absolute()
    mark, remedy = folder / MARK, "choose another folder with -o, or delete this one"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.is_file())):
        raise SeqTransferError(f"{folder} exists and holds no demo; {remedy}")
    if not mark.is_file():
        write_record(mark, KIND, FORMAT, {"recipe": digest})
    elif read_record(mark, KIND, FORMAT, remedy).get("recipe") != digest:
        raise SeqTransferError(f"{folder} holds the demo of another version of nnunet-seqtransfer; {remedy}")
    for name in (*FOLDERS, "logs"):
        (folder / name).mkdir(exist_ok=True)
    return folder


@contextmanager
def demo_environment(folder: Path) -> Iterator[None]:
    """Point nnU-Net at the demo's folders, and give every process one thread and no workers; restore both at the end.

    Images this small are computed fastest on one thread: more threads mostly wait for each other. Without workers for
    augmentation a training is also deterministic.
    """
    wanted = {name: str(folder / name) for name in FOLDERS}
    wanted |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, wanted):
        for name in ("nnUNet_extTrainer", "nnUNet_compile"):
            os.environ.pop(name, None)
        yield


@contextmanager
def pools(method: Literal["fork", "forkserver"]) -> Iterator[BaseContext]:
    """Make all pools, also those of nnU-Net, with forked processes: they start at once, spawned ones take 5 s.

    A server has no threads, and has imported nnU-Net before it forks. Its children fork by themselves.
    """
    context = multiprocessing.get_context(method)
    multiprocessing.set_forkserver_preload([__name__, *PRELOADED])
    # nnU-Net asks for "spawn" wherever it makes a pool
    with mock.patch.object(multiprocessing, "get_context", lambda *_: context):
        yield context


def run_forked(job: Job) -> None:
    """Run a command of nnU-Net in a forked process, with its output appended to the job's log.

    Raises SeqTransferError if it fails, Stopped if it was asked to stop.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    child = multiprocessing.get_context().Process(target=_run_command, args=(job,))
    child.start()
    child.join()
    if child.exitcode == STOPPED:
        raise Stopped("the training")
    if child.exitcode:
        raise SeqTransferError(
            f"{Path(job.command[0]).name} ended with exit status {child.exitcode}, see {job.log}; run the demo again "
            "to resume it"
        )


def _run_command(job: Job) -> None:
    """Become a command: its arguments, environment and output."""
    sys.stdout = sys.stderr = log = job.log.open("a", buffering=1)
    for stream in (1, 2):  # also what is not written by Python
        os.dup2(log.fileno(), stream)
    sys.argv = list(job.command)
    os.environ |= job.environment
    (command,) = entry_points(group="console_scripts", name=Path(job.command[0]).name)
    with pools("fork"):
        command.load()()


def _plan_target(folder: Path, clock: Clock) -> None:
    """Plan and preprocess the target with nnU-Net, then narrow its network."""
    try:
        load_target(TARGET.name, DEFAULT_PLANS, CONFIGURATION)
    except SeqTransferError:  # not done yet, or interrupted
        clock.say(f"nnUNetv2_plan_and_preprocess for {TARGET.name}")
        command = (PLAN_COMMAND, "-d", str(dataset_id(TARGET.name)), "-c", CONFIGURATION, "-np", "1", "-npfp", "1")
        # nnU-Net's planning divides by the number of workers for augmentation
        run_forked(Job("planning", command, {"nnUNet_n_proc_DA": "1"}, folder / "logs" / "plan.log", 1))
    # one fold that trains on few cases, where nnU-Net looks for folds
    cases = [case_name(index) for index in range(TARGET.cases)]
    split = {"train": cases[: TARGET.trained], "val": cases[TARGET.trained :]}
    write_json(preprocessed_folder() / TARGET.name / "splits_final.json", [split])
    path = plans_path(TARGET.name, DEFAULT_PLANS)
    plans = read_json(path, "the target's plans file", "delete the demo's folder")
    settings = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    if settings["features_per_stage"] != list(FEATURES):
        clock.say(f"features per stage {settings['features_per_stage']} -> {list(FEATURES)}, for speed on a CPU")
        settings["features_per_stage"] = list(FEATURES)
        settings |= {"n_conv_per_stage": [1] * len(FEATURES), "n_conv_per_stage_decoder": [1] * (len(FEATURES) - 1)}
        write_json(path, plans)


def _report(folder: Path, survey: CompareSurvey, comparison: Comparison) -> Path:
    """Write the report on the planned path's run with the first seed; it includes the comparison."""
    arm = next(arm for arm in comparison.arms if "planned" in arm.roles)  # scratch itself, if that is the plan
    chain = next(chain for trial, chain in survey.chains.items() if trial.arm == arm)
    report = folder / "report.html"
    write_report(chain.folder, report)
    return report

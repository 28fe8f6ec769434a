"""The whole demo: draw phantoms, plan the target, compare paths to it, and write the report."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.demo.phantoms import SOURCES, STRUCTURES, TARGET, draw_phantom, label_image, write_task
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.arms import CompareRequest
from nnunet_seqtransfer.evaluation.compare import run_comparison
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.evaluation.trials import CompareSurvey, survey_comparison
from nnunet_seqtransfer.nnunet.folders import dataset_id, installed_command, own_command
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text
from nnunet_seqtransfer.report.page import write_report
from nnunet_seqtransfer.report.result_figures import draw_comparison
from nnunet_seqtransfer.storage import checksum, read_json, read_record, write_json, write_record
from nnunet_seqtransfer.tasks.task import load_target
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe

MARK, KIND, FORMAT = "nnunet_seqtransfer_demo.json", "demo", 1
CONFIGURATION, FOLD = "2d", "all"
EPOCHS, SOURCE_EPOCHS, ITERATIONS = 3, 3, 100
ARMS = ("scratch", "long", "direct", "planned")
FEATURES = (8, 16, 32, 64, 64)
"""Features per network stage; nnU-Net plans 32 to 512, which a CPU would train for hours."""
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

    Seeds are trained side by side, one process each.

    Raises SeqTransferError if the folder holds anything else, or a command fails.
    """
    clock = Clock()
    folder = open_folder(folder, demo_digest())
    context = Context(clock.say, processes)
    with demo_environment(folder):
        clock.say(f"drawing {1 + len(SOURCES)} datasets of phantoms in {folder / 'nnUNet_raw'}")
        for task in (TARGET, *SOURCES):
            write_task(folder / "nnUNet_raw", task)
        _plan_target(folder, clock)
        request = demo_request(seeds)
        clock.say(f"distances of {len(SOURCES)} sources, and a plan")
        survey = survey_comparison(request, context)
        clock.say(f"what will be trained, on {TARGET.cases} labelled cases, {seeds} seeds:")
        print(f"\n{budget_text(survey.arms, survey.budget, request.seeds)}\n", flush=True)
        # the parent only collects: it would train one seed after the other
        if not all(chain.is_finished for chain in survey.chains.values()):
            _train_side_by_side(folder, seeds, processes)
        comparison = run_comparison(survey, context)  # evaluates what the children have trained
        pictures = draw_comparison(comparison, survey.path.parent)
        report = _report(folder, survey, comparison)
    clock.say("done")
    print(f"\nreport: {report}\n\n{comparison_text(comparison)}\n")
    print("A few phantoms show how the commands work; they are no evidence for or against the method.")
    print("pictures: " + "\n          ".join(str(path) for path in pictures))
    return report


def demo_request(seeds: int) -> CompareRequest:
    """Return the comparison that the demo runs: scratch, scratch as long, the nearest source, the planned path."""
    return CompareRequest(
        target=TARGET.name,
        configuration=CONFIGURATION,
        folds=(FOLD,),
        seeds=tuple(range(seeds)),
        kinds=ARMS,
        nearest=1,
        recipe=Recipe(EPOCHS, ITERATIONS),
        source_epochs=SOURCE_EPOCHS,
        test=TARGET.name,
        mirroring=False,
        devices=DeviceOptions("cpu"),
    )


def compare_command(seed: int) -> tuple[str, ...]:
    """Return the arguments for nnUNetv2_seq_compare that do one seed's part in `demo_request`."""
    return (
        *(str(dataset_id(TARGET.name)), CONFIGURATION, "-f", FOLD, "-seeds", str(seed)),
        *("-arms", *ARMS, "-nearest", "1", "-test", str(dataset_id(TARGET.name)), "--disable_tta"),
        *("-epochs", str(EPOCHS), "-source_epochs", str(SOURCE_EPOCHS), "-iterations", str(ITERATIONS)),
        *("-device", "cpu", "-np", "1", "-np_ahead", "0", "--wait"),
    )


def demo_digest() -> str:
    """Return a checksum over everything that the results depend on; another one needs another folder."""
    # an example stands for the drawing code, whose changes the settings do not show
    drawn = draw_phantom(np.random.default_rng(0), TARGET.scanner)
    example = [drawn.image.tobytes().hex(), label_image(drawn, STRUCTURES).tobytes().hex()]
    return checksum([[asdict(task) for task in (TARGET, *SOURCES)], example, compare_command(0), FEATURES])


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
    unwanted = ("nnUNet_extTrainer", "nnUNet_compile")
    before = {name: os.environ.pop(name, None) for name in (*wanted, *unwanted)}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def run_logged(folder: Path, log: str, command: str, arguments: Sequence[str], **environment: str) -> None:
    """Run a command to its end, with its output appended to ``folder``/logs/``log``.log.

    Raises SeqTransferError if it fails.
    """
    path = folder / "logs" / f"{log}.log"
    with path.open("ab") as stream:
        finished = subprocess.run(
            [command, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if finished.returncode:
        raise SeqTransferError(
            f"{Path(command).name} ended with exit status {finished.returncode}, see {path}; run the demo again to "
            "resume it"
        )


def _plan_target(folder: Path, clock: Clock) -> None:
    """Plan and preprocess the target with nnU-Net, then narrow its network."""
    try:
        load_target(TARGET.name, DEFAULT_PLANS, CONFIGURATION)
    except SeqTransferError:  # not done yet, or interrupted
        clock.say(f"nnUNetv2_plan_and_preprocess for {TARGET.name}")
        options = ("-d", str(dataset_id(TARGET.name)), "-c", CONFIGURATION, "-np", "1", "-npfp", "1")
        # nnU-Net's planning divides by the number of workers for augmentation
        run_logged(folder, "plan", installed_command("nnUNetv2_plan_and_preprocess"), options, nnUNet_n_proc_DA="1")
    path = plans_path(TARGET.name, DEFAULT_PLANS)
    plans = read_json(path, "the target's plans file", "delete the demo's folder")
    settings = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    if settings["features_per_stage"] != list(FEATURES):
        clock.say(f"features per stage {settings['features_per_stage']} -> {list(FEATURES)}, for speed on a CPU")
        settings["features_per_stage"] = list(FEATURES)
        write_json(path, plans)


def _train_side_by_side(folder: Path, seeds: int, processes: int) -> None:
    """Train and evaluate each seed in its own process; the first error is raised after the others have ended."""
    with ThreadPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(run_logged, folder, f"seed{seed}", own_command("compare"), compare_command(seed))
            for seed in range(seeds)
        ]
        for job in jobs:
            job.result()  # raises the error of that seed


def _report(folder: Path, survey: CompareSurvey, comparison: Comparison) -> Path:
    """Write the report on the planned path's run with the first seed; it includes the comparison."""
    arm = next(arm for arm in comparison.arms if "planned" in arm.roles)  # scratch itself, if that is the plan
    chain = next(chain for trial, chain in survey.chains.items() if trial.arm == arm)
    report = folder / "report.html"
    write_report(chain.folder, report)
    return report

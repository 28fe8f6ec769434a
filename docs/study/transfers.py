"""The study behind the defaults: measure every direct transfer and every ordered pair on two small real targets."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NoReturn

import SimpleITK as sitk

from nnunet_seqtransfer.affinity.record import affinity_path
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_processes,
    notify,
    positive_int,
    run_command,
    seed,
)
from nnunet_seqtransfer.errors import SeqTransferError, StageError
from nnunet_seqtransfer.evaluation.comparison import MEASUREMENTS, comparison_path
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_name, scripts_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.planning.record import plan_file
from nnunet_seqtransfer.storage import read_json, replacing, write_json
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_dataset
from nnunet_seqtransfer.tasks.task import load_target, sample_cases

LABELLED, HELD_OUT = 6, 30
"""Labelled cases that each target keeps (fold 0 trains on four), and held-out cases that no stage trains on."""
NUCLEI = 111
NUCLEI_SIZES = {311: (256, 256), 312: (360, 360), 313: (696, 520)}
"""Source number -> image size in pixels: the fluorescence images come from three microscopes, a source each."""
MOST_FEATURES = 64
METRICS = ("descriptors", "published")
"""The default comes first: the planned path rests on its ranking."""
_CHILDREN: set[subprocess.Popen[bytes]] = set()
"""Commands that run now."""


@dataclass(frozen=True)
class Target:
    """A dataset cut down to a few labelled cases, and how it is trained."""

    origin: int
    "Number of the whole dataset."
    sources: tuple[int, ...]
    "Numbers of the sources."
    configuration: str
    "nnU-Net configuration."
    patch: tuple[int, ...]
    "Patch size in place of nnU-Net's, so that two cores are enough."
    batch: int
    "Batch size."
    epochs: int
    "Epochs on the target."
    source_epochs: int
    "Epochs per source stage."
    iterations: int
    "Iterations per epoch, all stages."
    initial_lr: float
    """Learning rate of every stage. With it and the epochs scratch should end between Dice 0.3 and 0.7; in pilots
    target 4 was at 0.26 after 400 iterations (at nnU-Net's 0.01 still at 0), target 112 at 0.71 after 400 at 0.05."""

    @property
    def number(self) -> int:
        """Return the number for the dataset with few cases."""
        return self.origin + 500

    @property
    def test_number(self) -> int:
        """Return the number for the dataset with held-out cases."""
        return self.origin + 600


TARGETS = (
    Target(4, (21, 22, 23, 24, 25, 26), "3d_fullres", (32, 40, 32), 2, 20, 10, 25, 0.05),
    Target(112, tuple(NUCLEI_SIZES), "2d", (128, 128), 4, 10, 10, 5, 0.01),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run or resume the study and print the tables."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    work = (options.o / "quick" if options.quick else options.o).absolute()
    targets = [target for target in TARGETS if target.origin in options.targets]
    os.environ.update(open_folders(work, options.data.absolute(), targets))
    # nnU-Net's final validation starts so many processes, each of which imports torch, for a handful of cases.
    os.environ.setdefault("nnUNet_def_n_proc", str(options.np))
    for target in targets:
        prepare(target, options)
    seeds = options.seeds[:1] if options.quick or options.pilot else options.seeds
    if not options.dry_run:
        _train(targets, seeds, options)
    for target in targets:
        _command("compare", *compare_options(target, seeds, options))
    if not options.dry_run and not options.pilot:
        _calibrate(work, targets)


def _train(targets: Sequence[Target], seeds: Sequence[int], options: argparse.Namespace) -> None:
    """Train everything, several comparisons side by side; each leaves the record for a part of the study.

    All parts of one seed come first, so that an interrupted study has results for each target.
    """
    if options.side_by_side > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    waiting = [words for seed in seeds for target in targets for words in parts(target, seed, options)]
    with ThreadPoolExecutor(options.side_by_side) as pool:
        try:
            for _ in pool.map(lambda words: _command("compare", *words), waiting):
                pass
        except BaseException:  # a signal reaches this thread alone
            pool.shutdown(wait=False, cancel_futures=True)
            for child in tuple(_CHILDREN):
                child.terminate()
            raise


def parts(target: Target, seed: int, options: argparse.Namespace) -> list[list[str]]:
    """Return the arguments for a seed's comparisons, one for each first source: these share next to no stages.

    If two parts share a stage, such as the planned path's first source, one waits for the other.
    """
    if options.pilot:
        return [compare_options(target, [seed], options)]
    sources = used_sources(target, options)
    chosen: list[list[str]] = []
    for first in sources:
        kinds = ["scratch"] if chosen else ["scratch", "long", "planned"]
        paths = [path for path in all_paths(sources) if path[0] == first]
        chosen.append(["-arms", *kinds, "-paths", *(",".join(map(str, path)) for path in paths)])
    return [[*compare_options(target, [seed], options, words), "--wait"] for words in chosen]


def open_folders(work: Path, data: Path, targets: Sequence[Target]) -> dict[str, str]:
    """Make nnU-Net's three folders below ``work`` and link the datasets in ``data``; return nnU-Net's variables.

    Raises StageError if ``data`` lacks a dataset.
    """
    folders = {name: work / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    sources = {NUCLEI if number in NUCLEI_SIZES else number for target in targets for number in target.sources}
    for number in sorted({*(target.origin for target in targets), *sources}):
        found = sorted(data.glob(f"Dataset{number:03d}_*"))
        if len(found) != 1:
            raise StageError(f"{data} has {len(found)} datasets with number {number:03d}, one is needed; correct -data")
        link = folders["nnUNet_raw"] / found[0].name
        if not link.exists():
            link.symlink_to(found[0], target_is_directory=True)
    return {name: str(folder) for name, folder in folders.items()}


def prepare(target: Target, options: argparse.Namespace) -> None:
    """Derive target, held-out cases and sources; plan, preprocess and rank, unless that is done."""
    origin = dataset_name(target.origin)
    cases = tuple(sorted(raw_cases(origin, read_dataset_json(origin))))
    labelled = sample_cases(cases, LABELLED, options.case_seed)
    rest = tuple(case for case in cases if case not in labelled)
    held_out = sample_cases(rest, 3 if options.quick else HELD_OUT, options.case_seed)
    name = origin.partition("_")[2]
    derive_dataset(DeriveRequest(origin, target.number, f"{name}Few", cases=labelled), Context(notify, options.np))
    derive_dataset(DeriveRequest(origin, target.test_number, f"{name}HeldOut", cases=held_out), Context(notify))
    for number in (number for number in target.sources if number in NUCLEI_SIZES):
        derive_dataset(
            DeriveRequest(dataset_name(NUCLEI), number, f"Nuclei{number}", cases=of_size(number)), Context(notify)
        )
    plan_narrowly(target, options.np)
    sources = [str(number) for number in used_sources(target, options)]
    common = ("-t", str(target.number), "-c", target.configuration, "-np", str(options.np))
    for metric in METRICS:
        if not affinity_path(dataset_name(target.number), DEFAULT_PLANS, target.configuration, metric).is_file():
            _command("affinity", *common, "-s", *sources, "-m", metric)
    if not plan_file(dataset_name(target.number), DEFAULT_PLANS, target.configuration).is_file():
        _command("plan", *common, *recipe_options(target, options))


def of_size(number: int) -> tuple[str, ...]:
    """Return the fluorescence images with one size, for a derived source."""
    origin = dataset_name(NUCLEI)
    reader, found = sitk.ImageFileReader(), []
    for case, files in raw_cases(origin, read_dataset_json(origin)).items():
        reader.SetFileName(str(files.images[0]))
        reader.ReadImageInformation()
        if tuple(reader.GetSize()[:2]) == NUCLEI_SIZES[number]:
            found.append(case)
    return tuple(found)


def plan_narrowly(target: Target, processes: int) -> None:
    """Plan with nnU-Net, then replace patch, batch and features; the preprocessed data do not depend on them."""
    path = plans_path(dataset_name(target.number), DEFAULT_PLANS)
    try:
        load_target(dataset_name(target.number), DEFAULT_PLANS, target.configuration)
    except SeqTransferError:  # not planned yet, or interrupted while it was preprocessed
        path.unlink(missing_ok=True)
        options = ("-d", str(target.number), "-c", target.configuration, "-np", str(processes))
        _execute(scripts_folder() / "nnUNetv2_plan_and_preprocess", *options, "-npfp", str(processes))
    plans = read_json(path, "the target's plans file", "delete the study's folder")
    settings = plans["configurations"][target.configuration]
    network = settings["architecture"]["arch_kwargs"]
    features = [min(8 * 2**stage, MOST_FEATURES) for stage in range(len(network["features_per_stage"]))]
    wanted = {"patch_size": list(target.patch), "batch_size": target.batch}
    if features != network["features_per_stage"] or any(settings[name] != value for name, value in wanted.items()):
        network["features_per_stage"] = features
        settings.update(wanted)
        write_json(path, plans)


def used_sources(target: Target, options: argparse.Namespace) -> tuple[int, ...]:
    """Return a target's sources; only the first two with --quick."""
    return target.sources[:2] if options.quick else target.sources


def all_paths(sources: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every source alone and every ordered pair of sources."""
    return [(source,) for source in sources] + list(permutations(sources, 2))


def recipe_options(target: Target, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the options for the lengths of the stages."""
    lengths = (1, 1, 2) if options.quick else (target.epochs, target.source_epochs, target.iterations)
    return tuple(
        word
        for name, value in zip(("-epochs", "-source_epochs", "-iterations"), lengths, strict=True)
        for word in (name, str(value))
    )


def compare_options(
    target: Target, seeds: Sequence[int], options: argparse.Namespace, chosen: Sequence[str] | None = None
) -> list[str]:
    """Return the arguments of nnUNetv2_seq_compare for one target; ``chosen`` selects the paths (default: all)."""
    if options.pilot:
        chosen = ["-arms", "scratch", "direct", "-nearest", "1"]
    elif chosen is None:
        paths = all_paths(used_sources(target, options))
        chosen = ["-arms", "scratch", "long", "planned", "-paths", *(",".join(map(str, path)) for path in paths)]
    return [
        *(str(target.number), target.configuration, "-f", *options.f, "-seeds", *map(str, seeds)),
        *("-test", str(target.test_number), "--disable_tta", *chosen),
        *recipe_options(target, options),
        *("-initial_lr", str(target.initial_lr)),
        *("-device", options.device, "-np", str(options.np)),
        *(["--dry_run"] if options.dry_run else []),
    ]


def _calibrate(work: Path, targets: Sequence[Target]) -> None:
    """Write one table with all measurements and calibrate each metric on it."""
    table, rows = work / "measurements.csv", []
    for target in targets:
        test = dataset_name(target.test_number)
        record = comparison_path(dataset_name(target.number), DEFAULT_PLANS, target.configuration, test=test)
        with record.with_name(MEASUREMENTS).open(newline="") as stream:
            rows += list(csv.DictReader(stream))
    with replacing(table) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "target", "dice", "seed"])
        writer.writeheader()
        writer.writerows(rows)
    print(f"measurements: {table}")
    for metric in METRICS:
        files = [
            affinity_path(dataset_name(target.number), DEFAULT_PLANS, target.configuration, metric)
            for target in targets
        ]
        output = work / f"calibration_{metric}.json"
        print(f"\n{metric}\n")
        try:
            _command("calibrate", "-i", str(table), "-a", *map(str, files), "-o", str(output))
        except StageError as error:  # too few paths, or no fit: that is a result too
            notify(str(error))


def _command(name: str, *options: str) -> None:
    _execute(scripts_folder() / f"nnUNetv2_seq_{name}", *options)


def _execute(command: Path, *options: str) -> None:
    """Run a command to its end, with its output on this terminal. Raises StageError if it fails."""
    print(f"$ {command.name} {' '.join(options)}", file=sys.stderr, flush=True)
    # nnU-Net's planning crashes where nnUNet_n_proc_DA is 0, which suits trainings on few cores.
    own = {name: value for name, value in os.environ.items() if name != "nnUNet_n_proc_DA" or "seq" in command.name}
    with subprocess.Popen([str(command), *options], env=own, stdin=subprocess.DEVNULL) as child:
        _CHILDREN.add(child)
        try:
            status = child.wait()
        finally:
            _CHILDREN.discard(child)
    if status:
        raise StageError(f"{command.name} ended with exit status {status}; run the study again to resume")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Measures every direct transfer and every ordered pair of sources on two targets with six labelled cases, over "
        "several seeds, and calibrates the metrics on them. Run it again after any interruption: it does what is left.",
        "python transfers.py -data /path/to/datasets -o study -device cpu",
    )
    parser.add_argument(
        "-data",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="[REQUIRED] Folder of the datasets, nnU-Net raw format",
    )
    parser.add_argument("-o", required=True, type=Path, metavar="FOLDER", help="[REQUIRED] Folder of the study")
    parser.add_argument(
        "-targets",
        nargs="+",
        type=int,
        choices=[target.origin for target in TARGETS],
        default=[target.origin for target in TARGETS],
        metavar="N",
        help="[OPTIONAL] Numbers of the targets' original datasets. Default: 4 112",
    )
    parser.add_argument(
        "-seeds", nargs="+", type=seed, default=[0, 1, 2], metavar="N", help="[OPTIONAL] Seeds. Default: 0 1 2"
    )
    parser.add_argument(
        "-f",
        nargs="+",
        default=["0"],
        metavar="FOLD",
        help="[OPTIONAL] Folds of the six cases, or all. Default: 0, which trains on four",
    )
    parser.add_argument(
        "-case_seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the six and the held-out. Default: 0"
    )
    parser.add_argument(
        "-device", choices=["cuda", "cpu", "mps"], default="cpu", help="[OPTIONAL] Where to train. Default: cpu"
    )
    parser.add_argument(
        "--pilot",
        action="store_true",
        help="[OPTIONAL] Scratch and the nearest source alone: does scratch end between Dice 0.3 and 0.7?",
    )
    parser.add_argument("--quick", action="store_true", help="[OPTIONAL] A few iterations, to see that everything runs")
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] Prepare, and print what would be trained")
    parser.add_argument(
        "-side_by_side",
        type=positive_int,
        default=1,
        metavar="N",
        help="[OPTIONAL] Trainings at once, on the CPU with one thread each. Default: 1",
    )
    add_processes(parser)
    return parser.parse(arguments)


if __name__ == "__main__":
    main()

"""What a hand-off between unlike networks is worth: Dice after a short fine-tuning against scratch, on real data.

    python benchmarks/handoff_quality.py -data FOLDER -o FOLDER [-seeds 3] [-cases channels depth kernels]
    python benchmarks/handoff_quality.py -data FOLDER -o FOLDER -quick       (does it run? figures mean nothing)

-data holds, in nnU-Net's raw format, Dataset004_Hippocampus (Medical Segmentation Decathlon, "MRI"),
Dataset021_OasisHippocampus and Dataset026_OasisHippocampusInverted (the same 48^3 crops of T1, as they are and with
inverted contrast; equal case names). They are linked, not copied. Without them it says so and ends.

The target are 22 cases of dataset 4: 6 to train on, 16 held out as the validation of fold 0. A model is trained on
dataset 21 for each case and seed; then the target's network, 4 stages of width 8 to 64 and 3x3x3 kernels, is trained
from random weights, and from that model through `nnUNetv2_seq_train -init`, with the same recipe and seed. Cases, by
what the model's network has that the target's does not:

    channels  two channels, of which one is called as the target's and the other is its inversion
    depth     one stage less
    kernels   1x3x3 kernels in its first two stages
    same      nothing: for comparison, the same hand-off with nothing to adapt

Everything is done by nnU-Net's and this project's commands; Dice is nnU-Net's mean over both labels and the held-out
cases. Started again it does what is left. Two trainings run side by side with one thread each (-np).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.nnunet.folders import scripts_folder
from nnunet_seqtransfer.training.recipe import read_block

ORIGIN, T1, INVERTED = "Dataset004_Hippocampus", "Dataset021_OasisHippocampus", "Dataset026_OasisHippocampusInverted"
TARGET, TWO_CHANNELS = "Dataset500_FewHippocampus", "Dataset510_TwoChannels"
TRAINER, CONFIGURATION = "nnUNetTrainerSeqTransfer", "3d_fullres"
WIDTH = 8
FINGERPRINT = """
import sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
extractor = DatasetFingerprintExtractor(sys.argv[1], 1)
extractor.num_foreground_voxels_for_intensitystats = 1e5
extractor.run()
"""
"""nnU-Net's own extractor, drawing a thousandth of its 100 million intensities: z-scored images use none of them."""


@dataclass(frozen=True)
class Case:
    """A model whose network is unlike the target's."""

    dataset: str
    "What it is trained on."
    plans: str
    "Name of its plans."
    change: Callable[[dict[str, Any]], dict[str, Any]]
    "Its arch_kwargs from those that nnU-Net plans, narrowed."


def shallower(architecture: dict[str, Any]) -> dict[str, Any]:
    """The same without its lowest stage."""
    shorter = {key: value[:-1] if isinstance(value, list) else value for key, value in architecture.items()}
    return {**shorter, "n_stages": architecture["n_stages"] - 1}


def flatter(architecture: dict[str, Any]) -> dict[str, Any]:
    """The same with kernels that do not reach across slices in the first two stages."""
    kernels = [[1, 3, 3] if level < 2 else kernel for level, kernel in enumerate(architecture["kernel_sizes"])]
    return {**architecture, "kernel_sizes": kernels}


CASES = {
    "channels": Case(TWO_CHANNELS, "nnUNetPlans", dict),
    "depth": Case(T1, "nnUNetPlansShallow", shallower),
    "kernels": Case(T1, "nnUNetPlansFlat", flatter),
    "same": Case(T1, "nnUNetPlans", dict),
}


@dataclass(frozen=True)
class Recipe:
    """How everything is trained; kept in -o, so that results of two recipes are never mixed."""

    labelled: int = 6
    held_out: int = 16
    patch: tuple[int, int, int] = (32, 40, 32)
    "Replaces nnU-Net's 40 x 56 x 40, for half the time."
    initial_lr: float = 0.05
    "At nnU-Net's 0.01 scratch is still at Dice 0 after 500 iterations of this network."
    model_epochs: int = 12
    model_iterations: int = 25
    epochs: int = 16
    iterations: int = 25


QUICK = Recipe(labelled=3, held_out=3, model_epochs=1, model_iterations=2, epochs=1, iterations=2)


@dataclass(frozen=True)
class Run:
    """One training of the target."""

    case: str
    "Of `CASES`, or scratch."
    seed: int
    "Of model and target."

    @property
    def tag(self) -> str:
        return f"{self.case}-seed{self.seed}"

    def folder(self, results: Path) -> Path | None:
        """Its results; None where it has not begun."""
        plans = "nnUNetPlans_scratch" if self.case == "scratch" else "nnUNetPlans_init????????"
        found = sorted((results / TARGET).glob(f"{TRAINER}__{plans}_{self.tag}__{CONFIGURATION}"))
        return found[0] if found else None

    def summary(self, results: Path) -> Path | None:
        """nnU-Net's validation of the held-out cases; None where it is not there yet."""
        folder = self.folder(results)
        path = folder / "fold_0" / "validation" / "summary.json" if folder else None
        return path if path is not None and path.is_file() else None


class Place:
    """The folder of everything, and commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.raw, self.preprocessed, self.results, self.logs = (
            self.root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "logs")
        )

    def run(self, log: str, command: str, *arguments: str) -> None:
        """Runs a command with one thread, its output in a log; ends with the log's last line where it fails."""
        folders = {"nnUNet_raw": self.raw, "nnUNet_preprocessed": self.preprocessed, "nnUNet_results": self.results}
        environment = {**os.environ, **{name: str(path) for name, path in folders.items()}}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc"), "1")
        if command == "nnUNetv2_seq_train":  # planning does not take 0
            environment["nnUNet_n_proc_DA"] = "0"
        path, start = self.logs / f"{log}.log", time.perf_counter()
        with path.open("a") as stream:
            words = [str(scripts_folder() / command), *arguments]
            status = subprocess.run(words, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
        if status.returncode:
            last = path.read_text().strip().splitlines()[-1]
            raise SystemExit(f"{command} ended with exit status {status.returncode} ({last}); see {path}")
        print(f"{log}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def open_place(folder: Path, data: Path, recipe: Recipe) -> Place:
    """The folder with the datasets linked into nnUNet_raw. Ends where it was made by another recipe."""
    place, record = Place(folder), folder / "recipe.json"
    for path in (place.raw, place.preprocessed, place.results, place.logs):
        path.mkdir(parents=True, exist_ok=True)
    if record.is_file() and json.loads(record.read_text()) != json.loads(json.dumps(asdict(recipe))):
        raise SystemExit(f"{folder} holds results of another recipe ({record}); take another folder after -o")
    record.write_text(json.dumps(asdict(recipe), indent=4))
    for name in (ORIGIN, T1, INVERTED):
        if not (place.raw / name).exists():
            (place.raw / name).symlink_to((data / name).absolute(), target_is_directory=True)
    return place


def make_two_channels(place: Place) -> None:
    """Registers the crops and their inversions as the two channels of one dataset; files are referenced."""
    content = json.loads((place.raw / T1 / "dataset.json").read_text())
    ending = content["file_ending"]
    cases = sorted(path.name.removesuffix(ending) for path in (place.raw / T1 / "labelsTr").glob(f"*{ending}"))
    entries = {
        case: {
            "images": [f"../{name}/imagesTr/{case}_0000{ending}" for name in (T1, INVERTED)],
            "label": f"../{T1}/labelsTr/{case}{ending}",
        }
        for case in cases
    }
    channels = {"0": "MRI", "1": "inverted"}
    (place.raw / TWO_CHANNELS).mkdir(exist_ok=True)
    made = {**content, "channel_names": channels, "dataset": entries}
    (place.raw / TWO_CHANNELS / "dataset.json").write_text(json.dumps(made, indent=4))


def prepare(place: Place, recipe: Recipe, cases: Iterable[str]) -> None:
    """Derives, plans and preprocesses what is needed, and writes narrow plans and the splits."""
    make_two_channels(place)
    most = str(recipe.labelled + recipe.held_out)
    place.run(
        "derive", "nnUNetv2_seq_derive", "-d", "4", "-most", most, "-seed", "0", "-number", "500", "-name", TARGET[11:]
    )
    for dataset in dict.fromkeys([TARGET, *(CASES[case].dataset for case in cases)]):
        folder = place.preprocessed / dataset
        if not (folder / "splits_final.json").is_file():
            place.run(f"fingerprint {dataset}", sys.executable, "-c", FINGERPRINT, dataset)
            arguments = ("-d", dataset[7:10], "-c", CONFIGURATION, "-np", "2")
            place.run(f"prepare {dataset}", "nnUNetv2_plan_and_preprocess", *arguments)
            plans = json.loads((folder / "nnUNetPlans.json").read_text())
            (folder / "planned.json").write_text(json.dumps(plans))
            names = sorted(path.stem for path in (folder / f"nnUNetPlans_{CONFIGURATION}").glob("*.pkl"))
            # a model validates on both sides of one scan, which takes little time and is not looked at
            few = recipe.labelled if dataset == TARGET else len(names) - 2
            splits = [{"train": names[:few], "val": names[few:]}]
            write_narrow(folder, "nnUNetPlans", dict, recipe.patch)
            (folder / "splits_final.json").write_text(json.dumps(splits))
    for case in (CASES[case] for case in cases):
        write_narrow(place.preprocessed / case.dataset, case.plans, case.change, recipe.patch)


def write_narrow(
    folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]], patch: Sequence[int]
) -> None:
    """Plans of another name, with a narrow network and small patches and batches; they share the preprocessed data."""
    plans = json.loads((folder / "planned.json").read_text())
    settings = plans["configurations"][CONFIGURATION]
    architecture = settings["architecture"]["arch_kwargs"]
    width = [WIDTH * 2**level for level in range(architecture["n_stages"])]
    settings["architecture"]["arch_kwargs"] = change({**architecture, "features_per_stage": width})
    settings.update({"batch_size": 2, "patch_size": list(patch)})
    (folder / f"{name}.json").write_text(json.dumps({**plans, "plans_name": name}, indent=4))


def train(place: Place, dataset: str, run: Run, shape: tuple[int, int, float], *more: str) -> None:
    """One training of fold 0, from scratch or from what ``more`` says; ``shape``: epochs, iterations, learning rate."""
    recipe: tuple[str, ...] = ("-epochs", str(shape[0]), "-iterations", str(shape[1]), "-initial_lr", str(shape[2]))
    recipe += ("-seed", str(run.seed), "-tag", run.tag)
    arguments = (dataset, CONFIGURATION, "0", "-s", "none", *recipe, "-device", "cpu", "-np", "1", *more)
    place.run(f"{dataset[:10]} {run.tag}", "nnUNetv2_seq_train", *arguments)


def model_of(place: Place, run: Run) -> Path:
    """The results folder of the model that a run begins with."""
    case = CASES[run.case]
    return place.results / case.dataset / f"{TRAINER}__{case.plans}_scratch_{run.tag}__{CONFIGURATION}"


def train_model(place: Place, recipe: Recipe, run: Run) -> None:
    """The model that a run begins with, where it is not there yet."""
    if not (model_of(place, run) / "fold_0" / "validation" / "summary.json").is_file():
        case = CASES[run.case]
        train(
            place,
            case.dataset,
            run,
            (recipe.model_epochs, recipe.model_iterations, recipe.initial_lr),
            "-p",
            case.plans,
        )


def train_target(place: Place, recipe: Recipe, run: Run) -> None:
    """A run, where it is not finished yet."""
    if run.summary(place.results) is None:
        begin = () if run.case == "scratch" else ("-init", str(model_of(place, run)), "-min_coverage", "0.1")
        train(place, TARGET, run, (recipe.epochs, recipe.iterations, recipe.initial_lr), *begin)


def side_by_side(task: Callable[[Run], None], runs: Sequence[Run], processes: int) -> None:
    """Runs all, so many at once; the first failure is raised."""
    with ThreadPoolExecutor(processes) as pool:
        for _ in pool.map(task, runs):
            pass


def dice(place: Place, run: Run) -> float:
    """Mean Dice over labels and held-out cases."""
    path = run.summary(place.results)
    assert path is not None
    return float(json.loads(path.read_text())["foreground_mean"]["Dice"])


def coverage(place: Place, run: Run) -> float:
    """What of the target's network came from the model, from the plans of the training."""
    folder = run.folder(place.results)
    assert folder is not None
    block = read_block(json.loads((folder / "plans.json").read_text()), CONFIGURATION, 0)
    assert block is not None and block.init is not None
    return block.init.coverage


def spread(values: Sequence[float]) -> str:
    """Mean, and the smallest and largest."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def print_table(place: Place, recipe: Recipe, cases: Sequence[str], seeds: int) -> None:
    """A row for each case, adapted against scratch of equal iterations and seeds."""
    scratch = [dice(place, Run("scratch", seed)) for seed in range(seeds)]
    print(
        f"Mean Dice on {recipe.held_out} held-out cases; {recipe.labelled} labelled cases, "
        f"{recipe.epochs * recipe.iterations} iterations; models {recipe.model_epochs * recipe.model_iterations} "
        f"iterations; mean (smallest to largest) of {seeds} seeds\n"
    )
    print("| model's network | coverage | scratch | adapted | adapted minus scratch, seed by seed |")
    print("| --- | --- | --- | --- | --- |")
    for case in cases:
        adapted = [dice(place, Run(case, seed)) for seed in range(seeds)]
        gain = [mine - theirs for mine, theirs in zip(adapted, scratch, strict=True)]
        share = coverage(place, Run(case, 0))
        print(f"| {case} | {share:.3f} | {spread(scratch)} | {spread(adapted)} | {spread(gain)} |")


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-data", type=Path, required=True, help="folder with the three datasets")
    parser.add_argument("-o", type=Path, required=True, help="folder for everything; goes on with what is there")
    parser.add_argument("-cases", nargs="+", choices=list(CASES), default=["channels", "depth", "kernels"])
    parser.add_argument("-seeds", type=int, default=3)
    parser.add_argument("-epochs", type=int, default=Recipe.epochs, help="epochs of the target, 25 iterations each")
    parser.add_argument("-np", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("-quick", action="store_true", help="one seed, a few iterations")
    options = parser.parse_args()
    missing = [name for name in (ORIGIN, T1, INVERTED) if not (options.data / name / "dataset.json").is_file()]
    if missing:
        print(f"skipped: {options.data} holds no {' and no '.join(missing)}")
        return
    recipe, seeds = (QUICK, 1) if options.quick else (Recipe(epochs=options.epochs), options.seeds)
    start = time.perf_counter()
    place = open_place(options.o, options.data, recipe)
    prepare(place, recipe, options.cases)
    adapted = [Run(case, seed) for seed in range(seeds) for case in options.cases]
    scratch = [Run("scratch", seed) for seed in range(seeds)]
    # scratch goes first: should it end near 0 or near 1, other -epochs in another folder tell more
    side_by_side(lambda run: train_target(place, recipe, run), scratch, options.np)
    print(f"scratch: {', '.join(f'{dice(place, run):.3f}' for run in scratch)}", file=sys.stderr, flush=True)
    side_by_side(lambda run: train_model(place, recipe, run), adapted, options.np)
    side_by_side(lambda run: train_target(place, recipe, run), adapted, options.np)
    print_table(place, recipe, options.cases, seeds)
    print(f"\nthis call took {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()

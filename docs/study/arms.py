"""Measure ways to train the same data: scratch, direct, sequence, replay, joint, co-trained, at equal iterations.

    python docs/study/arms.py -data ZOO -o FOLDER -targets 700 701 -seeds 0 1

ZOO holds targets and sources in nnU-Net's raw format, and a table of the admissible pairs, measured_transfers.csv; a
target has test cases in imagesTs and labelsTs. Sources are the nearest that the affinity finds; each pair (first, last)
has the nearest source, or the next one, as the last. No choice looks at a result. Every path has the same number of
iterations: source stages together train as long as one source alone does. Run it again after any interruption:
finished stages and rows are kept. `--summarise` prints the table of all measured rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Any

import numpy as np
import SimpleITK as sitk
from transfers import Target as Narrow
from transfers import plan_narrowly as shrink_plans

from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
from nnunet_seqtransfer.nnunet.folders import dataset_name, output_base, scripts_folder
from nnunet_seqtransfer.nnunet.network import predict_cases
from nnunet_seqtransfer.storage import replacing
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint

CONFIGURATION, PATCH, BATCH, RATE, LOW_RATE = "3d_fullres", (32, 40, 32), 2, 0.05, 0.005
"""As in the study of transfers, whose recipe was chosen by scratch alone; a tenth of the rate for one arm."""
EPOCHS, SOURCE_EPOCHS, ITERATIONS, SHARE = 8, 20, 25, 0.25
"""Epochs on the target, and on all sources of a path together; iterations per epoch; share of replayed batches."""
QUICK = "nnUNetTrainerQuickValidation"
QUICK_SOURCE = f"""from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class {QUICK}(nnUNetTrainer):
    def perform_actual_validation(self, save_probabilities=False):
        axes, self.inference_allowed_mirroring_axes = self.inference_allowed_mirroring_axes, None
        super().perform_actual_validation(save_probabilities)
        self.inference_allowed_mirroring_axes = axes
"""
"""nnU-Net's trainer. Only the final validation, which no table reads, does without mirroring: an eighth of the time."""
ARMS = ("scratch", "long", "as it is", "direct, new heads", "direct, low rate", "direct")
ARMS += ("sequence", "replay", "joint", "co-trained")
_LOADING = Lock()
"""What PyTorch may load safely is known to the whole process: one checkpoint at a time."""
COLUMNS = ("target", "arm", "path", "seed", "dice")


@dataclass(frozen=True)
class Job:
    """One trained path."""

    target: str
    "Number of the target."
    arm: str
    "Name from `ARMS`."
    path: tuple[str, ...]
    "Elements before the target, as options of nnUNetv2_seq_train."
    seed: int
    "Seed of the trainings."

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that a row is known by."""
        return (self.target, self.arm, " ".join(self.path), str(self.seed))

    @property
    def tag(self) -> str:
        """Plans name suffix: arms with other recipes never share a stage of the target."""
        return f"{self.arm.replace(', ', '-').replace(' ', '-')}-{self.seed}"


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-data", required=True, type=Path, help="folder of targets and sources")
    parser.add_argument("-o", required=True, type=Path, help="folder of the study")
    parser.add_argument("-targets", nargs="+", required=True, help="numbers of the targets")
    parser.add_argument("-sources", nargs="+", help="numbers of the sources (default: all of 500 to 599)")
    parser.add_argument("-seeds", nargs="+", type=int, default=[0, 1], help="seeds (default: 0 1)")
    parser.add_argument("-pairs", type=int, default=3, help="pairs of sources for each target (default: 3)")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"], help="where to train (default: cpu)")
    parser.add_argument("-side_by_side", type=int, default=2, help="trainings at once (default: 2)")
    parser.add_argument("-np", type=int, default=2, help="processes of preprocessing (default: 2)")
    parser.add_argument("--summarise", action="store_true", help="print the table of what is measured, train nothing")
    options = parser.parse_args()
    work = options.o.absolute()
    table = work / "arms.csv"
    if not options.summarise:
        open_folders(work, options.data.absolute())
        # all targets with one seed come first, so that an interrupted study has a result
        for seed in options.seeds:
            for target in options.targets:
                measure(list(jobs(target, seed, options)), table, options)
    print(summary(read_rows(table)))


def open_folders(work: Path, data: Path) -> None:
    """Make nnU-Net's folders below ``work`` and link every dataset of ``data``."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    trainers = work / "trainers"
    trainers.mkdir(exist_ok=True)
    (trainers / f"{QUICK}.py").write_text(QUICK_SOURCE)
    os.environ |= {"OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_extTrainer": str(trainers)}
    for dataset in data.glob("Dataset*_*"):
        link = work / "raw" / dataset.name
        if not link.exists():
            link.symlink_to(dataset, target_is_directory=True)


def jobs(target: str, seed: int, options: argparse.Namespace) -> Iterator[Job]:
    """Plan the target, rank its sources, and yield all paths to train, those that others begin with first."""
    shrink_plans(_narrow(target), options.np)
    path = affinity_path(dataset_name(target), "nnUNetPlans", CONFIGURATION, "descriptors")
    if not path.is_file():
        sources = options.sources or admissible(options.data, target)
        run("nnUNetv2_seq_affinity", "-t", target, "-s", *sorted(sources), "-np", str(options.np))
    affinity = read_affinity(path)
    nearest = [affinity.names[place][7:10] for place in affinity.ranking()[:3]]
    pairs = [(nearest[1], nearest[0]), (nearest[2], nearest[0]), (nearest[2], nearest[1])][: options.pairs]
    yield Job(target, "scratch", (), seed)
    yield Job(target, "long", (), seed)
    for last in sorted({last for _, last in pairs}):
        for arm in ("direct, new heads", "direct", "direct, low rate", "as it is"):
            yield Job(target, arm, (last,), seed)
        yield Job(target, "co-trained", (last, f"{last}+{target}"), seed)
    for first, last in pairs:
        yield Job(target, "sequence", (first, last), seed)
        yield Job(target, "replay", (first, last), seed)
        yield Job(target, "joint", (f"{last}+{first}",), seed)


def admissible(data: Path, target: str) -> list[str]:
    """Return the numbers of the sources that the zoo's table has for a target: none shares animals with it."""
    name = dataset_name(target).split("_", 1)[1]
    with (data / "measured_transfers.csv").open(newline="") as stream:
        measured = {row["sources"] for row in csv.DictReader(stream) if row["target"] == name}
    return [each.name[7:10] for each in data.glob("Dataset5??_*") if each.name[11:] in measured]


def _narrow(target: str) -> Narrow:
    """Return the target in the form in which the study of transfers plans it."""
    return _AsItIs(int(target), (), CONFIGURATION, PATCH, BATCH, EPOCHS, SOURCE_EPOCHS, ITERATIONS, RATE)


class _AsItIs(Narrow):
    """A target that keeps its number: its dataset has few cases already."""

    @property
    def number(self) -> int:
        """Return the number of the dataset."""
        return self.origin


def measure(wanted: Sequence[Job], table: Path, options: argparse.Namespace) -> None:
    """Train and score every job without a row, several side by side; add a row for each."""
    known = {tuple(row[name] for name in COLUMNS[:-1]) for row in read_rows(table)}
    missing = [job for job in wanted if job.key not in known]
    trained = [job for job in missing if job.arm not in {"as it is", "direct, low rate"} and not _keeps_no_head(job)]
    trained.sort(key=lambda job: ARMS.index(job.arm))  # those that share a stage do not meet
    with ThreadPoolExecutor(options.side_by_side) as pool:
        list(pool.map(lambda job: train(job, options), trained))
        # these begin with the source's network that another job has trained
        list(pool.map(lambda job: train(job, options), [job for job in missing if job.arm == "direct, low rate"]))
    for job, dice in zip(missing, _scores(missing, options), strict=True):
        rows = [*read_rows(table), dict(zip(COLUMNS, (*job.key, f"{dice:.4f}"), strict=True))]
        with replacing(table) as aside, aside.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(*job.key, f"{dice:.4f}", file=sys.stderr, flush=True)


def _scores(jobs: Sequence[Job], options: argparse.Namespace) -> Iterator[float]:
    with ThreadPoolExecutor(options.side_by_side) as pool:
        yield from pool.map(lambda job: score(job, options), jobs)


def train(job: Job, options: argparse.Namespace) -> None:
    """Train the path; stages of sources with the same recipe are shared between jobs."""
    stages = sum(not element.endswith(f"+{job.target}") for element in job.path)
    length = SOURCE_EPOCHS + EPOCHS if job.arm == "long" else EPOCHS
    low = job.arm == "direct, low rate"
    words = [job.target, CONFIGURATION, "all", "-s", *((not low and job.path) or ["none"]), "--wait"]
    words += ["-epochs", str(length), "-iterations", str(ITERATIONS), "-seed", str(job.seed)]
    words += ["-initial_lr", str(LOW_RATE if low else RATE)]
    words += ["-tr", QUICK, "-device", options.device, "-np", "1", "-tag", _tag(job)]
    if low:
        words += ["-init", str(model_folder(replace(job, arm="as it is")))]
    elif stages:
        words += ["-source_epochs", str(SOURCE_EPOCHS // stages)]
    if job.arm == "direct, new heads":
        words.append("--new_heads")
    if job.arm == "replay":
        words += ["-replay", str(SHARE)]
    run("nnUNetv2_seq_train", *words)


def _tag(job: Job) -> str:
    """Return the tag: equal for arms whose source stages are the same, so that they are trained once."""
    if _keeps_no_head(job):
        return _tag(replace(job, arm="direct"))
    shared = {"direct": "plain", "co-trained": "plain", "sequence": "halves", "replay": "halves"}
    shared["direct, low rate"] = f"low-rate-{'-'.join(job.path)}"
    return f"{shared.get(job.arm, job.tag.rpartition('-')[0])}-s{job.seed}"


def _keeps_no_head(job: Job) -> bool:
    """Return whether new heads are those of the arm "direct": no label of the source has a name of the target's."""
    if job.arm != "direct, new heads":
        return False
    raw = Path(os.environ["nnUNet_raw"])
    names = [_json(raw / dataset_name(number) / "dataset.json")["labels"] for number in (job.target, job.path[-1])]
    return {*map(str.lower, names[0])} & {*map(str.lower, names[1])} == {"background"}


def score(job: Job, options: argparse.Namespace) -> float:
    """Return the mean Dice on the target's test cases, of the target's model or of the source's own network."""
    folder = model_folder(job)
    with _LOADING:
        checkpoint = load_checkpoint(folder / "fold_all" / "checkpoint_final.pth")
    plans, dataset_json = (_json(folder / name) for name in ("plans.json", "dataset.json"))
    raw = Path(os.environ["nnUNet_raw"]) / dataset_name(job.target)
    labels = sorted((raw / "labelsTs").glob("*.nii.gz"))
    cases = [[raw / "imagesTs" / label.name.replace(".nii.gz", "_0000.nii.gz")] for label in labels]
    found = predict_cases(plans, CONFIGURATION, dataset_json, checkpoint, cases, options.device)
    return mean(dice(segmentation, label) for segmentation, label in zip(found, labels, strict=True))


def dice(segmentation: np.ndarray, label: Path) -> float:
    """Return the Dice of the foreground; the tasks of the zoo have one label."""
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(label))) > 0
    found = segmentation > 0
    total = int(found.sum() + reference.sum())
    return 2 * float((found & reference).sum()) / total if total else 1.0


def model_folder(job: Job) -> Path:
    """Return nnU-Net's results folder of the job's model, found by the record of the run."""
    tag = _tag(replace(job, arm="direct") if job.arm == "as it is" else job)
    dataset = dataset_name(job.path[-1] if job.arm == "as it is" else job.target)
    bases = output_base(dataset, TRAINER, "x", CONFIGURATION).parent
    wanted = [path for path in bases.glob(f"{TRAINER}__*_{tag}__{CONFIGURATION}") if _trains(path, job)]
    if len(wanted) != 1:
        raise SystemExit(f"{bases} has {len(wanted)} models for {job.key}; run the study again")
    return wanted[0]


def _trains(folder: Path, job: Job) -> bool:
    """Return whether a model's plans name the job's path."""
    block = _json(folder / "plans.json").get("seq_transfer", {})
    path = ["+".join(str(int(name[7:10])) for name in element.split("+")) for element in block.get("path", ())]
    wanted = list(job.path) if job.arm == "as it is" else [*job.path, job.target]
    if job.arm == "as it is" and block.get("target") != dataset_name(job.target):
        return False  # the same source was trained for another target
    if job.arm == "co-trained":
        wanted = [job.path[0], f"{job.target}+{job.path[0]}"]
    if job.arm == "direct, low rate":  # the tag names the source
        wanted = [job.target]
    mixes = [content.get("mixed", []) for content in block.get("configurations", {}).values()]
    return path == wanted and (job.arm != "replay" or any(mixes)) and (job.arm != "sequence" or not any(mixes))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def run(command: str, *words: str) -> None:
    """Run a command of this project to its end. Raises SystemExit if it fails."""
    print("$", command, *words, file=sys.stderr, flush=True)
    own = {name: value for name, value in os.environ.items() if name != "nnUNet_n_proc_DA"}
    own["nnUNet_n_proc_DA"] = "0"
    finished = subprocess.run([str(scripts_folder() / command), *words], env=own, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode:
        raise SystemExit(f"{command} ended with {finished.returncode}; run the study again to resume")


def read_rows(table: Path) -> list[dict[str, str]]:
    """Return the measured rows; none at the beginning."""
    if not table.is_file():
        return []
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def summary(rows: Sequence[dict[str, str]]) -> str:
    """Return the table of arms: mean Dice, differences to other arms, and the number of paths below scratch.

    The unit of the intervals is the target and seed (bootstrap, 95 %): the mean over the paths of one unit counts once.
    The column "same last source" compares a path with direct transfer from its last source alone.
    """
    units: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        unit = units.setdefault((row["target"], row["seed"]), {})
        unit.setdefault(row["arm"], {})[row["path"]] = float(row["dice"])
    lines = [
        f"{len({target for target, _ in units})} targets, {len(units)} targets and seeds",
        "",
        "| arm | Dice | to sequence | to direct, same last source | to the best direct | below scratch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in ARMS:
        own = [unit for unit in units.values() if {arm, "scratch", "sequence", "direct"} <= unit.keys()]
        if not own:
            continue
        means = [mean(unit[arm].values()) for unit in own]
        to_sequence = [mean(unit[arm].values()) - mean(unit["sequence"].values()) for unit in own]
        to_same = [
            mean(value - unit["direct"].get(last_source(path), mean(unit["direct"].values())) for path, value in found)
            for unit, found in ((unit, unit[arm].items()) for unit in own)
        ]
        to_best = [mean(unit[arm].values()) - max(unit["direct"].values()) for unit in own]
        below = [value < unit["scratch"][""] for unit in own for value in unit[arm].values()]
        columns = (_span(to_sequence), _span(to_same), _span(to_best), f"{sum(below)} of {len(below)}")
        lines.append(f"| {arm} | {mean(means):.3f} | {' | '.join(columns)} |")
    return "\n".join([*lines, "", *left_out(units)])


def left_out(units: dict[tuple[str, str], dict[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the arm that is best on all other targets, for each target, and what it reached there."""
    rivals = [arm for arm in ARMS if arm not in {"scratch", "long"}]
    whole = {key: unit for key, unit in units.items() if set(ARMS) <= unit.keys()}
    gains, direct = [], []
    for target in sorted({key[0] for key in whole} if len({key[0] for key in whole}) > 1 else ()):
        others = [unit for key, unit in whole.items() if key[0] != target]
        best = max(rivals, key=lambda arm: mean(mean(unit[arm].values()) for unit in others))
        own = [unit for key, unit in whole.items() if key[0] == target]
        gains.append(mean(mean(unit[best].values()) - unit["scratch"][""] for unit in own))
        direct.append(mean(mean(unit[best].values()) - mean(unit["direct"].values()) for unit in own))
        yield f"{target}: the others choose {best}, {gains[-1]:+.3f} to scratch, {direct[-1]:+.3f} to direct"
    if gains:
        yield f"chosen so, mean: {_span(gains)} to scratch, {_span(direct)} to direct"


def last_source(path: str) -> str:
    """Return the source that trains last, or that a joint stage belongs to; empty for scratch.

    >>> last_source("503 500"), last_source("500+503"), last_source("500 500+700"), last_source("")
    ('500', '500', '500', '')
    """
    *_, last = path.split(" ")
    return last.partition("+")[0]


def _span(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    draws = np.random.default_rng(0).choice(differences, (2000, len(differences))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{mean(differences):+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()

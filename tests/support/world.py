"""A small nnU-Net world: datasets, folders, and the commands that run in it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import SimpleITK as sitk
from PIL import Image

os.environ.setdefault("nnUNet_def_n_proc", "2")
for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # small networks are fastest so, and tests run side by side
    os.environ.setdefault(threads, "1")
SHARED = Path(__file__).parents[3] / "shared"
"""Real datasets beside the repository; tests that use them skip where they are not there."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
PYTHON = sys.executable
QUICK_FINGERPRINTS = """
import sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
for name in sys.argv[1:]:
    extractor = DatasetFingerprintExtractor(name, 1)
    extractor.num_foreground_voxels_for_intensitystats = 1e5
    extractor.run()
"""
"""nnU-Net's own extractor; it draws 100 million intensities from however few voxels, here a thousandth of that."""

TARGET, NEAR, FAR, TWO_CHANNELS = "Dataset901_Target", "Dataset902_Near", "Dataset903_Far", "Dataset904_TwoChannels"
FLAT_TARGET, FLAT_SOURCE = "Dataset911_FlatTarget", "Dataset912_FlatSource"


@dataclass(frozen=True)
class World:
    """nnU-Net's three folders."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def environment(self) -> dict[str, str]:
        folders = {"nnUNet_raw": self.raw, "nnUNet_preprocessed": self.preprocessed, "nnUNet_results": self.results}
        return {name: str(folder) for name, folder in folders.items()}

    def snapshot(self, *, caches: bool = True) -> dict[str, tuple[int, int]]:
        """Every file below the world with its size and time: equal snapshots mean that nothing was touched.

        Without ``caches``, what a dry run may keep of the raw cases is left out.
        """
        kept = () if caches else ("check.json", "sketches_", "dataset_fingerprint.json")
        return {
            str(path.relative_to(self.root)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.name.startswith(kept)
        }


def make_case(rng: np.random.Generator, channels: int, labels: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Images (channels, 20, 24, 20) and labels (20, 24, 20): bright (or dark) ellipsoids on a noisy ground."""
    shape = (20, 24, 20)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    segmentation = np.zeros(shape, dtype=np.uint8)
    image = rng.normal(100, 10, shape)
    for label in range(1, labels + 1):
        centre = np.asarray(shape) * (0.3 + 0.35 * (label - 1)) + rng.normal(0, 1, 3)
        mask = (((grid - centre) / rng.uniform(3, 5, 3)) ** 2).sum(axis=-1) < 1
        segmentation[mask] = label
        image[mask] += contrast * label
    images = np.stack([image + rng.normal(0, 5, shape) * channel for channel in range(channels)])
    return images.astype(np.float32), segmentation


def make_dataset(
    raw: Path, name: str, channels: tuple[str, ...], labels: tuple[str, ...], contrast: float, cases: int = 6
) -> None:
    """Registers a dataset of NIfTI volumes in nnUNet_raw."""
    rng = np.random.default_rng(int(name[7:10]))
    folder = raw / name
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in range(cases):
        images, segmentation = make_case(rng, len(channels), len(labels), contrast)
        for channel, image in enumerate(images):
            sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"imagesTr/case{case}_{channel:04d}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(segmentation), str(folder / f"labelsTr/case{case}.nii.gz"))
    write_dataset_json(folder, channels, labels, cases, ".nii.gz")


def make_flat_dataset(raw: Path, name: str, channels: tuple[str, ...], contrast: float, cases: int = 6) -> None:
    """Registers a dataset of PNG images in nnUNet_raw; three channels are stored as one RGB file, as nnU-Net reads."""
    rng = np.random.default_rng(int(name[7:10]))
    folder = raw / name
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in range(cases):
        images, segmentation = make_case(rng, 1, 1, contrast)
        image = np.kron(images[0, 7], np.ones((2, 2))).clip(0, 255).astype(np.uint8)
        label = np.kron(segmentation[7], np.ones((2, 2), dtype=np.uint8))
        stored = np.stack([image] * 3, axis=-1) if len(channels) == 3 else image
        Image.fromarray(stored).save(folder / f"imagesTr/case{case}_0000.png")
        Image.fromarray(label).save(folder / f"labelsTr/case{case}.png")
    write_dataset_json(folder, channels, ("object",), cases, ".png")


def write_dataset_json(
    folder: Path, channels: tuple[str, ...], labels: tuple[str, ...], cases: int, ending: str
) -> None:
    content = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {"background": 0, **{name: index + 1 for index, name in enumerate(labels)}},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def shrink_network(plans_file: Path) -> None:
    """Makes the planned networks narrow and the batches small, so that they train in seconds on a CPU."""
    plans = json.loads(plans_file.read_text())
    for settings in plans["configurations"].values():
        if "architecture" in settings:
            width = settings["architecture"]["arch_kwargs"]["features_per_stage"]
            settings["architecture"]["arch_kwargs"]["features_per_stage"] = [4 * 2**i for i in range(len(width))]
            settings["batch_size"] = 2
    plans_file.write_text(json.dumps(plans, indent=4))


def make_world(world: World) -> None:
    """Registers all datasets; has nnU-Net extract their fingerprints, and plan and preprocess three of them."""
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir()
    make_dataset(world.raw, TARGET, ("MRI",), ("front", "back"), 60)
    make_dataset(world.raw, NEAR, ("T1",), ("organ",), 60)
    make_dataset(world.raw, FAR, ("T1",), ("organ",), -60)
    make_dataset(world.raw, TWO_CHANNELS, ("T1", "T2"), ("organ",), 60)
    make_flat_dataset(world.raw, FLAT_TARGET, ("R", "G", "B"), 60)
    make_flat_dataset(world.raw, FLAT_SOURCE, ("fluorescence",), 60)
    environment = {**os.environ, **world.environment}
    run([PYTHON, "-c", QUICK_FINGERPRINTS, *(path.name for path in world.raw.iterdir())], environment)
    planning = ["-d", "901", "904", "911", "-c", "3d_fullres", "2d", "-np", "2"]
    run([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), *planning], environment)
    for name in (TARGET, TWO_CHANNELS, FLAT_TARGET):
        shrink_network(world.preprocessed / name / "nnUNetPlans.json")


def load_script(path: str) -> ModuleType:
    """A script of the repository, ``path`` below its root, as a module that stays known: dataclasses look it up."""
    file = Path(__file__).parents[2] / path
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[file.stem] = module
    specification.loader.exec_module(module)
    return module


def run(command: list[str], environment: dict[str, str], expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; fails the test with its output where the exit status is another."""
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=600
    )
    assert finished.returncode == expect, (
        f"{command} ended with {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    )
    return finished


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and to all that it has started: trainings are in sessions of their own."""
    for process in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_when(command: list[str], world: World, ready: Callable[[], bool]) -> None:
    """Starts a command in a process group of its own and kills it and its children as soon as ``ready`` holds."""
    child = subprocess.Popen(
        command,
        env=python_environment(world),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not ready():
        assert child.poll() is None, f"ended before it could be killed: {child.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_tree(child.pid)
    child.communicate()


def descendants(pid: int) -> list[int]:
    """A process and all that it has started and that still belong to it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


def python_environment(world: World) -> dict[str, str]:
    """The environment of a child process in a world."""
    return {**os.environ, **world.environment, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}

"""Signatures that travel: written by nnUNetv2_seq_signature on one machine, used as a source on another."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.tasks.signature import read_signature
from support.bad_inputs import Command, assert_refused, error_line, truncate
from support.world import FAR, NEAR, TARGET, TWO_CHANNELS, World

SIGNATURE = ("signature", "-t", "901", "-n_cases", "3", "-np", "1")
AFFINITY = ("affinity", "-t", "901", "-n_cases", "3", "-np", "1")


def write(command: Command, folder: Path, number: str, *more: str) -> Path:
    path = folder / f"{number}.npz"
    outcome = command(*SIGNATURE, "-d", number, "-o", str(path), *more)
    assert outcome.status == 0, outcome.err
    return path


def remove(world: World, dataset: str) -> None:
    """As on a machine that never had the dataset."""
    for folder in (world.raw, world.preprocessed):
        shutil.rmtree(folder / dataset)


def affinity() -> Affinity:
    return read_affinity(affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "descriptors"))


def test_distances_are_the_same_without_the_dataset(world: World, command: Command, tmp_path: Path) -> None:
    """A signature gives the distances of its dataset to 1e-12 where the dataset is not."""
    assert command(*AFFINITY, "-s", "903", "904", "902").status == 0
    here = affinity()
    files = [write(command, tmp_path, "904"), write(command, tmp_path, "902")]
    for dataset in (NEAR, TWO_CHANNELS):
        remove(world, dataset)
    outcome = command(*AFFINITY, "-s", "903", *map(str, files))
    assert outcome.status == 0, outcome.err
    assert f"{NEAR} (signature)" in outcome.out and f"{FAR} (signature)" not in outcome.out
    there = affinity()
    assert there.names == here.names
    np.testing.assert_allclose(there.matrix(), here.matrix(), atol=1e-12, rtol=0)
    assert [task.registered for task in there.tasks] == [True, False, False, True]


def test_the_targets_plans_file_is_enough(world: World, command: Command, tmp_path: Path) -> None:
    """The plans file of a target that is not registered gives the same signature as the target itself."""
    plans = tmp_path / "plans.json"
    shutil.copy(world.preprocessed / TARGET / "nnUNetPlans.json", plans)
    with_target = read_signature(write(command, tmp_path, "902"))
    remove(world, TARGET)
    request = ("signature", "-plans", str(plans), *SIGNATURE[3:], "-d", "902", "-o", str(tmp_path / "b.npz"))
    assert command(*request).status == 0
    assert read_signature(tmp_path / "b.npz").digest == with_target.digest


def test_no_identifier_no_time_and_no_image_is_in_it(world: World, command: Command, tmp_path: Path) -> None:
    """No byte of the file's members names a case or holds a pickle, and all arrays are far smaller than an image."""
    path = write(command, tmp_path, "902")
    identifiers = [name.removesuffix("_0000.nii.gz") for name in map(str, Path(world.raw, NEAR, "imagesTr").iterdir())]
    identifiers = [Path(identifier).name for identifier in identifiers]
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    text = content.decode("latin-1") + content.decode("utf-32-le", errors="ignore")
    assert NEAR in text
    assert not any(identifier in text for identifier in identifiers)
    signature = read_signature(path)
    assert set(signature.stamps) == {""} and all(case.startswith("#") for case in signature.cases)
    assert all(array.size < 2000 for profile in signature.profiles for array in profile.values())
    assert path.stat().st_size < 100_000


def test_the_file_is_only_replaced_on_request(world: World, command: Command, tmp_path: Path) -> None:
    """An existing file is kept, unless --overwrite is given."""
    path = write(command, tmp_path, "902")
    before = path.read_bytes()
    outcome = command(*SIGNATURE, "-d", "903", "-o", str(path))
    assert "exists" in error_line(outcome) and path.read_bytes() == before
    write(command, tmp_path, "902", "--overwrite")
    assert command(*SIGNATURE, "-d", "903", "-o", str(path), "--overwrite").status == 0
    assert read_signature(path).dataset == FAR


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-d", "902", "-o", "x.txt"), ("x.txt", ".npz")),
        (("-d", "902", "-o", "x.npz", "-m", "published"), ("published", "segmentations", "-m")),
        (("-d", "999", "-o", "x.npz"), ("999",)),
        (("-d", "902", "-o", "x.npz", "-c", "3d_lowres"), ("3d_lowres", "3d_fullres")),
    ],
)
def test_bad_requests_write_nothing(
    world: World, command: Command, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A wrong ending, a metric whose signatures hold segmentations, an unknown dataset or configuration: one line."""
    assert_refused(world, command, ("signature", "-t", "901", "-np", "1", *arguments), *words)


def test_a_broken_plans_file_is_named(world: World, command: Command, tmp_path: Path) -> None:
    """A plans file that is cut off is named in one line."""
    plans = tmp_path / "plans.json"
    shutil.copy(world.preprocessed / TARGET / "nnUNetPlans.json", plans)
    truncate(plans)
    request = ("signature", "-plans", str(plans), "-d", "902", "-o", str(tmp_path / "s.npz"), "-np", "1")
    assert_refused(world, command, request, str(plans), "ask for the target")

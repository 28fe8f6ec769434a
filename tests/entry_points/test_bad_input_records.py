"""Affinity and plan files that were made for something else, edited, cut off, or by a newer version; broken caches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.bad_inputs import AFFINITY, PLAN, Command, assert_refused, rewrite, truncate
from support.world import FAR, NEAR, TARGET, World

TRAIN = ("train", "901", "3d_fullres", "0", "-np", "1", "-device", "cpu")
OWN = Path(TARGET, "seqtransfer")
AFFINITY_FILE = OWN / "affinity_nnUNetPlans_3d_fullres_descriptors.json"
PLAN_FILE = OWN / "sequence_nnUNetPlans_3d_fullres.json"
KINDS = {
    "affinity": (AFFINITY_FILE, PLAN, "nnUNetv2_seq_affinity"),
    "sequence plan": (PLAN_FILE, TRAIN, "nnUNetv2_seq_plan"),
}
both_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the records that the first test makes and the others copy."""
    return tmp_path_factory.mktemp("records")


@pytest.fixture
def planned(world: World, command: Command, records: Path) -> World:
    """A world with an affinity of two sources and a plan on it."""
    kept = records / "preprocessed"
    if not kept.is_dir():
        assert command(*AFFINITY, "-s", "902", "903").status == 0
        assert command(*PLAN).status == 0
        for path in world.preprocessed.glob("*/seqtransfer"):
            shutil.copytree(path, kept / path.relative_to(world.preprocessed))
    else:
        shutil.copytree(kept, world.preprocessed, dirs_exist_ok=True)
    return world


def test_good_records(planned: World, command: Command) -> None:
    """What the following tests do harm to is accepted as it is."""
    assert command(*TRAIN, "--dry_run").status == 0
    assert command(*PLAN, "-a", str(planned.preprocessed / AFFINITY_FILE)).status == 0


@both_kinds
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "is broken"),
        (lambda path: truncate(path, 0), "is broken"),
        (lambda path: path.write_text("[]"), "not a JSON object"),
        (lambda path: path.write_text("{}"), "this is no"),
        (lambda path: rewrite(path, lambda c: c.update(kind="run")), "this is no"),
        (lambda path: rewrite(path, lambda c: c.update(target="Dataset002_X")), "was edited or damaged"),
        (lambda path: rewrite(path, lambda c: c.pop("checksum")), "was edited or damaged"),
        (lambda path: rewrite(path, lambda c: c.pop("format")), "was edited or damaged"),
        (lambda path: rewrite(path, lambda c: c.pop("metric"), checked=True), "Object missing required field `metric`"),
        (lambda path: rewrite(path, lambda c: c.update(metric=1), checked=True), "Expected `str`, got `int`"),
    ],
)
def test_broken_records(planned: World, command: Command, kind: str, harm: Callable[[Path], Any], words: str) -> None:
    """A record that is cut off, of another kind, edited, or lacks entries is named with the command that makes it."""
    file, arguments, maker = KINDS[kind]
    path = planned.preprocessed / file
    harm(path)
    assert_refused(planned, command, arguments, words, str(path), f"run {maker}")
    if kind == "affinity":
        assert_refused(planned, command, (*arguments, "-a", str(path)), words, str(path), f"run {maker}")


@both_kinds
def test_records_of_a_newer_version(planned: World, command: Command, kind: str) -> None:
    """A record of a newer format asks for a newer version of this package."""
    file, arguments, _ = KINDS[kind]
    path = planned.preprocessed / file
    rewrite(path, lambda c: c.update(format=99))
    words = (f"the {kind} file has format 99, this version reads up to", str(path), "update nnunet-seqtransfer")
    assert_refused(planned, command, arguments, *words)


@both_kinds
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "Dataset911_FlatTarget"}, "was made for Dataset911_FlatTarget nnUNetPlans 3d_fullres"),
        ({"configuration": "2d"}, f"was made for {TARGET} nnUNetPlans 2d, not for {TARGET} nnUNetPlans 3d_fullres"),
        ({"plans": "otherPlans"}, f"was made for {TARGET} otherPlans 3d_fullres"),
    ],
)
def test_records_made_for_something_else(
    planned: World, command: Command, kind: str, change: dict[str, str], words: str
) -> None:
    """A record of another target, configuration or plans, whole as it is, is refused with both."""
    file, arguments, maker = KINDS[kind]
    path = planned.preprocessed / file
    rewrite(path, lambda c: c.update(change), checked=True)
    assert_refused(planned, command, arguments, words, str(path), f"run {maker} for this target")


@both_kinds
def test_records_whose_sources_are_gone(planned: World, command: Command, kind: str) -> None:
    """A record that names a source which is no longer registered is refused with that source."""
    file, arguments, maker = KINDS[kind]
    path = planned.preprocessed / file
    for name in (NEAR, FAR):
        shutil.rmtree(planned.raw / name)
        shutil.rmtree(planned.preprocessed / name)
    if kind == "sequence plan":
        rewrite(path, lambda c: c.update(sources=[NEAR, FAR]), checked=True)
    named = sorted((NEAR, FAR))[0]
    assert_refused(planned, command, arguments, f"names {named}, which is not registered any more", str(path), maker)


def test_an_affinity_file_of_another_target(planned: World, command: Command) -> None:
    """-a with the affinity of another target is refused with both targets."""
    path = planned.preprocessed / AFFINITY_FILE
    words = (f"was made for {TARGET} nnUNetPlans 3d_fullres, not for Dataset911_FlatTarget nnUNetPlans 2d", str(path))
    assert_refused(planned, command, ("plan", "-t", "911", "-c", "2d", "-a", str(path)), *words)


@pytest.mark.parametrize(
    ("file", "words"),
    [("/no/such/file.json", "is missing"), ("/", "is no file"), (str(PLAN_FILE), "this is no affinity file")],
)
def test_affinity_files_that_are_none(planned: World, command: Command, file: str, words: str) -> None:
    """-a with a file that is missing, a folder, or of another kind is refused."""
    assert_refused(planned, command, (*PLAN, "-a", str(planned.preprocessed / file)), words, file)


def test_a_dry_run_makes_no_plan(world: World, command: Command) -> None:
    """Where there is no plan yet, --dry_run says so instead of making one."""
    words = ("there is no plan yet", str(PLAN_FILE), "run nnUNetv2_seq_plan first")
    assert_refused(world, command, (*TRAIN, "--dry_run"), *words)

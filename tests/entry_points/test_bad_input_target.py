"""A target that is not planned or preprocessed, or whose files are broken: refused with the command that mends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.tasks.task import sample_cases
from support.bad_inputs import COMMANDS, DRY, PLAN, TRAIN, Command, assert_refused, truncate
from support.world import FAR, NEAR, TARGET, TWO_CHANNELS, World

PLANS = "nnUNetPlans.json"
DATA = "nnUNetPlans_3d_fullres"
REMEDY = "nnUNetv2_plan_and_preprocess -d 901 -c 3d_fullres"
(SAMPLED,) = sample_cases(tuple(f"case{number}" for number in range(6)), 1, 0)
every_command = pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)


def with_configuration(arguments: tuple[str, ...], name: str) -> tuple[str, ...]:
    if arguments[0] == "train":
        return tuple(name if word == "3d_fullres" else word for word in arguments)
    return (*arguments, "-c", name)


@every_command
def test_a_target_that_is_not_planned(world: World, command: Command, arguments: tuple[str, ...]) -> None:
    """A target without plans is told how to make them; so is one whose plans of another name are asked for."""
    assert_refused(world, command, (*arguments, "-p", "nnUNetResEncUNetLPlans"), "nnUNetResEncUNetLPlans.json", "-p")
    (world.preprocessed / TARGET / PLANS).unlink()
    assert_refused(world, command, arguments, f"plans file nnUNetPlans of {TARGET} is missing", PLANS, REMEDY)


@every_command
def test_an_unknown_configuration(world: World, command: Command, arguments: tuple[str, ...]) -> None:
    """A configuration that the plans do not have is refused with those that they have."""
    wrong = with_configuration(arguments, "3d_lowres")
    assert_refused(world, command, wrong, f"{TARGET} has no configuration '3d_lowres'", "choose one of: 2d, 3d_fullres")


@every_command
def test_a_configuration_that_inherits(world: World, command: Command, arguments: tuple[str, ...]) -> None:
    """A cascade is refused with the configurations that can be used."""
    path = world.preprocessed / TARGET / PLANS
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    path.write_text(json.dumps(plans))
    wrong = with_configuration(arguments, "3d_cascade_fullres")
    assert_refused(world, command, wrong, "a cascade", "choose one of: 2d, 3d_fullres")


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@every_command
@pytest.mark.parametrize(
    ("harm", "count"),
    [
        (shutil.rmtree, 6),
        (empty_folder, 6),
        (lambda folder: (folder / "case2.b2nd").unlink(), 1),
        (lambda folder: (folder / "case2_seg.b2nd").unlink(), 1),
        (lambda folder: (folder / "case2.pkl").unlink(), 1),
    ],
)
def test_a_target_that_is_not_preprocessed(
    world: World, command: Command, arguments: tuple[str, ...], harm: Callable[[Path], Any], count: int
) -> None:
    """A target whose preprocessed cases are missing or incomplete is told how many, where, and the command."""
    folder = world.preprocessed / TARGET / DATA
    harm(folder)
    words = (f"{TARGET} is not preprocessed for 3d_fullres: {count} of 6 cases", str(folder), REMEDY)
    assert_refused(world, command, arguments, *words)


@every_command
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"plans_name": "nnU', "is broken"),
        ("", "is broken"),
        ("[]", "not a JSON object"),
        ("{}", "lacks plans_name, configurations, image_reader_writer"),
        ('{"configurations": []}', "lacks plans_name"),
    ],
)
def test_broken_plans(world: World, command: Command, arguments: tuple[str, ...], content: str, words: str) -> None:
    """Plans that are truncated, no JSON object, or lack entries are named with the command that makes them again."""
    path = world.preprocessed / TARGET / PLANS
    path.write_text(content)
    assert_refused(world, command, arguments, words, str(path), f"delete it and run {REMEDY}")


@every_command
@pytest.mark.parametrize("entry", ["data_identifier", "spacing", "patch_size", "batch_size", "normalization_schemes"])
def test_plans_that_lack_entries(world: World, command: Command, arguments: tuple[str, ...], entry: str) -> None:
    """An entry of the configuration that is missing is named."""
    path = world.preprocessed / TARGET / PLANS
    plans = json.loads(path.read_text())
    del plans["configurations"]["3d_fullres"][entry]
    path.write_text(json.dumps(plans))
    assert_refused(world, command, arguments, f"the plans file lacks {entry}", str(path), REMEDY)


@pytest.mark.parametrize("keep", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_broken_preprocessed_case(world: World, command: Command, ending: str, keep: float) -> None:
    """nnUNetv2_seq_affinity reads preprocessed cases of the target and names a broken one."""
    path = world.preprocessed / TARGET / DATA / f"{SAMPLED}{ending}"
    truncate(path, keep)
    words = (f"case {SAMPLED} is broken", f"{path.with_name(SAMPLED)}.*", "preprocess the dataset again")
    assert_refused(world, command, COMMANDS["affinity"], *words, alone=False, keeps=(NEAR,))


def test_planning_reads_the_same_cases(world: World, command: Command) -> None:
    """nnUNetv2_seq_plan and _train compare where there is no affinity yet, and so name a broken case too."""
    truncate(world.preprocessed / TARGET / DATA / "case3.b2nd")
    for arguments in (PLAN, ("train", "901", "3d_fullres", "0", "-np", "1")):
        words = ("the preprocessed case case", "is broken")
        assert_refused(world, command, arguments, *words, alone=False, keeps=(NEAR, FAR, TWO_CHANNELS))


@pytest.mark.parametrize("arguments", [TRAIN, DRY, (*TRAIN[:4], "-np", "1")], ids=["train", "dry run", "without plan"])
@pytest.mark.parametrize("fold", ["7", "5", "-1", "x", "1.0", "", "ALL"])
def test_a_fold_that_does_not_exist(world: World, command: Command, arguments: tuple[str, ...], fold: str) -> None:
    """A fold beyond the splits, or no fold at all, is refused with those that there are, before any plan is made."""
    wrong = (*arguments[:3], fold, *arguments[4:])
    assert_refused(world, command, wrong, f"{TARGET} has no fold {fold}; choose from 0 to 4, or all")


def test_too_few_cases_for_folds(world: World, command: Command) -> None:
    """A target of four cases has no five folds: fold all, or splits of one's own."""
    for name, ending in (("raw", ".nii.gz"), ("preprocessed", "")):
        root = getattr(world, name) / TARGET
        for number in (4, 5):
            for path in root.rglob(f"case{number}*{ending}"):
                path.unlink()
    path = world.preprocessed / TARGET / "dataset_fingerprint.json"
    fingerprint = json.loads(path.read_text())
    path.write_text(json.dumps({**fingerprint, **{k: fingerprint[k][:4] for k in ("spacings", "shapes_after_crop")}}))
    raw = world.raw / TARGET / "dataset.json"
    raw.write_text(raw.read_text().replace('"numTraining": 6', '"numTraining": 4'))
    words = (f"{TARGET} has 4 cases, too few for nnU-Net's five folds", "train fold all", "splits_final.json")
    for arguments in (TRAIN, DRY, (*TRAIN[:4], "-np", "1")):
        assert_refused(world, command, arguments, *words)
    assert command(*DRY[:3], "all", *DRY[4:]).status == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "are broken"),
        ('[{"train": ["case0"]', "are broken"),
        ('{"train": [], "val": []}', "no list of folds"),
        ("[1, 2]", "no list of folds"),
        ('[{"train": ["case0"], "val": ["case9"]}]', "name cases that it does not have, the first is case9"),
        ('[{"train": ["case0"], "val": ["case1"]}]', "no fold 1; choose from 0 to 0, or all"),
    ],
)
def test_broken_splits(world: World, command: Command, content: str, words: str) -> None:
    """Splits that are truncated, no folds, of other cases, or fewer than asked for are named."""
    (world.preprocessed / TARGET / "splits_final.json").write_text(content)
    fold = "1" if "fold 1" in words else "0"
    for arguments in (TRAIN, (*TRAIN[:4], "-np", "1")):
        assert_refused(world, command, (*arguments[:3], fold, *arguments[4:]), TARGET, words)

"""Tests of nnunet/datasets.py: cases and folds are nnU-Net's own."""

from __future__ import annotations

import json
import os
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import pytest
import torch
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json, validation_cases
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS, World


def as_nnunet_lists(folder: Any) -> dict[str, tuple[list[str], str]]:
    listed = get_filenames_of_train_images_and_targets(str(folder))
    return {str(case): (list(files["images"]), files["label"]) for case, files in listed.items()}


def as_we_list(dataset: str) -> dict[str, tuple[list[str], str]]:
    cases = raw_cases(dataset, read_dataset_json(dataset))
    return {
        name: ([os.path.abspath(path) for path in case.images], os.path.abspath(case.label))  # noqa: PTH100 - nnU-Net's
        for name, case in cases.items()
    }


@pytest.mark.parametrize("dataset", [TARGET, NEAR, FAR, TWO_CHANNELS, FLAT_TARGET, FLAT_SOURCE])
def test_cases_are_those_that_nnunet_finds(world, dataset: str) -> None:
    """Identifiers and files of every registered dataset are nnU-Net's own, in their order."""
    ours, theirs = as_we_list(dataset), as_nnunet_lists(world.raw / dataset)
    assert ours == theirs
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("how", ["relative", "absolute", "variable", "up and down"])
def test_cases_that_dataset_json_lists(world, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Cases listed in dataset.json, by relative, absolute or variable paths, are those that nnU-Net finds."""
    folder = world.raw / TWO_CHANNELS
    monkeypatch.setenv("IMAGES", str(folder))
    prefix = {"relative": "", "absolute": f"{folder}/", "variable": "$IMAGES/", "up and down": f"../{NEAR}/../"}[how]
    prefix += f"{TWO_CHANNELS}/" if how == "up and down" else ""
    entry = {
        f"patient {number}": {
            "images": [f"{prefix}imagesTr/case{number}_{channel:04d}.nii.gz" for channel in range(2)],
            "label": f"{prefix}labelsTr/case{number}.nii.gz",
        }
        for number in (4, 0, 2)
    }
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": entry, "numTraining": 3}))
    assert as_we_list(TWO_CHANNELS) == as_nnunet_lists(folder)


def test_stray_files_are_no_cases(world) -> None:
    """Hidden files, notes and other endings beside the images make no case."""
    folder = world.raw / NEAR
    for name in ("imagesTr/notes.txt", "imagesTr/case0_0000.json", "labelsTr/readme.md"):
        (folder / name).write_text("x")
    assert as_we_list(NEAR) == as_nnunet_lists(folder)


CASES = tuple(f"case{number}" for number in range(6))


def test_validation_cases_are_those_that_nnunet_will_make(world: World) -> None:
    """Before splits_final.json is there, the folds are the ones that nnU-Net then writes into it."""
    trainer = nnunet_run.get_trainer_from_args(TARGET, "3d_fullres", 1, "nnUNetTrainer", device=torch.device("cpu"))
    expected = validation_cases(TARGET, CASES)
    assert not (world.preprocessed / TARGET / "splits_final.json").exists()
    assert sorted(trainer.do_split()[1]) == sorted(expected["1"])
    written = json.loads((world.preprocessed / TARGET / "splits_final.json").read_text())
    assert {str(fold): tuple(split["val"]) for fold, split in enumerate(written)} == expected
    assert validation_cases(TARGET, CASES) == expected
    assert validation_cases(NEAR, CASES[:4]) == {}

"""Models of other datasets are tried on the target's labelled cases, as nnU-Net itself would predict and score them."""

from __future__ import annotations

import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import CheckpointError, DatasetError
from nnunet_seqtransfer.transfer.probe import (
    Model,
    dice_table,
    find_models,
    match_labels,
    models_in,
    probe_models,
    probes_path,
    read_probes,
)
from support.world import FAR, NEAR, PYTHON, SCRIPTS, TARGET, TWO_CHANNELS, World, python_environment, run

TRAIN = """
import json, sys, torch
from pathlib import Path
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
name, fold = sys.argv[1], sys.argv[2]
folder = Path(nnUNet_preprocessed) / name
plans, labels = (json.loads((folder / file).read_text()) for file in ("nnUNetPlans.json", "dataset.json"))
plans["continue_training"] = False
trainer = nnUNetTrainer(plans, "3d_fullres", fold if fold == "all" else int(fold), labels, torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 8, 1
trainer.run_training()
"""
"""Trains nnU-Net's own trainer for seconds."""


def test_dice_is_that_of_the_definition() -> None:
    """2 TP / (2 TP + FP + FN) for each pair of labels; NaN if neither has a voxel."""
    reference, predicted = np.array([[1, 1, 0, 2]]), np.array([[1, 0, 0, 1]])
    table = dice_table(reference, {"a": (1,), "b": (2,), "both": (1, 2)}, predicted, {"x": (1,), "y": (5,)})
    assert table == pytest.approx(np.array([[0.5, 0], [2 / 3, 0], [0.8, 0]]))
    assert np.isnan(dice_table(np.zeros((2, 2)), {"a": (1,)}, np.zeros((2, 2)), {"x": (1,)}))
    with pytest.raises(DatasetError, match=r"\(1, 3\)"):
        dice_table(reference, {"a": (1,)}, np.zeros((1, 3)), {"x": (1,)})


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_matched_as_brute_force_does(seed: int) -> None:
    """The one-to-one match with the highest mean Dice is found, also with unequal numbers of labels."""
    rng = np.random.default_rng(seed)
    ours, theirs = (int(number) for number in rng.integers(1, 5, 2))
    tables = rng.random((3, ours, theirs))
    dice, labels = match_labels(tables, [f"o{i}" for i in range(ours)], [f"t{j}" for j in range(theirs)])
    means, few = tables.mean(axis=0), min(ours, theirs)
    best = max(
        sum(means[i, j] for i, j in zip(rows, columns, strict=True))
        for rows in permutations(range(ours), few)
        for columns in permutations(range(theirs), few)
    )
    assert dice == pytest.approx(best / ours)
    assert len(labels) == few == len(set(labels.values()))


def test_empty_cases_count_for_no_label() -> None:
    """A case without the label in both segmentations is left out of the mean, as in nnU-Net's evaluation."""
    dice, _ = match_labels(np.array([[[0.5]], [[np.nan]]]), ["a"], ["x"])
    assert dice == 0.5


def test_models_outside_nnunets_results_are_found(tmp_path: Path) -> None:
    """A results folder, or a folder of such, gives its dataset by plans.json; anything else is refused by name."""
    folder = tmp_path / "zoo" / "Dataset055_Liver" / "nnUNetTrainerOther__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps({"dataset_name": "Dataset055_Liver"}))
    with pytest.raises(CheckpointError, match="zoo"):
        models_in([tmp_path / "zoo"], "3d_fullres")
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    for path in (folder, folder.parent, tmp_path / "zoo"):
        assert models_in([path], "3d_fullres") == {"Dataset055_Liver": Model("Dataset055_Liver", folder, "0")}


@pytest.fixture(scope="module")
def trained(world_template: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which nnU-Net itself trained a model of 904, whose data take the target's plans."""
    own = World(tmp_path_factory.mktemp("probe") / "world")
    shutil.copytree(world_template.root, own.root)
    environment = {**python_environment(own), "nnUNet_compile": "f"}
    run([PYTHON, "-c", TRAIN, TARGET, "all"], environment)
    return own


@pytest.fixture
def models(trained: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in trained.environment.items():
        monkeypatch.setenv(name, value)
    probes_path(NEAR).unlink(missing_ok=True)
    return trained


def mask(folder: Path, case: str, value: int) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))) == value


@pytest.mark.chain
def test_a_probe_equals_nnunets_prediction_and_evaluation(models: World, tmp_path: Path) -> None:
    """The zero-shot Dice is that of nnUNetv2_predict and nnU-Net's evaluation on the same cases."""
    found = find_models("3d_fullres", [TARGET, FAR])
    assert list(found) == [TARGET]
    assert found[TARGET].name == f"{TARGET}/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_all"
    probes, left_out = probe_models(NEAR, found, Context(), cases=3)
    assert not left_out
    probe = probes[TARGET]
    assert probe.cases == ("case0", "case1", "case2")

    images, references = tmp_path / "images", tmp_path / "references"
    for folder in (images, references):
        folder.mkdir()
    for case in probe.cases:
        (images / f"{case}_0000.nii.gz").symlink_to(models.raw / NEAR / f"imagesTr/{case}_0000.nii.gz")
        (references / f"{case}.nii.gz").symlink_to(models.raw / NEAR / f"labelsTr/{case}.nii.gz")
    environment = python_environment(models)
    options = [
        "-d",
        TARGET,
        "-c",
        "3d_fullres",
        "-f",
        "all",
        "-device",
        "cpu",
        "--disable_tta",
        "-npp",
        "1",
        "-nps",
        "1",
    ]
    run([str(SCRIPTS / "nnUNetv2_predict"), "-i", str(images), "-o", str(tmp_path / "out"), *options], environment)
    means = []
    for value in (1, 2):  # the target's one label against each label of the model
        pairs = [(mask(references, case, 1), mask(tmp_path / "out", case, value)) for case in probe.cases]
        means.append(np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]))
    assert probe.dice == pytest.approx(max(means), abs=1e-9)
    assert probe.labels == {"organ": ("front", "back")[int(np.argmax(means))]}


@pytest.mark.chain
def test_a_probe_is_made_once(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model and cases are read from the record; a changed checkpoint or other cases are predicted again."""
    lines: list[str] = []
    found = find_models("3d_fullres", [TARGET])
    first, _ = probe_models(NEAR, found, Context(lines.append), cases=1)
    again, _ = probe_models(NEAR, found, Context(lines.append), cases=1)
    assert (first, len(lines)) == (again, 1)
    assert read_probes(NEAR) == first
    probe_models(NEAR, found, Context(lines.append), cases=2)
    assert len(lines) == 2


@pytest.mark.chain
def test_models_that_cannot_be_used_are_named(models: World, tmp_path: Path) -> None:
    """Too many channels, foreign network classes and damaged checkpoints leave a model out with its reason."""
    found = find_models("3d_fullres", [TARGET])
    _, left_out = probe_models(TWO_CHANNELS, found, Context(), cases=1)
    assert "channels" in left_out[TARGET]
    plans_file = found[TARGET].folder / "plans.json"
    original = plans_file.read_text()
    plans = json.loads(original)
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    try:
        plans_file.write_text(json.dumps(plans))
        _, left_out = probe_models(NEAR, found, Context(), cases=1)
        assert "os.system" in left_out[TARGET]
    finally:
        plans_file.write_text(original)
    assert read_probes(NEAR) == {}

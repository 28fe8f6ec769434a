"""Predictions of a test set: made once, by whoever comes first, and whole."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, StageError
from nnunet_seqtransfer.evaluation import held_out as prediction
from nnunet_seqtransfer.evaluation.comparison import CompareRequest
from nnunet_seqtransfer.evaluation.held_out import (
    HeldOutSet,
    load_held_out,
    predict,
    require_unseen_folds,
    require_unseen_test,
)
from nnunet_seqtransfer.evaluation.trials import survey_comparison
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json, split_cases
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_dataset
from nnunet_seqtransfer.tasks.task import load_target, load_task
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from support.world import FAR, NEAR, TARGET, World


@pytest.fixture
def stage(world: World) -> Stage:
    """A trained target's stage, as far as a prediction asks."""
    recipe = Recipe(1, 2)
    (only,) = chain_stages(ChainRequest(TARGET, (), "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 0))
    only.output.mkdir(parents=True)
    (only.output / FINAL).write_bytes(b"weights")
    return only


@pytest.fixture
def cases(world: World) -> HeldOutSet:
    """The target's own cases as a test set."""
    return HeldOutSet(TARGET, TARGET, raw_cases(TARGET, read_dataset_json(TARGET)))


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where nnU-Net's command, replaced by a slow one, was told to write, call by call."""
    calls: list[Path] = []

    def run(job: Job) -> None:
        folder = Path(job.command[job.command.index("-o") + 1])
        images = Path(job.command[job.command.index("-i") + 1])
        calls.append(folder)
        folder.mkdir(parents=True)
        for image in sorted(images.iterdir()):
            time.sleep(0.05)
            (folder / image.name.replace("_0000", "")).write_bytes(image.name.encode())

    monkeypatch.setattr(prediction, "run_job", run)
    return calls


def test_two_comparisons_at_once_predict_once(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """The second waits and takes what the first has made."""
    found, errors = [], []

    def ask() -> None:
        try:
            found.append(predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors and len(predicted) == 1 and found[0] == found[1]
    assert all(any(found[0][1].glob(f"{case}.*")) for case in cases.cases)


def test_a_prediction_that_is_gone_or_of_another_reference_is_made_again(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """With all the others of its model, and without the old summary; what is whole is left alone."""
    _, folder = predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 1
    gone = next(iter(folder.glob(f"{min(cases.cases)}.*")))
    gone.unlink()
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 2 and gone.exists()
    (folder / "summary.json").write_text("{}")
    os.utime(cases.cases[min(cases.cases)].label, (1, 1))
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 3 and not (folder / "summary.json").exists()


def test_cases_that_left_the_test_set_are_not_predicted(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """Their links go."""
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    first = min(cases.cases)
    fewer = HeldOutSet(TARGET, TARGET, {first: cases.cases[first]})
    _, folder = predict(fewer, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert {path.name.split(".")[0] for path in folder.glob("*.nii.gz")} == {first}


CASES = [f"case{number}" for number in range(6)]


def guard(*folds: str, test: str | None = None, sources: tuple[str, ...] = ()) -> None:
    target, _ = load_target(TARGET, "nnUNetPlans", "3d_fullres")
    splits = split_cases(TARGET, target.cases)
    if test is None:
        require_unseen_folds(target, folds, splits, Context())
    else:
        tasks = [load_task(source) for source in sources]
        require_unseen_test(load_held_out(test, target), target, tasks, folds, splits, Context())


def share(world: World, source: str, own: str, case: str) -> None:
    """A source gets the image of a case of the target under a name of its own, with a label of its own."""
    shutil.copy(world.raw / TARGET / f"imagesTr/{case}_0000.nii.gz", world.raw / source / f"imagesTr/{own}_0000.nii.gz")


def test_splits_that_overlap_are_refused(world):
    """splits_final.json can put a case on both sides of a fold."""
    guard("0", "1")
    (world.preprocessed / TARGET / "splits_final.json").write_text(json.dumps([{"train": CASES[:4], "val": CASES[3:]}]))
    with pytest.raises(StageError, match=r"^1 of the cases .*fold 0.* such as case3, which is case3 of"):
        guard("0")


def test_a_patient_that_is_in_the_target_twice_is_refused(world):
    """The same image under two names, one on each side of the fold; the other folds are welcome."""
    splits = split_cases(TARGET, CASES)
    share(world, TARGET, splits["0"]["train"][0], splits["0"]["val"][0])
    with pytest.raises(StageError, match=f"such as {splits['0']['val'][0]}, which is {splits['0']['train'][0]} of"):
        guard("0")


def test_a_source_with_a_case_that_a_fold_validates_on_is_refused(world, command):
    """A comparison has no switch to allow it, only one to exclude such cases."""
    held_out = split_cases(TARGET, CASES)["0"]["val"][0]
    share(world, NEAR, "case3", held_out)
    assert command("affinity", "-t", "901", "-s", "902", "-np", "1", "--allow_overlap").status == 0
    request = CompareRequest(TARGET, kinds=("scratch", "direct"), nearest=1)
    with pytest.raises(StageError, match=f"case3 with {held_out}"):
        survey_comparison(request, Context())
    survey = survey_comparison(CompareRequest(TARGET, kinds=("scratch", "direct"), exclude_overlap=True), Context())
    assert survey.exclusions["0"][NEAR] == ("case3",)


def test_fold_all_needs_a_test_set(world):
    """Its validation is on the training cases; with a test set it is welcome."""
    with pytest.raises(StageError, match="fold all holds no case out"):
        guard("all")
    make_test_images(world, "new", case="case0", noise=True)
    guard("all", test=TARGET, sources=(NEAR, FAR))


def test_a_test_case_that_is_trained_on_is_refused(world):
    """imagesTs with a copy of a training image; a derived dataset that refers to a training file; a source itself."""
    make_test_images(world, "new", case="case2", noise=False)
    with pytest.raises(StageError, match=rf"such as new, which is case2 of {TARGET} .*same image.*leave that dataset"):
        guard("all", test=TARGET)
    derive_dataset(DeriveRequest(TARGET, 950, "Test", cases=("case4",)), Context())
    with pytest.raises(StageError, match=r"such as case4, which is case4 .*same file"):
        guard("all", test="Dataset950_Test")


def test_a_test_case_of_another_fold_is_no_training_case(world):
    """A test set of cases that the compared fold validates on is welcome; another fold trains on them."""
    held_out = split_cases(TARGET, CASES)["0"]["val"]
    derive_dataset(DeriveRequest(TARGET, 950, "Test", cases=tuple(held_out)), Context())
    guard("0", test="Dataset950_Test")
    with pytest.raises(StageError, match="would be trained on"):
        guard("0", "1", test="Dataset950_Test")


def test_a_test_set_has_to_fit_the_target(world):
    """Other labels or channels cannot be evaluated; if imagesTs is missing, the error says so."""
    target, _ = load_target(TARGET, "nnUNetPlans", "3d_fullres")
    with pytest.raises(DatasetError, match="has other channels and labels than"):
        load_held_out(NEAR, target)
    with pytest.raises(DatasetError, match="has no labelled test cases: there are none in"):
        load_held_out(TARGET, target)


def make_test_images(world: World, name: str = "new", case: str = "case0", noise: bool = True) -> None:
    """Makes imagesTs and labelsTs of the target from a training case, its image changed beyond recognition or not."""
    import numpy as np
    import SimpleITK as sitk

    folder = world.raw / TARGET
    for part in ("imagesTs", "labelsTs"):
        (folder / part).mkdir(exist_ok=True)
    image = sitk.ReadImage(str(folder / f"imagesTr/{case}_0000.nii.gz"))
    label = sitk.ReadImage(str(folder / f"labelsTr/{case}.nii.gz"))
    if noise:
        rng = np.random.default_rng(5)
        shape = sitk.GetArrayFromImage(image).shape
        image = sitk.GetImageFromArray(rng.normal(100, 20, shape).astype(np.float32))
        label = sitk.GetImageFromArray(
            (rng.uniform(size=shape) > 0.8).astype(np.uint8) * rng.integers(1, 3, shape, np.uint8)
        )
    sitk.WriteImage(image, str(folder / f"imagesTs/{name}_0000.nii.gz"))
    sitk.WriteImage(label, str(folder / f"labelsTs/{name}.nii.gz"))

"""Predictions of a test set: made once, by whoever comes first, and whole."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.evaluation import prediction
from nnunet_seqtransfer.evaluation.prediction import HeldOutSet, predict
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from support.world import TARGET, World


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


def test_a_prediction_that_is_gone_is_made_again(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """With all the others of its model; what is whole is left alone."""
    _, folder = predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 1
    gone = next(iter(folder.glob(f"{min(cases.cases)}.*")))
    gone.unlink()
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 2 and gone.exists()


def test_a_changed_reference_is_evaluated_again(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """The summary of the old one goes with the predictions."""
    _, folder = predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    (folder / "summary.json").write_text("{}")
    os.utime(cases.cases[min(cases.cases)].label, (1, 1))
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert len(predicted) == 2 and not (folder / "summary.json").exists()


def test_cases_that_left_the_test_set_are_not_predicted(
    stage: Stage, cases: HeldOutSet, predicted: list[Path], tmp_path: Path
) -> None:
    """Their links go."""
    predict(cases, stage, tmp_path, "cpu", Context(), mirroring=False)
    first = min(cases.cases)
    fewer = HeldOutSet(TARGET, TARGET, {first: cases.cases[first]})
    _, folder = predict(fewer, stage, tmp_path, "cpu", Context(), mirroring=False)
    assert {path.name.split(".")[0] for path in folder.glob("*.nii.gz")} == {first}

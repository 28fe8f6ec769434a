"""The estimate of time: closed forms, what is measured replaces what is guessed, and one figure for every command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.training_log import Epoch, TrainingLog
from nnunet_seqtransfer.planning.options import Training
from nnunet_seqtransfer.storage import write_json
from nnunet_seqtransfer.tasks.alignment import plans_for
from nnunet_seqtransfer.tasks.task import load_task
from nnunet_seqtransfer.training import estimate
from nnunet_seqtransfer.training.estimate import SECONDS_PER_EPOCH, USUAL, Clock, forward_pass, preprocessing_seconds
from nnunet_seqtransfer.training.history import find_clock, find_history, missing_preprocessing
from nnunet_seqtransfer.training.recipe import Recipe
from support import world as worlds
from support.runs import NEAR, TARGET, epoch_lines, finish, record, training_log
from support.states import outlook_of


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 2)


def settings(features: list[int], patch: list[int], batch: int = 2) -> dict[str, Any]:
    """A plain U-Net in plans: two convolutions a stage."""
    count, axes = len(features), len(patch)
    parts: dict[str, Any] = {"features_per_stage": features, "kernel_sizes": [[3] * axes] * count}
    parts |= {"strides": [[1] * axes] + [[2] * axes] * (count - 1), "n_conv_per_stage": [2] * count}
    parts["n_conv_per_stage_decoder"] = [2] * (count - 1)
    return {"patch_size": patch, "batch_size": batch, "architecture": {"arch_kwargs": parts}}


def test_a_single_convolution_is_counted_by_hand() -> None:
    """One stage with two convolutions on 4 x 4 x 4 voxels: 27 products for each pair of channels."""
    flops_and_activations = (2 * 64 * 27 * (1 * 8 + 8 * 8) / 1e9, 2 * 64 * 8 / 1e6)
    assert forward_pass(settings([8], [4, 4, 4], 1)) == pytest.approx(flops_and_activations)


def test_residual_blocks_have_two_convolutions() -> None:
    """A residual U-Net with one block per stage counts like a plain one with two convolutions."""
    plain, residual = (settings([8, 16], [8, 8, 8]) for _ in range(2))
    parts = residual["architecture"]["arch_kwargs"]
    del parts["n_conv_per_stage"]
    parts["n_blocks_per_stage"] = [1, 1]
    assert forward_pass(residual) == forward_pass(plain)


def test_the_usual_network_takes_the_published_time() -> None:
    """With nnU-Net's usual plans, or without any, an epoch on a GPU takes 45 s; smaller networks less."""
    usual = settings([32, 64, 128, 256, 320, 320], [128, 128, 128])
    assert forward_pass(usual) == pytest.approx(USUAL, rel=0.01)
    assert Clock(usual).epoch(Recipe()) == pytest.approx(SECONDS_PER_EPOCH, rel=0.01)
    assert Clock().epoch(Recipe()) == pytest.approx(SECONDS_PER_EPOCH)
    assert Clock(settings([8, 16], [32, 32, 32])).epoch(Recipe()) < 4
    assert Clock(usual).epoch(Recipe(iterations=25)) == pytest.approx(Clock(usual).epoch(Recipe()) / 10)


@pytest.mark.parametrize(
    ("features", "patch", "batch", "seconds"),
    [
        ([32, 64, 128, 256], [40, 56, 40], 3, 1.53),
        ([8, 16, 32, 64], [40, 56, 40], 3, 0.19),
        ([8, 16, 32, 64], [32, 40, 32], 2, 0.06),
        ([4, 8, 16, 32], [32, 32, 32], 2, 0.035),
        ([32, 64, 128, 256], [56, 40], 119, 1.19),
        ([8, 16, 32, 64], [56, 40], 40, 0.042),
    ],
)
def test_iterations_measured_on_two_cores(features: list[int], patch: list[int], batch: int, seconds: float) -> None:
    """The model holds within a factor of 2 from tiny to default networks."""
    recipe = Recipe(iterations=1000)
    iteration = Clock(settings(features, patch, batch), device="cpu").epoch(recipe) / (1000 + 200 / 3)
    assert seconds / 2 < iteration < 2 * seconds


def test_a_stage_is_the_sum_of_its_parts() -> None:
    """Start-up once, epochs, and the cases of the final validation with their pools; nothing left takes no time."""
    clock = Clock(settings([8, 16], [32, 32, 32]), [(32, 32, 32)] * 3 + [(64, 32, 32)], {"0": 3}, "cpu")
    recipe = Recipe(4)
    assert clock.stage(recipe, 0) == 0
    assert clock.stage(recipe, 4) == pytest.approx(estimate.START_SECONDS + 4 * clock.epoch(recipe))
    more = clock.stage(recipe, 4, 3) - clock.stage(recipe, 4, 1)
    assert more == pytest.approx(2 * clock.case()) and clock.stage(recipe, 4, 1) > clock.stage(recipe, 4)
    one = replace(clock, shapes=[(32, 32, 32)]).case() - estimate.CASE_SECONDS
    # three cases of one patch and one of three: steps of half a patch
    assert clock.case() - estimate.CASE_SECONDS == pytest.approx(1.5 * one)
    assert (clock.held_out("0"), clock.held_out("1"), clock.held_out("all")) == (3, 1, 4)
    assert preprocessing_seconds([(100, 100, 100)], 0, 2) == 0 < preprocessing_seconds([(100, 100, 100)], 1, 2)


def test_what_was_logged_replaces_every_guess() -> None:
    """Epochs, the first epoch, predicted cases and pools are taken from the log, for other iterations in proportion."""
    epochs = tuple(Epoch(number, seconds=30.0 if number == 0 else 10.0) for number in range(4))
    log = TrainingLog(epochs, predicted=5, case_seconds=2.0, validation_seconds=45.0)
    clock = Clock(settings([8, 16], [32, 32, 32]), [(32, 32, 32)]).with_log(log, Recipe())
    assert clock.epoch(Recipe()) == pytest.approx(10.0) and clock.epoch(Recipe(iterations=500)) == pytest.approx(20.0)
    assert clock.pace.epochs == 4 and clock.case() == pytest.approx(2.0)
    assert clock.stage(Recipe(), 6, 5) == pytest.approx(estimate.START_SECONDS + 20 + 6 * 10 + 35 + 5 * 2)


def test_the_newest_training_of_the_network_counts(folders: Path) -> None:
    """Of two trainings for the target the newer one; not one on another device, and not one for another target."""
    chain = record(sources=(NEAR,), epochs=3)
    for stage, seconds in zip(chain.stages, (10.0, 20.0), strict=True):
        finish(chain, stage)
        log = training_log(stage, epoch_lines(range(3), seconds=seconds))
        log.touch()
    names = TARGET, "nnUNetPlans", "3d_fullres"
    assert find_clock(*names, "cpu").epoch(Recipe()) == pytest.approx(20.0)
    write_json(chain.stages[1].output / "debug.json", {"device": "cuda:0"})
    assert find_clock(*names, "cpu").epoch(Recipe()) == pytest.approx(10.0)
    assert find_clock("Dataset005_Other", *names[1:], "cpu").pace.epochs == 0


def test_plan_and_dry_run_say_the_same(folders: Path) -> None:
    """Hours of a source and of the target are the seconds that the chain's outlook has for its stages."""
    chain = record(sources=(NEAR,), epochs=3)
    names = TARGET, "nnUNetPlans", "3d_fullres"
    history = find_history(Training(3, 3), names, (NEAR,), "cpu")
    outlook = outlook_of(chain.stages, {}, clock=find_clock(*names, "cpu"))
    assert [3600 * history.source_hours, 3600 * history.target_hours] == pytest.approx(list(outlook.seconds.values()))
    given = find_history(Training(3, 3, epoch_time=7.0), names, (NEAR,))
    assert (given.epoch.origin, given.epoch.seconds) == ("given", pytest.approx(7.0))


def test_only_data_of_the_present_plans_is_done(world: worlds.World) -> None:
    """Folders of earlier plans and of other configurations do not count, and more cases than known leave 0 s."""
    plans, task = read_plans(worlds.TARGET, "nnUNetPlans", "3d_fullres"), load_task(worlds.NEAR)
    present = data_folder(worlds.NEAR, plans_for(plans, dataset_id(worlds.TARGET), task), "3d_fullres")

    def seconds_with(folder: str, cases: int) -> float:
        for case in range(cases):
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                path = present.with_name(folder) / f"case_{case}{ending}"
                path.parent.mkdir(exist_ok=True)
                path.touch()
        return missing_preprocessing(worlds.NEAR, (worlds.TARGET, "nnUNetPlans", "3d_fullres"), 1)

    everything = seconds_with("none", 0)
    stem = f"nnUNetPlans_for{dataset_id(worlds.TARGET)}_3d_fullres"
    assert seconds_with(f"{stem}_00000000", 6) == seconds_with(f"{stem}_bs4_00000000", 6) == everything > 0
    assert 0 < seconds_with(present.name, 4) < everything and seconds_with(present.name, 9) == 0

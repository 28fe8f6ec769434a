"""What stages cost, how long an epoch takes, and which stages in nnUNet_results are trained already."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_seqtransfer.planning.prices import EpochTime, Training, stage_price
from nnunet_seqtransfer.training.history import find_epoch_time, find_finished
from nnunet_seqtransfer.training.recipe import Recipe
from support.archives import CONFIGURATION, PLANS, Archive, make_archive

TARGET, A, B = "Dataset004_T", "Dataset021_A", "Dataset024_B"
STAGE = (TARGET, PLANS, CONFIGURATION)
RECIPE = Recipe(epochs=250, iterations=250)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return make_archive(tmp_path, monkeypatch)


def log(fold: Path, *seconds: float) -> None:
    """nnU-Net's training log."""
    lines = [f"2026-11-20 16:40:20.366565: Epoch time: {value} s \n" for value in seconds]
    fold.mkdir(parents=True, exist_ok=True)
    (fold / "training_log_2026_11_20.txt").write_text("2026: Epoch 0 \n" + "".join(lines))


def test_prices() -> None:
    """Epochs are counted, hours are epochs times their length, the target is trained once for each fold."""
    training, epoch = Training(epochs=100, source_epochs=40, folds=5), EpochTime(36.0, "given")
    assert stage_price(training, epoch, "epochs", is_target=False) == 40
    assert stage_price(training, epoch, "epochs", is_target=True) == 500
    assert stage_price(training, epoch, "GPU hours", is_target=False) == pytest.approx(0.4)
    assert stage_price(training, epoch, "GPU hours", is_target=True) == pytest.approx(5.0)


def test_prices_of_sources_with_iterations_of_their_own() -> None:
    """Their hours are in proportion to their iterations; their epochs, and the target's hours, are not touched."""
    training, epoch = Training(100, 40, iterations=200, source_iterations=50), EpochTime(36.0, "given")
    assert stage_price(training, epoch, "epochs", is_target=False) == 40
    assert stage_price(training, epoch, "GPU hours", is_target=False) == pytest.approx(0.1)
    assert stage_price(training, epoch, "GPU hours", is_target=True) == pytest.approx(1.0)


def test_an_epoch_time_that_is_given_counts(archive: Archive) -> None:
    """Whatever was measured."""
    log(archive.add_stage((A,), TARGET, f"{PLANS}_for4", RECIPE), 5.0)
    assert find_epoch_time(Training(epoch_time=12.5), *STAGE) == EpochTime(12.5, "given")


def test_an_epoch_time_is_the_median_of_the_logs(archive: Archive) -> None:
    """Of sources and target, of all epochs, trained for this target with as many iterations; nothing else counts."""
    log(archive.add_stage((A,), TARGET, f"{PLANS}_for4", RECIPE), 90.0, 10.0, 12.0)
    log(archive.add_stage((B,), TARGET, f"{PLANS}_for4", Recipe(250, 10)), 1.0, 1.0, 1.0)
    log(archive.add_stage((B,), "Dataset041_X", f"{PLANS}_for41", RECIPE), 2.0, 2.0, 2.0)
    log(archive.root / "results" / TARGET / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}" / "fold_0", 11.0, 14.0)
    log(archive.root / "results" / A / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}" / "fold_0", 3.0)
    found = find_epoch_time(Training(), *STAGE)
    assert found.seconds == 12.0 and "median of 5" in found.origin
    assert find_epoch_time(Training(iterations=10), *STAGE).seconds == 1.0


def test_an_epoch_time_that_nobody_measured_is_said_to_be_assumed(archive: Archive) -> None:
    """nnU-Net's own, in proportion to the iterations."""
    found = find_epoch_time(Training(iterations=125), *STAGE)
    assert found.seconds == 22.5 and "not measured" in found.origin


def test_finished_stages_are_found_by_their_path(archive: Archive) -> None:
    """A first source and one after it, by the names that a chain gives them."""
    archive.add_stage((A,), TARGET, f"{PLANS}_for4", RECIPE)
    archive.add_stage((A, B), TARGET, f"{PLANS}_for4_via21", Recipe(250, 250, warmup_epochs=5))
    assert find_finished(*STAGE, Training()).paths == {(A,), (A, B)}


def test_stages_with_other_epochs_do_not_count_and_are_told(archive: Archive) -> None:
    """Both numbers are named."""
    archive.add_stage((A,), TARGET, f"{PLANS}_for4", RECIPE)
    found = find_finished(*STAGE, Training(source_epochs=100))
    assert found.paths == frozenset()
    assert found.other_recipes == {(A,): "250 epochs of 250 iterations, not 100 of 250"}


def test_stages_count_by_the_iterations_of_sources(archive: Archive) -> None:
    """Which may be others than the target's."""
    archive.add_stage((A,), TARGET, f"{PLANS}_for4", Recipe(250, 50))
    assert find_finished(*STAGE, Training(source_iterations=50)).paths == {(A,)}
    found = find_finished(*STAGE, Training())
    assert found.paths == frozenset()
    assert found.other_recipes == {(A,): "250 epochs of 50 iterations, not 250 of 250"}


def test_stages_of_another_tag_target_or_configuration_do_not_count(archive: Archive) -> None:
    """What a chain would not look at is not reused."""
    archive.add_stage((A,), TARGET, f"{PLANS}_for4_long", RECIPE)
    archive.add_stage((A,), "Dataset041_X", f"{PLANS}_for41", RECIPE)
    archive.add_stage((B,), TARGET, f"{PLANS}_for4_via9", RECIPE)
    assert find_finished(*STAGE, Training()).paths == frozenset()
    assert find_finished(*STAGE, Training(tag="long")).paths == {(A,)}
    assert find_finished(TARGET, PLANS, "2d", Training(tag="long")).paths == frozenset()
    assert find_finished("Dataset041_X", PLANS, CONFIGURATION, Training()).paths == {(A,)}


def test_stages_that_are_cut_off_or_lost_their_plans_do_not_count(archive: Archive) -> None:
    """A truncated checkpoint, plans that are gone, plans that are broken."""
    archive.add_stage((A,), TARGET, f"{PLANS}_for4", RECIPE, whole=False)
    archive.add_stage((B,), TARGET, f"{PLANS}_for4", RECIPE)
    plans = archive.root / "preprocessed" / B / f"{PLANS}_for4.json"
    plans.write_text(plans.read_text()[:-20])
    assert find_finished(*STAGE, Training()).paths == frozenset()
    plans.unlink()
    assert find_finished(*STAGE, Training()).paths == frozenset()


def test_planning_does_without_results(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nnUNet_results is not set, nothing is finished and nothing measured."""
    monkeypatch.delenv("nnUNet_results")
    assert find_finished(*STAGE, Training()).paths == frozenset()
    assert "not measured" in find_epoch_time(Training(), *STAGE).origin

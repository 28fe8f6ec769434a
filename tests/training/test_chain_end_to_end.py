"""Real chains: nnU-Net trains small networks on small data, and what it leaves behind is looked at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nnunetv2.run.run_training as nnunet_run
import pytest
import SimpleITK as sitk
import torch

from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.transfer.checkpoints import HEADS, body_digest, load_checkpoint
from support.world import (
    FAR,
    FLAT_SOURCE,
    FLAT_TARGET,
    NEAR,
    SCRIPTS,
    TARGET,
    TWO_CHANNELS,
    World,
    python_environment,
    run,
)

pytestmark = pytest.mark.chain

TRAINER = "nnUNetTrainerSeqTransfer"
SMALL = ("-device", "cpu", "-epochs", "2", "-source_epochs", "2", "-iterations", "2", "-seed", "0", "-np", "1")


def fold_folder(world: World, dataset: str, plans: str, configuration: str, fold: str) -> Path:
    return world.results / dataset / f"{TRAINER}__{plans}__{configuration}" / f"fold_{fold}"


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint_final.pth")["network_weights"]


def log_text(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("training_log_*.txt")))


def weights_at_start(dataset: str, plans: str, configuration: str, fold: str) -> dict[str, torch.Tensor]:
    """The network as nnU-Net's own training has it right before the first iteration of a stage."""
    trainer = nnunet_run.get_trainer_from_args(
        dataset, configuration, fold if fold == "all" else int(fold), TRAINER, plans, device=torch.device("cpu")
    )
    trainer.on_train_start()
    return trainer.network.state_dict()


@pytest.fixture
def seen_by_nnunet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())


def test_a_chain_hands_every_tensor_but_the_heads_from_stage_to_stage(world, command, seen_by_nnunet):
    """Source, source, target: the network entering each stage equals, bit for bit, the one that left the last."""
    outcome = command("train", "901", "3d_fullres", "0", "-s", "902", "903", *SMALL)
    assert outcome.status == 0, outcome.err
    stages = [
        (NEAR, "nnUNetPlans_for901", "all"),
        (FAR, "nnUNetPlans_for901_via902", "all"),
        (TARGET, "nnUNetPlans_via902_903", "0"),
    ]
    folders = [fold_folder(world, dataset, plans, "3d_fullres", fold) for dataset, plans, fold in stages]
    for before, after, (dataset, plans, fold) in zip(folders[:-1], folders[1:], stages[1:], strict=True):
        left, entered = final_weights(before), weights_at_start(dataset, plans, "3d_fullres", fold)
        assert all(torch.equal(left[name], entered[name]) for name in entered if HEADS not in name)
        assert f"body SHA-256 {body_digest(left)}" in log_text(after)
        assert body_digest(final_weights(after)) != body_digest(left), "the stage must have trained"

    assert command("report", "901").status == 0, "newer than the files that nnU-Net's trainers wrote above"
    snapshot = world.snapshot()
    again = command("train", "901", "3d_fullres", "0", "-s", "902", "903", *SMALL)
    assert again.status == 0 and again.err.count("finished") == 3, "started again after success it says so"
    assert world.snapshot() == snapshot, "and touches nothing"

    validation = folders[0] / "validation"
    assert [path.name for path in validation.iterdir()] == ["summary.json"], "a source is not validated"
    assert json.loads((validation / "summary.json").read_text())["metric_per_case"] == []
    assert (folders[2] / "validation" / "summary.json").is_file(), "the target is"
    predict_with_stock_nnunet(world, "nnUNetPlans_via902_903")


def predict_with_stock_nnunet(world: World, plans: str) -> None:
    images = world.root / "in"
    images.mkdir()
    shutil.copy(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz", images)
    environment = python_environment(world)
    environment.pop("nnUNet_extTrainer", None)  # so that nnU-Net cannot find our trainer
    arguments = ["-d", "901", "-i", str(images), "-o", str(world.root / "out"), "-tr", TRAINER, "-p", plans]
    settings = ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *arguments, *settings], environment)
    assert sitk.ReadImage(str(world.root / "out" / "case0.nii.gz")).GetSize() == (20, 24, 20)


def test_other_numbers_of_channels_and_labels_are_handed_over_by_the_documented_rule(world, command, seen_by_nnunet):
    """One channel before a target with two: each channel gets the sum over the old ones divided by the new number."""
    outcome = command("train", "904", "3d_fullres", "all", "-s", "902", *SMALL)
    assert outcome.status == 0, outcome.err
    left = final_weights(fold_folder(world, NEAR, "nnUNetPlans_for904", "3d_fullres", "all"))
    entered = weights_at_start(TWO_CHANNELS, "nnUNetPlans_via902", "3d_fullres", "all")
    changed = {name for name in entered if HEADS not in name and left[name].shape != entered[name].shape}
    assert changed == {
        f"{prefix}encoder.stages.0.0.convs.0.{alias}"
        for prefix in ("", "decoder.")
        for alias in ("conv.weight", "all_modules.0.weight")
    }
    for name in set(entered) - changed:
        assert HEADS in name or torch.equal(left[name], entered[name])
    for name in changed:
        assert entered[name].shape[1] == 2
        assert torch.equal(entered[name], (left[name].sum(1, keepdim=True) / 2).expand_as(entered[name]))


def test_natural_images_in_2d_go_through_the_same_chain(world, command):
    """Fluorescence (one channel, PNG) before RGB (three channels, PNG) in the 2d configuration ends like volumes do."""
    outcome = command("train", "911", "2d", "0", "-s", "912", *SMALL)
    assert outcome.status == 0, outcome.err
    assert (fold_folder(world, FLAT_TARGET, "nnUNetPlans_via912", "2d", "0") / "checkpoint_final.pth").is_file()
    assert (fold_folder(world, FLAT_SOURCE, "nnUNetPlans_for911", "2d", "all") / "checkpoint_final.pth").is_file()


def test_folds_share_their_sources_and_chains_their_beginnings(world, command):
    """A second fold, and a longer chain with the same beginning, train only what is new."""
    assert command("train", "901", "3d_fullres", "0", "-s", "902", *SMALL).status == 0
    source = fold_folder(world, NEAR, "nnUNetPlans_for901", "3d_fullres", "all") / "checkpoint_final.pth"
    before = sha256(source)
    assert command("train", "901", "3d_fullres", "0", "1", "-s", "902", *SMALL).status == 0
    longer = command("train", "901", "3d_fullres", "0", "-s", "902", "903", *SMALL)
    assert longer.status == 0 and "stage 1 of 3: Dataset902_Near fold all finished" in longer.err
    assert sha256(source) == before
    direct = fold_folder(world, TARGET, "nnUNetPlans_via902", "3d_fullres", "0") / "checkpoint_final.pth"
    sequence = fold_folder(world, TARGET, "nnUNetPlans_via902_903", "3d_fullres", "0") / "checkpoint_final.pth"
    assert direct.is_file() and sequence.is_file(), "two chains through one dataset do not overwrite each other"
    preprocessed = [path.name for path in (world.preprocessed / NEAR).iterdir() if path.is_dir()]
    assert len([name for name in preprocessed if name.startswith("nnUNetPlans_for901_3d_fullres")]) == 1


def test_a_truncated_latest_checkpoint_gives_way_to_the_best_one(world, command):
    """nnU-Net would crash on a truncated checkpoint_latest.pth; the chain moves it aside and goes on from the best."""
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    folder = fold_folder(world, TARGET, "nnUNetPlans_scratch", "3d_fullres", "0")
    final = folder / "checkpoint_final.pth"
    (folder / "checkpoint_latest.pth").write_bytes(final.read_bytes()[:5000])
    final.unlink()
    shutil.rmtree(folder / "validation")
    again = command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL)
    assert again.status == 0, again.err
    assert "checkpoint_latest.pth is truncated" in again.err and "resumes from its checkpoint" in again.err
    assert final.is_file() and (folder / "checkpoint_latest.pth.damaged").is_file()
    assert log_text(folder).count("Epoch 0 ") == 1, "epoch 0 was not repeated"


def test_a_missing_final_validation_is_made_up_for_without_training(world, command):
    """Where only the target's validation is missing, it alone is run, and a finished one is not run again."""
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    folder = fold_folder(world, TARGET, "nnUNetPlans_scratch", "3d_fullres", "0")
    (folder / "validation" / "summary.json").unlink()
    before = sha256(folder / "checkpoint_final.pth")
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    assert (folder / "validation" / "summary.json").is_file()
    assert sha256(folder / "checkpoint_final.pth") == before
    validations = log_text(folder).count("Validation complete")
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    assert log_text(folder).count("Validation complete") == validations


def test_a_stage_with_another_recipe_is_an_error_that_names_both(world, command):
    """The same stage asked for with other epochs is refused, and a tag gives it a place of its own."""
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    snapshot = world.snapshot()
    longer = [*SMALL[:3], "5", *SMALL[4:]]
    refused = command("train", "901", "3d_fullres", "0", "-s", "none", *longer)
    assert refused.status == 2 and "epochs: 2 on disk, 5 requested" in refused.err and "-tag" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert world.snapshot() == snapshot
    tagged = command("train", "901", "3d_fullres", "0", "-s", "none", "-tag", "long", "--dry_run", *longer)
    assert tagged.status == 0 and "nnUNetPlans_scratch_long" in tagged.out
    assert world.snapshot() == snapshot, "a dry run does nothing"


def test_checkpoints_hold_what_nnunets_own_do_and_name_the_stock_trainer(world, command):
    """Keys and types are those of a checkpoint that stock nnU-Net wrote, and trainer_name is nnUNetTrainer."""
    assert command("train", "901", "3d_fullres", "0", "-s", "none", *SMALL).status == 0
    folder = fold_folder(world, TARGET, "nnUNetPlans_scratch", "3d_fullres", "0")
    ours = load_checkpoint(folder / "checkpoint_final.pth")
    trainer = nnunet_run.get_trainer_from_args("901", "3d_fullres", 0, "nnUNetTrainer", device=torch.device("cpu"))
    trainer.initialize()
    stock_path = world.root / "stock.pth"
    trainer.save_checkpoint(str(stock_path))
    stock = load_checkpoint(stock_path)
    assert list(ours) == list(stock)
    set_by_training = ("_best_ema", "inference_allowed_mirroring_axes")  # None before the first epoch
    assert {name: type(value) for name, value in ours.items() if name not in set_by_training} == {
        name: type(value) for name, value in stock.items() if name not in set_by_training
    }
    assert ours["trainer_name"] == "nnUNetTrainer" and list(ours["network_weights"]) == list(stock["network_weights"])


def test_a_fine_tuning_stage_called_by_hand_without_its_weights_refuses_to_train(world, command, seen_by_nnunet):
    """nnUNetv2_train on plans that belong behind another stage never trains from random weights, with --c or not."""
    assert command("train", "901", "3d_fullres", "0", "-s", "902", *SMALL).status == 0
    base = world.results / TARGET / f"{TRAINER}__nnUNetPlans_via902__3d_fullres"
    shutil.rmtree(base / "fold_0")
    (base / "seq_transfer_init.pth").unlink()
    by_hand = [str(SCRIPTS / "nnUNetv2_train"), "901", "3d_fullres", "0", "-tr", TRAINER, "-p", "nnUNetPlans_via902"]
    for switch in ([], ["--c"]):
        failed = run([*by_hand, "-device", "cpu", *switch], dict(os.environ), expect=1)
        assert "weights are missing" in failed.stderr or "weights of this stage are missing" in failed.stderr
    assert not list(base.glob("fold_0/checkpoint_*")), "nothing was trained"
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans_via902.json").read_text())
    assert plans["seq_transfer"]["path"] == [NEAR, TARGET]

"""Real chains of mixed stages: killed in the joint stage, continued, and predicted by stock nnU-Net."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from nnunet_seqtransfer.transfer.checkpoints import HEADS, body_digest, load_checkpoint
from support.world import (
    FAR,
    FLAT_SOURCE,
    FLAT_TARGET,
    NEAR,
    SCRIPTS,
    TARGET,
    World,
    kill_when,
    python_environment,
    run,
)

pytestmark = pytest.mark.chain

TRAINER = "nnUNetTrainerSeqTransfer"
RECIPE = ["-device", "cpu", "-epochs", "4", "-source_epochs", "4", "-iterations", "8", "-seed", "0", "-np", "1"]


def folder(world: World, dataset: str, plans: str, fold: str, configuration: str = "3d_fullres") -> Path:
    return world.results / dataset / f"{TRAINER}__{plans}__{configuration}" / f"fold_{fold}"


def weights(fold: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(fold / "checkpoint_final.pth")["network_weights"]


def log_text(fold: Path) -> str:
    return "".join(path.read_text() for path in sorted(fold.glob("training_log_*.txt")))


def test_a_chain_of_mixed_stages_survives_a_kill_and_predicts(world: World) -> None:
    """902+904 -> 903 -> 901 with replay: 1 and 2 channels, killed in the joint stage; it ends as a stock model."""
    chain = [str(SCRIPTS / "nnUNetv2_seq_train"), "901", "3d_fullres", "0", "-s", "902+904", "903", "-replay", "0.25"]
    chain += RECIPE
    joint = folder(world, NEAR, "nnUNetPlans_for901_with904", "all")
    second = folder(world, FAR, "nnUNetPlans_for901_via902+904_replay25", "all")
    target = folder(world, TARGET, "nnUNetPlans_via902+904_903_replay25", "0")
    kill_when(chain, world, lambda: "Epoch 2" in log_text(joint))
    assert not (joint / "checkpoint_final.pth").exists()
    run(chain, python_environment(world))
    assert len(re.findall(r"Epoch 0\s", log_text(joint))) == 1, "it went on from its checkpoint"
    for before, after in ((joint, second), (second, target)):
        assert f"body SHA-256 {body_digest(weights(before))}" in log_text(after)
    plain = ["-s", "902", "903", *RECIPE, "-tag", "plain"]
    run([*chain[:4], *plain], python_environment(world))
    stock = weights(folder(world, TARGET, "nnUNetPlans_via902_903_plain", "0"))
    final = weights(target)
    assert {name: tensor.shape for name, tensor in final.items()} == {name: t.shape for name, t in stock.items()}
    assert any(not torch.equal(final[name], stock[name]) for name in final if HEADS not in name)
    block = json.loads((world.preprocessed / TARGET / "nnUNetPlans_via902+904_903_replay25.json").read_text())
    mixed = block["seq_transfer"]["configurations"]["3d_fullres"]["mixed"]
    assert [entry["dataset"] for entry in mixed] == [NEAR, "Dataset904_TwoChannels", FAR]
    assert [entry["heads"] is not None for entry in mixed] == [True, False, True]

    snapshot = world.snapshot()
    run(chain, python_environment(world))
    assert world.snapshot() == snapshot, "started again after success it touches nothing"
    images = world.root / "in"
    images.mkdir()
    shutil.copy(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz", images)
    environment = python_environment(world)
    environment.pop("nnUNet_extTrainer", None)  # so that nnU-Net cannot find our trainer
    predict = ["-d", "901", "-i", str(images), "-o", str(world.root / "out"), "-tr", TRAINER, "-f", "0"]
    predict += ["-p", "nnUNetPlans_via902+904_903_replay25", "-c", "3d_fullres", "-device", "cpu", "--disable_tta"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *predict, "-npp", "1", "-nps", "1"], environment)
    assert sitk.ReadImage(str(world.root / "out" / "case0.nii.gz")).GetSize() == (20, 24, 20)


def test_rgb_images_co_train_with_a_source_of_one_channel_in_2d(world: World) -> None:
    """From random weights; the last epochs train on the target alone."""
    chain = [str(SCRIPTS / "nnUNetv2_seq_train"), "911", "2d", "0", "-s", "912+911", *RECIPE]
    run(chain, python_environment(world))
    fold = folder(world, FLAT_TARGET, "nnUNetPlans_with912", "0", "2d")
    assert (fold / "validation" / "summary.json").is_file()
    plans = json.loads((world.preprocessed / FLAT_TARGET / "nnUNetPlans_with912.json").read_text())
    (entry,) = plans["seq_transfer"]["configurations"]["2d"]["mixed"]
    assert (entry["dataset"], entry["channels"], entry["until"]) == (FLAT_SOURCE, [0, 0, 0], 0.5)

"""A stage extends the trainer that its recipe names: nnU-Net's own variants, and those of users."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
import SimpleITK as sitk
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_seqtransfer.nnunet.folders import external_trainers, trainer_names
from nnunet_seqtransfer.trainers.seq_transfer import extending, nnUNetTrainerSeqTransfer
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint
from support import mixed
from support.world import NEAR, SCRIPTS, TARGET, World, python_environment, run

QUIET = "nnUNetTrainerNoMirroring"
SMALL = ("-device", "cpu", "-epochs", "1", "-source_epochs", "1", "-iterations", "2", "-seed", "0", "-np", "1")


def own_trainer(folder: Path) -> None:
    """Put a user's trainer into a folder, and the folder into nnU-Net's variable."""
    folder.mkdir()
    (folder / "my_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n\n\n"
        "class MyTrainerOfMine(nnUNetTrainer):\n"
        "    def configure_optimizers(self):\n"
        "        optimizer, scheduler = super().configure_optimizers()\n"
        "        optimizer.defaults['mine'] = True\n"
        "        return optimizer, scheduler\n"
    )


def test_our_methods_come_before_those_of_the_other_trainer() -> None:
    """The class keeps the name that folders have; the stock trainer is extended as it is."""
    made = extending(QUIET)
    names = [cls.__name__ for cls in made.__mro__]
    assert names[:5] == [TRAINER, TRAINER, "InterruptibleTrainer", QUIET, "nnUNetTrainer"]
    assert issubclass(made, nnUNetTrainerSeqTransfer)
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        extending("nnUNetTrainerOfNobody")


def test_names_are_those_of_nnunets_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own, and those in the folders of nnUNet_extTrainer; ours is no choice."""
    own_trainer(tmp_path / "trainers")
    assert {QUIET, "nnUNetTrainerDA5"} < trainer_names() and TRAINER not in trainer_names()
    assert "MyTrainerOfMine" not in trainer_names()
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'trainers'}{os.pathsep}{tmp_path / 'nowhere'}")
    assert "MyTrainerOfMine" in trainer_names()


@pytest.mark.chain
def test_a_chain_with_another_trainer_for_the_target(world: World, command: Callable[..., object]) -> None:
    """Each final checkpoint names the trainer of the stage; stock nnU-Net predicts without this package."""
    trained = command(
        "train", "901", "3d_fullres", "0", "-s", "902", *SMALL, "-tr", QUIET, "-source_tr", "nnUNetTrainer"
    )
    assert trained.status == 0, trained.err
    source = world.results / NEAR / f"{TRAINER}__nnUNetPlans_for901__3d_fullres" / "fold_all"
    target = world.results / TARGET / f"{TRAINER}__nnUNetPlans_via902__3d_fullres" / "fold_0"
    found = [load_checkpoint(folder / "checkpoint_final.pth") for folder in (source, target)]
    assert [each["trainer_name"] for each in found] == ["nnUNetTrainer", QUIET]
    assert [each["inference_allowed_mirroring_axes"] for each in found] == [(0, 1, 2), None]
    other = command("train", "901", "3d_fullres", "0", "-s", "902", *SMALL)
    assert other.status == 2 and QUIET in other.err and "-tag" in other.err
    images, out = world.root / "in", world.root / "out"
    images.mkdir()
    shutil.copy(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz", images)
    environment = python_environment(world)
    environment.pop("nnUNet_extTrainer", None)
    place = ["-d", "901", "-i", str(images), "-o", str(out), "-tr", TRAINER, "-p", "nnUNetPlans_via902"]
    settings = ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *place, *settings], environment)
    assert sitk.ReadImage(str(out / "case0.nii.gz")).GetSize() == (20, 24, 20)


@pytest.mark.chain
def test_a_mixed_stage_with_a_users_trainer(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's methods are used, and the trainer can be copied, as mixed stages do."""
    own_trainer(tmp_path / "trainers")
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers({"nnUNet_extTrainer": str(tmp_path / "trainers")}))
    recipe = Recipe(epochs=1, iterations=2, seed=1, trainer="MyTrainerOfMine")
    mixed.write_stage(TARGET, "3d_fullres", recipe, mixed.MixedDataset(NEAR, "", 0.5))
    made = mixed.trainer(TARGET, "3d_fullres")
    made.run_training()
    assert made.optimizer.defaults["mine"] and type(copy(made)) is type(made) and isinstance(made, nnUNetTrainer)
    folder = mixed.folder(made)
    assert folder.parent.name == f"{TRAINER}__{mixed.PLANS}__3d_fullres"
    assert load_checkpoint(folder / "checkpoint_final.pth")["trainer_name"] == "MyTrainerOfMine"

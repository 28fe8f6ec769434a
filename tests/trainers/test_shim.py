"""nnU-Net finds our trainer through nnUNet_extTrainer, and it is the installed class."""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_seqtransfer.nnunet.folders import external_trainers, shim_folder
from nnunet_seqtransfer.trainers.seq_transfer import nnUNetTrainerSeqTransfer
from nnunet_seqtransfer.training.stages import TRAINER


def other_folder(tmp_path: Path) -> Path:
    """A folder of somebody else's trainers."""
    folder = tmp_path / "other trainers"
    folder.mkdir()
    (folder / "their_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerTheirs(nnUNetTrainer):\n    pass\n"
    )
    return folder


@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_the_search_finds_the_installed_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Alone or anywhere in an a:b list, the class found is the installed one, the same at every look-up, picklable."""
    other = str(other_folder(tmp_path))
    folders = {"alone": [str(shim_folder())], "first": [str(shim_folder()), other], "last": [other, str(shim_folder())]}
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(folders[place]))
    found = [recursive_find_trainer_class_by_name(TRAINER) for _ in range(2)]
    assert found == [nnUNetTrainerSeqTransfer] * 2
    assert pickle.loads(pickle.dumps(found[0])) is nnUNetTrainerSeqTransfer  # noqa: S301 - our own
    if place != "alone":
        assert recursive_find_trainer_class_by_name("nnUNetTrainerTheirs").__name__ == "nnUNetTrainerTheirs"


def test_the_name_that_stages_use_is_the_class() -> None:
    """Commands name the trainer by text; it is the class's name, and fit for nnU-Net's folders."""
    assert nnUNetTrainerSeqTransfer.__name__ == TRAINER
    assert "__" not in TRAINER


def test_the_shim_holds_one_module_and_no_package() -> None:
    """The folder on sys.path holds one module of a name that nobody else has, and nothing that would be imported."""
    assert [path.name for path in shim_folder().glob("*.py")] == ["nnunet_seqtransfer_trainers.py"]


@pytest.mark.parametrize("before", [None, "", "/a", "/a:/b", "{shim}", "/a:{shim}:/b", " ", ":/a:"])
def test_the_variable_keeps_what_is_set(before: str | None) -> None:
    """Folders of other plug-ins stay, in their order; ours is added once; doing it twice changes nothing."""
    shim = str(shim_folder())
    environment = {} if before is None else {"nnUNet_extTrainer": before.replace("{shim}", shim)}
    value = external_trainers(environment)
    others = [folder for folder in (before or "").split(":") if folder.startswith("/")]
    assert value.split(os.pathsep) == [*others, shim]
    assert external_trainers({"nnUNet_extTrainer": value}) == value


@pytest.mark.parametrize("before", [None, "/a", "/it's a; echo $(foo)/b:/c d"])
def test_the_line_for_a_shell(command, monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    """What nnUNetv2_seq_env prints, evaluated by bash, sets the variable to exactly that, whatever was set before."""
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    if before is not None:
        monkeypatch.setenv("nnUNet_extTrainer", before)
    outcome = command("env")
    assert (outcome.status, outcome.err) == (0, "")
    script = f"eval {shlex.quote(outcome.out)}; {shlex.quote(sys.executable)} -c "
    script += shlex.quote("import os; print(os.environ['nnUNet_extTrainer'], end='')")
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)  # noqa: S607
    assert shell.stdout == external_trainers()
    assert shell.stdout.endswith(str(shim_folder()))

"""Where nnU-Net keeps things: its three folders, and the names of the datasets registered in them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunet_seqtransfer.errors import DatasetError, EnvironmentNotSetError, StageError

DATASET_NAME = re.compile(r"Dataset(\d{3,})_.+")
SEQTRANSFER_FOLDER = "seqtransfer"
"""Our folder inside a dataset's preprocessed and results folders."""


def raw_folder() -> Path:
    """nnUNet_raw. Raises EnvironmentNotSetError."""
    return _folder("nnUNet_raw", nnUNet_raw.get())


def preprocessed_folder() -> Path:
    """nnUNet_preprocessed. Raises EnvironmentNotSetError."""
    return _folder("nnUNet_preprocessed", nnUNet_preprocessed.get())


def results_folder() -> Path:
    """nnUNet_results. Raises EnvironmentNotSetError."""
    return _folder("nnUNet_results", nnUNet_results.get())


def _folder(variable: str, value: str | None) -> Path:
    if not value:
        raise EnvironmentNotSetError(
            f"the environment variable {variable} is not set; set it to nnU-Net's folder: export {variable}=/path"
        )
    folder = Path(value)
    if not folder.is_dir():
        raise EnvironmentNotSetError(f"{variable} names no existing folder: {value}; create it or correct the variable")
    return folder


def registered_datasets() -> tuple[str, ...]:
    """Names of all datasets in nnUNet_raw or nnUNet_preprocessed, sorted."""
    names = {
        entry.name
        for folder in (raw_folder(), preprocessed_folder())
        for entry in folder.iterdir()
        if DATASET_NAME.fullmatch(entry.name) and entry.is_dir()
    }
    return tuple(sorted(names))


def dataset_name(name_or_id: str | int) -> str:
    """The full name of a registered dataset, from its name ("Dataset004_X") or its number ("4").

    Raises DatasetError where no dataset, or more than one, has that name or number.
    """
    text = str(name_or_id)
    registered = registered_datasets()
    if text in registered:
        return text
    if not text.isdecimal():
        raise DatasetError(f"unknown dataset {text!r}; give the number or full name of one of: {_listed(registered)}")
    matches = [name for name in registered if dataset_id(name) == int(text)]
    if len(matches) > 1:
        raise DatasetError(
            f"dataset number {text} is ambiguous: {', '.join(matches)}; give the full name or remove one"
        )
    if not matches:
        raise DatasetError(f"there is no dataset with number {text}; registered are: {_listed(registered)}")
    return matches[0]


def dataset_id(name: str) -> int:
    """The number in a dataset's name: 4 for "Dataset004_Hippocampus"."""
    match = DATASET_NAME.fullmatch(name)
    if match is None:
        raise DatasetError(f"{name!r} is no dataset name; nnU-Net's names read DatasetXXX_Name")
    return int(match.group(1))


def cache_folder(dataset: str) -> Path:
    """Our folder beside a dataset's preprocessed data: signatures, and for a target its affinity and plan files."""
    return preprocessed_folder() / dataset / SEQTRANSFER_FOLDER


def output_base(dataset: str, trainer: str, plans_name: str, configuration: str) -> Path:
    """nnU-Net's results folder of one (dataset, trainer, plans, configuration); it holds fold_0 ... fold_all."""
    return results_folder() / dataset / f"{trainer}__{plans_name}__{configuration}"


def scripts_folder() -> Path:
    """Where this Python environment keeps its commands, ``nnUNetv2_train`` among them."""
    import sysconfig  # noqa: PLC0415 - only the chain needs it

    return Path(sysconfig.get_path("scripts"))


def installed_command(name: str) -> str:
    """The path of a command of this environment: beside its Python, else, as after ``pip install --user``, on PATH.

    Raises StageError where it is in neither place.
    """
    beside = scripts_folder() / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        package = "nnunet-seqtransfer" if name.startswith("nnUNetv2_seq_") else "nnunetv2"
        raise StageError(
            f"the command {name} is neither in {scripts_folder()} nor on PATH; pip install {package} there, or add the "
            "folder that it is in to PATH"
        )
    return str(Path(found).absolute())


def own_command(name: str) -> str:
    """The path of one of this project's commands, ``continue`` for nnUNetv2_seq_continue; see `installed_command`."""
    return installed_command(f"nnUNetv2_seq_{name}")


def shim_folder() -> Path:
    """The folder that nnU-Net's trainer search has to see: see nnunet_ext/."""
    return Path(__file__).parents[1] / "nnunet_ext"


def external_trainers(environment: dict[str, str] | None = None) -> str:
    """The value of nnUNet_extTrainer that keeps what is set and adds our shim folder (once)."""
    known = (os.environ if environment is None else environment).get("nnUNet_extTrainer", "")
    folders = [folder for folder in known.split(os.pathsep) if folder.strip()]
    return os.pathsep.join([*(f for f in folders if f != str(shim_folder())), str(shim_folder())])


def _listed(names: tuple[str, ...], most: int = 10) -> str:
    if not names:
        return "none (nnUNet_raw and nnUNet_preprocessed hold no dataset)"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def find_name(wanted: str, names: Sequence[str], what: str) -> int:
    """The place of ``wanted`` among ``names``: the one that is equal, else the one equal but for case and punctuation.

    Raises DatasetError, listing the names, where none or more than one of them is meant. ``what`` says what is named,
    such as "channel of Dataset051_BraTS6".
    """
    exact = [place for place, name in enumerate(names) if name == wanted]
    loose = [place for place, name in enumerate(names) if _letters(wanted) and _letters(name) == _letters(wanted)]
    found = exact or loose
    if len(found) > 1:
        matches = ", ".join(names[place] for place in found)
        raise DatasetError(f"{wanted!r} fits more than one {what}: {matches}; write it exactly, or rename one of them")
    if not found:
        raise DatasetError(f"{wanted!r} is no {what}; choose from: {', '.join(names)}")
    return found[0]


def _letters(name: str) -> str:
    """A name without case, punctuation and spaces: "T1-Gd" and "t1 gd" are the same."""
    return "".join(character for character in name.casefold() if character.isalnum())

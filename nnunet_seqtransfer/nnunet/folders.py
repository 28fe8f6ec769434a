"""Locate nnU-Net's folders, commands and registered datasets, and find what a user means by a name."""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunet_seqtransfer.errors import DatasetError, EnvironmentNotSetError, StageError

_TRAINER_CLASS = re.compile(r"^class (\w+)\(.*Trainer.*\)", re.MULTILINE)
DATASET_NAME = re.compile(r"Dataset(\d{3,})_.+")
SEQTRANSFER_FOLDER = "seqtransfer"
"""Our folder inside the preprocessed and results folders of a dataset."""
FINAL_CHECKPOINT, BEST_CHECKPOINT = "checkpoint_final.pth", "checkpoint_best.pth"
"""Names that nnU-Net gives to the checkpoint of a finished training, and to that of the best epoch."""


def raw_folder() -> Path:
    """Return nnUNet_raw. Raises EnvironmentNotSetError."""
    return _folder("nnUNet_raw", nnUNet_raw.get())


def preprocessed_folder() -> Path:
    """Return nnUNet_preprocessed. Raises EnvironmentNotSetError."""
    return _folder("nnUNet_preprocessed", nnUNet_preprocessed.get())


def results_folder() -> Path:
    """Return nnUNet_results. Raises EnvironmentNotSetError."""
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
    """Return the names of all datasets in nnUNet_raw or nnUNet_preprocessed, sorted."""
    return _dataset_names((raw_folder(), preprocessed_folder()))


def datasets_with_number(number: int) -> tuple[str, ...]:
    """Return all datasets with this number in nnU-Net's three folders, sorted. nnU-Net looks numbers up there."""
    folders = [raw_folder(), preprocessed_folder()]
    with contextlib.suppress(EnvironmentNotSetError):  # nnU-Net needs it only to train
        folders.append(results_folder())
    return tuple(name for name in _dataset_names(folders) if dataset_id(name) == number)


def _dataset_names(folders: Sequence[Path]) -> tuple[str, ...]:
    entries = [entry for folder in folders for entry in folder.iterdir() if DATASET_NAME.fullmatch(entry.name)]
    return tuple(sorted({entry.name for entry in entries if entry.is_dir()}))


def dataset_name(name_or_id: str | int, known: Sequence[str] | None = None) -> str:
    """Return the full name of a dataset, given that name ("Dataset004_X") or a number ("4").

    ``known``: names to choose from; None for those of all registered datasets.

    Raises DatasetError if no dataset, or more than one, has that name or number.
    """
    text = str(name_or_id)
    known = registered_datasets() if known is None else known
    if text in known:
        return text
    # as numbers: nnU-Net takes "4" and "004" alike
    matches = [name for name in known if text.isdecimal() and dataset_id(name) == int(text)]
    if len(matches) > 1:
        raise DatasetError(
            f"dataset number {text} is ambiguous: {', '.join(matches)}; give the full name or remove one"
        )
    if not matches:
        choice = shortened(known) or "none (nnUNet_raw and nnUNet_preprocessed hold no dataset)"
        raise DatasetError(f"unknown dataset {text!r}; give the number or full name of one of: {choice}")
    return matches[0]


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Return the first names in one line, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def dataset_id(name: str) -> int:
    """Return the number in a dataset name: 4 for "Dataset004_Hippocampus"."""
    match = DATASET_NAME.fullmatch(name)
    if match is None:
        raise DatasetError(f"{name!r} is no dataset name; nnU-Net's names read DatasetXXX_Name")
    return int(match.group(1))


def find_name(wanted: str, names: Sequence[str], what: str) -> int:
    """Return the index in ``names`` that a user means by ``wanted``.

    An equal name wins; otherwise case, punctuation and spaces are ignored ("T1-Gd" equals "t1 gd"). ``what`` says
    what is named, such as "channel of Dataset051_BraTS6". Raises DatasetError, listing the names, if none or several
    match.
    """
    exact = [index for index, name in enumerate(names) if name == wanted]
    loose = [index for index, name in enumerate(names) if _letters(wanted) and _letters(name) == _letters(wanted)]
    # a loose match never hides an exact one
    matches = exact or loose
    if len(matches) > 1:
        listed = ", ".join(names[index] for index in matches)
        raise DatasetError(f"{wanted!r} fits more than one {what}: {listed}; write it exactly, or rename one of them")
    if not matches:
        raise DatasetError(f"{wanted!r} is no {what}; choose from: {', '.join(names)}")
    return matches[0]


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def cache_folder(dataset: str) -> Path:
    """Return our folder next to the preprocessed data: signatures, sketches and, for a target, affinity and plan."""
    return preprocessed_folder() / dataset / SEQTRANSFER_FOLDER


def output_base(dataset: str, trainer: str, plans_name: str, configuration: str) -> Path:
    """Return nnU-Net's results folder that holds fold_0 ... fold_all."""
    return results_folder() / dataset / f"{trainer}__{plans_name}__{configuration}"


def scripts_folder() -> Path:
    """Return the folder of commands in this Python environment; ``nnUNetv2_train`` is one of them."""
    import sysconfig  # noqa: PLC0415 - few commands need it

    return Path(sysconfig.get_path("scripts"))


def installed_command(name: str) -> str:
    """Return the absolute path of a command: next to this Python, otherwise on PATH (``pip install --user``).

    Raises StageError if it is in neither.
    """
    installed = scripts_folder() / name
    path = str(installed) if installed.is_file() else shutil.which(name)
    if path is None:
        package = "nnunet-seqtransfer" if name.startswith("nnUNetv2_seq_") else "nnunetv2"
        raise StageError(
            f"the command {name} is neither in {scripts_folder()} nor on PATH; pip install {package} there, or add the "
            "folder that it is in to PATH"
        )
    # absolute: the command may run in another folder
    return str(Path(path).absolute())


def own_command(name: str) -> str:
    """Return the path of one of our commands: ``continue`` for nnUNetv2_seq_continue, see `installed_command`."""
    return installed_command(f"nnUNetv2_seq_{name}")


def shim_folder() -> Path:
    """Return nnunet_ext/, the folder that nnU-Net must search for our trainers."""
    return Path(__file__).parents[1] / "nnunet_ext"


def trainer_names() -> set[str]:
    """Return the trainer classes of nnU-Net and in the folders of nnUNet_extTrainer, read from the source text.

    Importing them all, as nnU-Net's own search does, takes seconds and needs libraries that few trainers use.
    """
    package = find_spec("nnunetv2")
    locations = list(package.submodule_search_locations or ()) if package else []
    folders = [Path(location) / "training" / "nnUNetTrainer" for location in locations]
    folders += [Path(text) for text in external_trainers().split(os.pathsep) if Path(text) != shim_folder()]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return {name for file in files for name in _TRAINER_CLASS.findall(file.read_text(errors="ignore"))}


def external_trainers(environment: dict[str, str] | None = None) -> str:
    """Return a value for nnUNet_extTrainer: the folders that are set, then ours once."""
    current = (os.environ if environment is None else environment).get("nnUNet_extTrainer", "")
    folders = [folder for folder in current.split(os.pathsep) if folder.strip()]
    return os.pathsep.join([*(f for f in folders if f != str(shim_folder())), str(shim_folder())])

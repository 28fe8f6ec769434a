"""What of ours lies in nnU-Net's folders: results of stages, preprocessed sources, runs; links are never followed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, preprocessed_folder, results_folder
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.runs.files import is_validated, is_whole, locks_of
from nnunet_seqtransfer.runs.overview import QueueStates, no_queue, read_all
from nnunet_seqtransfer.runs.presence import Presence, first_presence, read_presence
from nnunet_seqtransfer.runs.status import RunStatus
from nnunet_seqtransfer.storage import read_json
from nnunet_seqtransfer.training.recipe import StageBlock, read_block
from nnunet_seqtransfer.training.stage_files import FINAL, UNFINISHED
from nnunet_seqtransfer.training.stages import TRAINER

DATA_NAME = re.compile(r"(?P<plans>.+)_for(?P<number>\d+)_(?P<configuration>.+)_[0-9a-f]{8}")
"""Of a folder of cases preprocessed for a target; see `tasks/alignment.py`."""
_RESULTS = re.compile(
    r"fold_\w+|(plans|dataset|dataset_fingerprint)\.json|seq_transfer_init\w*\.pth|\..+\.(lock|tmp.*)"
)
_CASE_FILES = (".b2nd", ".pkl", ".npz", ".npy")


@dataclass(frozen=True)
class Fold:
    """One fold of a stage's results."""

    path: Path
    "Its folder."
    final: bool
    "A whole final checkpoint."
    unfinished: bool
    "Any checkpoint to go on from, whole or not."
    validated: bool
    "The final validation is complete."
    presence: Presence | None
    "Who is at it, or was."

    def is_finished(self, role: str) -> bool:
        """Whether nothing is left to do."""
        return self.final and (role == "source" or self.validated)


@dataclass(frozen=True)
class Base:
    """The results of one of our stages, all folds."""

    path: Path
    "nnU-Net's folder of dataset, trainer, plans and configuration."
    block: StageBlock
    "Of its plans; for weights of its own, of the first fold that there is."
    data_identifier: str
    "Of its plans: the folder of the preprocessed data that it reads."
    folds: tuple[Fold, ...]
    "Those that exist."
    only_ours: bool = True
    "It holds nothing but what nnU-Net and this project write there."

    @property
    def dataset(self) -> str:
        """Full name of the dataset that it trains on."""
        return self.path.parent.name


@dataclass(frozen=True)
class Data:
    """A source's cases, preprocessed for a target."""

    path: Path
    "Its folder."
    presence: Presence | None
    "Who preprocesses, or did."

    @property
    def lock(self) -> Path:
        """The lock of whoever preprocesses into it."""
        return self.path.with_name(f".{self.path.name}.lock")


@dataclass(frozen=True)
class Found:
    """Everything that is looked at before anything is called superfluous."""

    runs: tuple[RunStatus, ...]
    "All recorded runs."
    bases: tuple[Base, ...]
    "Results of our stages."
    data: tuple[Data, ...]
    "Preprocessed sources."
    now: float
    "When: seconds since 1970."


def find(queue: QueueStates = no_queue) -> Found:
    """Looks at nnU-Net's folders, and asks ``queue`` what a scheduler says.

    Raises EnvironmentNotSetError where one of the folders is missing.
    """
    now = time.time()
    return Found(tuple(read_all(queue=queue)), tuple(_bases(now)), tuple(_data(now)), now)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without links; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, sorted, without links; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return []


def dataset_folders(folder: Path) -> Iterator[Path]:
    """nnU-Net's folders of datasets, those that are links left out."""
    yield from (path for path in folders_in(folder) if DATASET_NAME.fullmatch(path.name))


def stage_folders() -> Iterator[Path]:
    """Results folders of our trainer, whether its plans have our block or not."""
    for dataset in dataset_folders(results_folder()):
        yield from (path for path in folders_in(dataset) if path.name.split("__")[0] == TRAINER and _parts(path) == 3)


def _bases(now: float) -> Iterator[Base]:
    for path in stage_folders():
        folds = tuple(_fold(folder, now) for folder in folders_in(path) if folder.name.startswith("fold_"))
        read = _plans(path, folds[0].path.name.removeprefix("fold_") if folds else "all")
        if read is not None:
            yield Base(path, *read, folds, _holds_only_results(path))


def _fold(path: Path, now: float) -> Fold:
    names = {file.name for file in files_in(path)}
    return Fold(
        path=path,
        final=FINAL in names and is_whole(path / FINAL),
        unfinished=any(name in names for name in UNFINISHED),
        validated=is_validated(path),
        presence=first_presence(locks_of(path), now),
    )


def _plans(base: Path, fold: str) -> tuple[StageBlock, str] | None:
    """The block and the data identifier of a results folder; None where it is not one of our stages."""
    _, name, configuration = base.name.split("__")
    for path in (base / "plans.json", plans_path(base.parent.name, name)):
        with suppress(RecordError, OSError, KeyError, TypeError):
            plans: dict[str, Any] = read_json(path, "the plans file", "train again")
            block = read_block(plans, configuration, fold)
            if block is not None:
                return block, str(plans["configurations"][configuration]["data_identifier"])
    return None


def _data(now: float) -> Iterator[Data]:
    for dataset in dataset_folders(preprocessed_folder()):
        for path in folders_in(dataset):
            if DATA_NAME.fullmatch(path.name) and not path.name.startswith(".") and _holds_only_cases(path):
                found = Data(path, None)
                yield Data(path, read_presence(found.lock, now))


def _holds_only_cases(folder: Path) -> bool:
    """Whether a folder holds what preprocessing writes and nothing else; an empty one does."""
    try:
        with os.scandir(folder) as entries:
            return all(entry.is_file(follow_symlinks=False) and entry.name.endswith(_CASE_FILES) for entry in entries)
    except OSError:
        return False


def _holds_only_results(base: Path) -> bool:
    """Whether a results folder holds what nnU-Net and we write there, and nothing that somebody has put there."""
    try:
        with os.scandir(base) as entries:
            return all(_RESULTS.fullmatch(entry.name) and not entry.is_symlink() for entry in entries)
    except OSError:
        return False


def _parts(path: Path) -> int:
    return len(path.name.split("__"))

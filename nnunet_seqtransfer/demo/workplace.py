"""The demo's folder: nnU-Net's three folders, logs, predictions and pictures in it, and whether it is ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.storage import read_record, write_record

MARK = "nnunet_seqtransfer_demo.json"
FORMAT = 1
KIND = "demo"


@dataclass(frozen=True)
class Workplace:
    """Where everything of one demo lies."""

    root: Path
    "The folder given with -o."

    @property
    def raw(self) -> Path:
        """nnUNet_raw."""
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """nnUNet_preprocessed."""
        return self.root / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        """nnUNet_results."""
        return self.root / "nnUNet_results"

    @property
    def logs(self) -> Path:
        """What the commands printed."""
        return self.root / "logs"

    @property
    def predictions(self) -> Path:
        """Predictions of the held-out cases, a folder for each model."""
        return self.root / "predictions"

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's three variables."""
        folders = {"nnUNet_raw": self.raw, "nnUNet_preprocessed": self.preprocessed, "nnUNet_results": self.results}
        return {name: str(folder) for name, folder in folders.items()}


def open_workplace(folder: Path, recipe: str) -> Workplace:
    """The demo in ``folder``, begun there or found there again.

    Args:
        folder: may be missing or empty, or hold a demo already.
        recipe: what the demo's data and trainings are made from; a folder made from another one cannot be gone on with.

    Raises SeqTransferError for a folder that holds anything else.
    """
    place = Workplace(folder.absolute())
    remedy = "choose another folder with -o, or delete this one"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).is_file())):
        raise SeqTransferError(f"{folder} exists and is no folder of this demo, it is left alone; {remedy}")
    if (folder / MARK).is_file():
        if read_record(folder / MARK, KIND, FORMAT, remedy).get("recipe") != recipe:
            raise SeqTransferError(f"{folder} holds the demo of another version of nnunet-seqtransfer; {remedy}")
    else:
        write_record(folder / MARK, KIND, FORMAT, {"recipe": recipe})
    for path in (place.raw, place.preprocessed, place.results, place.logs, place.predictions):
        path.mkdir(exist_ok=True)
    return place


@contextmanager
def nnunet_folders(place: Workplace) -> Iterator[None]:
    """Lets this process see the demo's folders as nnU-Net's, whatever the user's own are."""
    before = {name: os.environ.get(name) for name in place.environment}
    os.environ.update(place.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

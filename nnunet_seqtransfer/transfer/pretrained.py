"""Existing models that a chain begins with: found in a checkpoint, a results folder or an export, never trusted."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.storage import is_whole_archive
from nnunet_seqtransfer.training.stage_files import FINAL

if TYPE_CHECKING:
    from torch import nn

    from nnunet_seqtransfer.nnunet.network import Outputs

_MOST_COMPRESSION = 100
"""Weights hardly compress; a file that shrank more than this is made to fill the memory."""


@dataclass(frozen=True)
class Landmark:
    """An existing model, as its checkpoint."""

    file: Path
    "The checkpoint, or the archive that holds it; absolute."
    member: str | None
    "Its name in the archive; None where it is a file of its own."
    sha256: str
    "SHA-256 of the checkpoint's bytes."

    def __str__(self) -> str:
        return str(self.file) if self.member is None else f"{self.file}!{self.member}"

    def load(self) -> dict[str, Any]:
        """The checkpoint, weights and plain data only.

        Raises CheckpointError where it is damaged, unsafe, no nnU-Net checkpoint, or not the one it was.
        """
        from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint  # noqa: PLC0415 - imports torch

        with _open(self.file, self.member) as stream:
            if _digest(stream) != self.sha256:
                raise CheckpointError(f"the model has changed while it was read: {self}; run the same command again")
            return load_checkpoint(self.file, stream, "give -init another model, or restore this one", compared=True)


def find_landmark(path: Path, configuration: str) -> Landmark:
    """The checkpoint that ``path`` stands for; an archive is read where it is, nothing of it is extracted.

    Args:
        path: a checkpoint; a results folder of nnU-Net's (of a trainer, plans and configuration, or one fold of it);
            or the ZIP file of ``nnUNetv2_export_model_to_zip``. Of several folds it is ``all``, else the first.
        configuration: of an archive with several, the one that is taken.

    Raises CheckpointError where there is none or more than one, or the archive is damaged or unsafe.
    """
    if path.is_dir():
        file, member = checkpoint_in(path), None
    elif not path.is_file():
        raise CheckpointError(f"there is no model at {path}; give -init a checkpoint, a results folder or an export")
    elif not is_whole_archive(path):
        raise CheckpointError(f"this is no checkpoint and no ZIP file, or it is truncated: {path}; restore the file")
    else:
        file, member = path, _in_archive(path, configuration)
    with _open(file, member) as stream:
        return Landmark(file.resolve(), member, _digest(stream))


def known_network(checkpoint: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]] | None:
    """The network that a checkpoint was trained with, its weights loaded, and nnU-Net's ``arch_kwargs`` of it.

    None where the checkpoint does not say, or names any class but nnU-Net's own U-Nets.
    """
    from nnunet_seqtransfer.nnunet.network import trained_network  # noqa: PLC0415 - imports torch

    try:
        arguments = checkpoint["init_args"]
        plans, configuration = arguments["plans"], arguments["configuration"]
    except (KeyError, TypeError):
        return None
    return trained_network(plans, configuration, input_channels(checkpoint), checkpoint["network_weights"])


def channel_names(checkpoint: dict[str, Any]) -> tuple[str, ...]:
    """The names of a model's input channels in their order; empty where its checkpoint does not hold all of them."""
    try:
        names = checkpoint["init_args"]["dataset_json"]["channel_names"]
        ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()
    return ordered if len(ordered) == input_channels(checkpoint) else ()


def outputs(checkpoint: dict[str, Any]) -> Outputs | None:
    """What a model's outputs are for; None where its checkpoint does not say it of all of them."""
    from nnunet_seqtransfer.nnunet.network import network_outputs  # noqa: PLC0415 - imports torch
    from nnunet_seqtransfer.transfer.checkpoints import HEADS  # noqa: PLC0415 - imports torch

    heads = [tensor for name, tensor in checkpoint["network_weights"].items() if HEADS in name]
    try:
        found = network_outputs(checkpoint["init_args"]["dataset_json"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found if heads and all(len(head) == len(found.names) for head in heads if head.ndim) else None


def input_channels(checkpoint: dict[str, Any]) -> int:
    """How many channels the first convolution of a model reads; 0 where there is none."""
    weights = checkpoint["network_weights"]
    convolutions = (tensor for name, tensor in weights.items() if name.endswith(".conv.weight") and tensor.ndim > 1)
    return next((tensor.shape[1] for tensor in convolutions), 0)


def checkpoint_in(folder: Path) -> Path:
    """The final checkpoint in a results folder, of fold all, else of the first. Raises CheckpointError: none there."""
    folds = sorted(folder.glob(f"fold_*/{FINAL}"), key=lambda path: _fold_order(path.parent.name))
    found = [folder / FINAL] if (folder / FINAL).is_file() else folds
    if not found:
        raise CheckpointError(
            f"there is no {FINAL} in {folder} or its folds; give -init a folder TRAINER__PLANS__CONFIGURATION of "
            "nnUNet_results, one of its folds, or a checkpoint"
        )
    return found[0]


def _fold_order(name: str) -> tuple[bool, str]:
    return name != "fold_all", name


def _in_archive(path: Path, configuration: str) -> str | None:
    """The final checkpoint in an export; None where ``path`` is itself a checkpoint, which is a ZIP file too."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    unsafe = [name for name in names if _leads_out(name)]
    if unsafe:
        raise CheckpointError(f"the archive is not safe ({unsafe[0]!r} would be written outside of it): {path}")
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
        return None
    found = [PurePosixPath(name) for name in names if PurePosixPath(name).name == FINAL and name.count("/") >= 2]
    models = sorted({member.parent.parent for member in found})
    wanted = [model for model in models if model.name.split("__")[-1] == configuration] or models
    if len(wanted) != 1:
        several = f"{len(wanted)} models, {wanted[0]} and others" if wanted else f"no {FINAL} of a fold"
        raise CheckpointError(f"the archive holds {several}: {path}; give -init the checkpoint itself")
    folds = [member for member in found if member.parent.parent == wanted[0]]
    return str(min(folds, key=lambda member: _fold_order(member.parent.name)))


def _leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]


def _open(file: Path, member: str | None) -> BinaryIO:
    if member is None:
        with _reading(file):
            return file.open("rb")
    with _reading(file), zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member)
        if info.file_size > _MOST_COMPRESSION * max(1, info.compress_size):
            raise CheckpointError(f"the archive is not safe ({member} unpacks to {info.file_size} bytes): {file}")
        return io.BytesIO(archive.read(info))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns a file that is gone, and what zipfile raises for damaged and encrypted ones, into a CheckpointError."""
    try:
        yield
    except OSError as error:
        reason = "is not there any more" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise CheckpointError(f"the model {reason}: {path}; restore it, or give -init another one") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"the archive is damaged or encrypted ({error}): {path}; restore the file") from None


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    stream.seek(0)
    return digest.hexdigest()

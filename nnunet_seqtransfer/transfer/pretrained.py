"""Find and load pretrained models: checkpoints, results folders, exports. None is trusted."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.folders import BEST_CHECKPOINT, FINAL_CHECKPOINT
from nnunet_seqtransfer.storage import is_whole_archive, sha256

if TYPE_CHECKING:
    from nnunet_seqtransfer.nnunet.network import Outputs

CHECKPOINTS = (FINAL_CHECKPOINT, "model_final_checkpoint.model", BEST_CHECKPOINT, "model_best.model")
"""Names of checkpoints in results folders, the preferred one first; nnU-Net v1 wrote .model files."""
_MAX_COMPRESSION = 100
"""Weights hardly compress. A file that shrank more than this is made to fill the memory."""
_PICKLE = b"\x80"
_OTHER_KINDS = {
    ".pkl": "the settings that nnU-Net v1 keeps next to a .model file; give -init the .model file",
    ".onnx": "an ONNX program; give -init the checkpoint that it was exported from",
    ".safetensors": "a safetensors file; save its tensors with torch.save and give -init that file",
    ".json": "a JSON file; give -init the checkpoint next to it",
}


@dataclass(frozen=True)
class PretrainedModel:
    """The checkpoint of a pretrained model."""

    file: Path
    "Absolute path of the checkpoint, or of the archive that holds it."
    member: str | None
    "Name of the checkpoint in the archive; None if it is a file itself."
    sha256: str
    "SHA-256 of the checkpoint."
    dataset: str | None = None
    "Full name of the dataset that it was trained on, if a plan chose the model."

    def __str__(self) -> str:
        return str(self.file) if self.member is None else f"{self.file}!{self.member}"

    def load(self, *, lazy: bool = False) -> dict[str, Any]:
        """Load the checkpoint: tensors and plain data only. The weights are under network_weights, as in nnU-Net's.

        ``lazy``: read no values and compare no checksums, if the file allows it.

        Raises CheckpointError if it is damaged, unsafe, without weights, or has changed since it was found.
        """
        from nnunet_seqtransfer.transfer.checkpoints import load_file  # noqa: PLC0415 - imports torch

        remedy = "give -init another model, or restore this file"
        with _open(self.file, self.member) as stream:
            if lazy and self.member is None and is_whole_archive(stream):
                content = load_file(self.file, remedy, lazy=True)
            elif _digest(stream) != self.sha256:
                raise CheckpointError(f"the model has changed while it was read: {self}; run the same command again")
            else:
                content = load_file(self.file, remedy, stream, compared=True)
        weights = _weights_in(content)
        if weights is None:
            held = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise CheckpointError(
                f"this model holds no dictionary of tensors (it holds {held[:100] or 'nothing'}): {self}; "
                "give -init a checkpoint, or the state_dict of its network"
            )
        return {**(content if "init_args" in content else {}), "network_weights": weights}


def find_pretrained(path: Path, configuration: str) -> PretrainedModel:
    """Return the checkpoint that ``path`` stands for. Archives are read in place and never extracted.

    Args:
        path: a file that torch saved (a checkpoint of any nnU-Net, or a state dict); a results folder of nnU-Net, also
            of one fold; or a ZIP file from ``nnUNetv2_export_model_to_zip``. Fold ``all`` goes before the first fold,
            and the final checkpoint before the best.
        configuration: the one to take from an archive with several.

    Raises CheckpointError if there is no model or more than one, or if the archive is damaged or unsafe.
    """
    if path.is_dir():
        file, member = checkpoint_in(path), None
    elif not path.is_file():
        raise CheckpointError(f"there is no model at {path}; give -init a checkpoint, a results folder or an export")
    else:
        file, member = path, _in_archive(path, configuration) if is_whole_archive(path) else None
        if member is None:
            _require_torch_file(path)
    with _open(file, member) as stream:
        return PretrainedModel(file.resolve(), member, _digest(stream))


def channel_names(checkpoint: dict[str, Any]) -> tuple[str, ...]:
    """Return the channel names of a model in order; empty if the checkpoint does not name all."""
    try:
        names = checkpoint["init_args"]["dataset_json"]["channel_names"]
        ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()
    return ordered if len(ordered) == input_channels(checkpoint) else ()


def outputs(checkpoint: dict[str, Any]) -> "Outputs | None":
    """Return the outputs of a model; None if the checkpoint does not name all."""
    from nnunet_seqtransfer.nnunet.network import network_outputs  # noqa: PLC0415 - imports torch
    from nnunet_seqtransfer.transfer.tensor_roles import HEADS  # noqa: PLC0415

    heads = [tensor for name, tensor in checkpoint["network_weights"].items() if HEADS in name]
    try:
        found = network_outputs(checkpoint["init_args"]["dataset_json"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found if heads and all(len(head) == len(found.names) for head in heads if head.ndim) else None


def input_channels(checkpoint: dict[str, Any]) -> int:
    """Return the number of channels that the first convolution reads; 0 without convolutions."""
    weights = checkpoint["network_weights"]
    convolutions = (tensor for name, tensor in weights.items() if name.endswith(".conv.weight") and tensor.ndim > 1)
    return next((tensor.shape[1] for tensor in convolutions), 0)


def checkpoint_in(folder: Path) -> Path:
    """Return the best-suited checkpoint in a results folder: see `find_pretrained`. Raises CheckpointError if none."""
    for name in CHECKPOINTS:
        folds = sorted(folder.glob(f"fold_*/{name}"), key=lambda path: _fold_order(path.parent.name))
        found = [folder / name] if (folder / name).is_file() else folds
        if found:
            return found[0]
    raise CheckpointError(
        f"there is no {FINAL_CHECKPOINT} or {BEST_CHECKPOINT} in {folder} or its folds; give -init a folder "
        "TRAINER__PLANS__CONFIGURATION of nnUNet_results, one of its folds, or a checkpoint"
    )


def _fold_order(name: str) -> tuple[bool, str]:
    return name != "fold_all", name


def _weights_in(content: Any, depth: int = 2) -> dict[str, Any] | None:
    """Return nnU-Net's weights, otherwise the largest tensor dictionary at most ``depth`` levels down."""
    from nnunet_seqtransfer.transfer.checkpoints import is_state_dict  # noqa: PLC0415 - imports torch

    if is_state_dict(content) and content:
        return dict(content)
    if not isinstance(content, dict) or depth == 0:
        return None
    # Others may save averaged or optimiser tensors next to the weights.
    values = [content["network_weights"]] if "network_weights" in content else content.values()
    found = [weights for value in values if (weights := _weights_in(value, depth - 1))]
    return max(found, key=lambda weights: sum(tensor.numel() for tensor in weights.values()), default=None)


def _require_torch_file(path: Path) -> None:
    """Raise CheckpointError, saying what the file is, if torch cannot have saved it as a checkpoint."""
    with _reading(path):
        start = path.open("rb").read(2)
    if path.suffix in _OTHER_KINDS and start != b"PK":
        raise CheckpointError(f"this is no checkpoint: {path} is {_OTHER_KINDS[path.suffix]}")
    if start == b"PK" and not is_whole_archive(path):
        raise CheckpointError(f"the model is truncated: {path}; restore the file")
    if start != b"PK" and start[:1] != _PICKLE:
        raise CheckpointError(f"this is no checkpoint and no ZIP file: {path}; give -init a file that torch saved")


def _in_archive(path: Path, configuration: str) -> str | None:
    """Return the checkpoint in an export; None if ``path`` is itself a checkpoint, which is a ZIP file too."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    unsafe = [name for name in names if _leads_out(name)]
    if unsafe:
        raise CheckpointError(f"the archive is not safe ({unsafe[0]!r} would be written outside of it): {path}")
    files = {PurePosixPath(name).name for name in names}
    if "constants.pkl" in files:
        raise CheckpointError(f"this is a TorchScript program: {path}; give -init the state_dict of its network")
    if "data.pkl" in files:  # torch's own archive
        return None
    # MODEL/fold_K/checkpoint, below any number of folders
    members = [PurePosixPath(name) for name in names if name.count("/") >= 2]
    found = next((same for name in CHECKPOINTS if (same := [one for one in members if one.name == name])), [])
    models = sorted({member.parent.parent for member in found})
    wanted = [model for model in models if model.name.split("__")[-1] == configuration] or models
    if len(wanted) != 1:
        several = f"{len(wanted)} models, {wanted[0]} and others" if wanted else f"no {FINAL_CHECKPOINT} of a fold"
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
        if info.file_size > _MAX_COMPRESSION * max(1, info.compress_size):
            raise CheckpointError(f"the archive is not safe ({member} unpacks to {info.file_size} bytes): {file}")
        return io.BytesIO(archive.read(info))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a missing file, and zipfile's errors for damaged and encrypted ones, into a CheckpointError."""
    try:
        yield
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise CheckpointError(f"the model {reason}: {path}; restore it, or give -init another one") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"the archive is damaged or encrypted ({error}): {path}; restore the file") from None


def _digest(stream: BinaryIO) -> str:
    stream.seek(0)
    digest = sha256(stream)
    stream.seek(0)
    return digest

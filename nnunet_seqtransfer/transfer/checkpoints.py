"""Load checkpoints safely, and write and read the weights that a stage starts from."""

import hashlib
import pickle
import re
from _codecs import encode
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.storage import is_sound_archive, is_whole_archive, replacing, sha256
from nnunet_seqtransfer.transfer.tensor_roles import HEADS

_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.empty(0).__reduce__()[0]
_SAFE: list[Any] = [
    np.dtype,
    np.ndarray,
    encode,  # pickle writes the bytes of an array as text
    # Only these element types: an array of objects could hold anything.
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")},
    # NumPy's private constructors have another path in NumPy 2. Files of both versions are read.
    *((_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((_ARRAY, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
]
_NAMED = re.compile(r"GLOBAL ([\w.]+)|but got <class '([\w.]+)'>")
REMEDY = "train that stage again, or restore the file"


def load_checkpoint(path: Path, *, lazy: bool = False, compared: bool = False) -> dict[str, Any]:
    """Load a checkpoint of nnU-Net on the CPU without running code in it (``weights_only=True``).

    ``lazy``: map the file into memory, so that values are only read when used. ``compared``: compare all checksums
    first, for weights that others start from.

    Raises CheckpointError if the file is missing, truncated, damaged, unsafe, or not from nnU-Net.
    """
    if not path.is_file():
        raise CheckpointError(f"the checkpoint is missing: {path}; {REMEDY}")
    if not is_whole_archive(path):
        raise CheckpointError(f"the checkpoint is truncated: {path}; {REMEDY}")
    checkpoint = load_file(path, REMEDY, lazy=lazy, compared=compared)
    if not isinstance(checkpoint, dict) or not is_state_dict(checkpoint.get("network_weights")):
        raise CheckpointError(f"this is no checkpoint of nnU-Net (no network_weights): {path}; {REMEDY}")
    return checkpoint


def load_file(
    path: Path, remedy: str, stream: BinaryIO | None = None, *, lazy: bool = False, compared: bool = False
) -> Any:
    """Load what torch saved, like `load_checkpoint`, whatever it is; also in torch's old format.

    ``stream``: the checkpoint if it lies in the archive ``path``.

    Some checkpoints hold NumPy scalars or numeric arrays. These are declared safe, nothing else.

    Raises CheckpointError if the file is damaged or unsafe.
    """
    if compared and is_whole_archive(stream or path) and not is_sound_archive(stream or path):
        raise CheckpointError(f"the checkpoint is damaged (its checksums do not fit): {path}; {remedy}")
    if stream is not None:
        stream.seek(0)  # torch takes a stream at another position for its old format
    try:
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(stream or path, map_location="cpu", weights_only=True, mmap=lazy)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"the checkpoint is not safe to load ({_reason(error)}): {path}; {remedy}") from None
    except Exception as error:  # zip and torch's unpickler raise all kinds of errors for a damaged file
        raise CheckpointError(f"the checkpoint is damaged ({_reason(error)}): {path}; {remedy}") from None


def is_state_dict(content: Any) -> bool:
    """Return True for a dictionary of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def _reason(error: Exception) -> str:
    """Return what torch's message names, without advice to load unsafely."""
    named = _NAMED.search(str(error))
    if named:
        return f"it holds {named[1] or named[2]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return (lines or [type(error).__name__])[0][:200]


def write_weights(path: Path, weights: dict[str, Tensor]) -> str:
    """Write weights in the format that nnU-Net's ``-pretrained_weights`` also reads. Return the file's SHA-256.

    Equal weights give equal files.
    """
    with replacing(path) as aside, aside.open("wb") as stream:
        save({"network_weights": weights}, stream)
    return sha256(path)


def save(content: dict[str, Any], stream: BinaryIO) -> None:
    """Call torch.save on a stream, since torch would put a file name into the archive.

    Raises OSError, such as a full disk, if torch's writer hides it in a RuntimeError.
    """
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        raise _system_error(error) or error from None


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def load_body(network: nn.Module, path: Path, expected_sha256: str) -> None:
    """Load initial weights into all tensors except heads, and into heads that were kept.

    Raises CheckpointError if the file is not the recorded one, or does not hold all tensors without the heads.
    """
    if not path.is_file() or sha256(path) != expected_sha256:
        raise CheckpointError(
            f"the initial weights of this stage are missing, or not the ones recorded in its plans: {path}; "
            "start this stage through nnUNetv2_seq_train, which makes them again"
        )
    weights = load_checkpoint(path)["network_weights"]
    state = network.state_dict()
    body = {name for name in state if HEADS not in name}
    unknown = weights.keys() - state.keys()
    if unknown or body - weights.keys() or any(state[name].shape != tensor.shape for name, tensor in weights.items()):
        raise CheckpointError(f"the initial weights of this stage do not fit its network: {path}; delete the file")
    network.load_state_dict({**state, **weights})


def body_digest(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of all tensors except heads."""
    digest = hashlib.sha256()
    for name in sorted(name for name in weights if HEADS not in name):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

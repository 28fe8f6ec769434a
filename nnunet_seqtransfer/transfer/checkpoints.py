"""Checkpoints: whether they are whole, loading them safely, and handing their weights to the next network."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.storage import is_sound_archive, is_whole_archive, replacing, sha256
from nnunet_seqtransfer.transfer.kernels import spread_mean

HEADS = ".seg_layers."
"""Part of the name of every tensor of the segmentation heads, nnU-Net's own mark for what is not transferred."""
_SCALAR = np.float64(0).__reduce__()[0]
_SAFE: list[Any] = [
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")},
    # numpy's constructor of scalars is private, and NumPy 2 moved it: files of both versions are read
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def load_checkpoint(
    path: Path,
    stream: BinaryIO | None = None,
    remedy: str = "train that stage again, or restore the file",
    *,
    lazy: bool = False,
    compared: bool = False,
) -> dict[str, Any]:
    """A checkpoint on the CPU, without running code it may carry (``weights_only=True``).

    ``stream``: its bytes, where ``path`` is an archive that it lies in. ``remedy``: what a user is told to do.
    ``lazy``: the file is mapped into memory, so that no value of a tensor is read before it is used. ``compared``: all
    of it is read and compared with its checksums first, as for weights that others start from.

    nnU-Net's checkpoints hold a few NumPy scalars beside tensors; these are declared safe, nothing else is.

    Raises CheckpointError where the file is missing, truncated, holds other objects, or is no nnU-Net checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"the checkpoint is missing: {path}; {remedy}")
    if not is_whole_archive(stream or path):
        raise CheckpointError(f"the checkpoint is truncated: {path}; {remedy}")
    if compared and not is_sound_archive(stream or path):
        raise CheckpointError(f"the checkpoint is damaged (its checksums do not fit): {path}; {remedy}")
    if stream is not None:
        stream.seek(0)  # torch takes what begins elsewhere for its old format
    try:
        with torch.serialization.safe_globals(_SAFE):
            checkpoint: dict[str, Any] = torch.load(stream or path, map_location="cpu", weights_only=True, mmap=lazy)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"the checkpoint is not safe to load ({_reason(error)}): {path}; {remedy}") from None
    except Exception as error:  # zip and torch's unpickler raise all kinds for a damaged file
        raise CheckpointError(f"the checkpoint is damaged ({_reason(error)}): {path}; {remedy}") from None
    weights = checkpoint.get("network_weights") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(f"this is no nnU-Net checkpoint (no network_weights): {path}; {remedy}")
    return checkpoint


def _reason(error: Exception) -> str:
    """The part of torch's message that names the offending object; its advice to load unsafely is left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    naming = [line for line in lines if "unsupported" in line.lower() or "not allowed" in line]
    return (naming or lines or [type(error).__name__])[0][:200]


def adapt_weights(weights: dict[str, Tensor], like: dict[str, Tensor], channels: tuple[int, int]) -> dict[str, Tensor]:
    """The body of a network (everything but its heads) for a network with the tensors ``like``.

    Every tensor is copied bit by bit. Only convolutions that read the input image change when the number of input
    channels does, from ``channels[0]`` = m to ``channels[1]`` = n: their weights of shape (out, m, ...) become, for
    each of the n new channels, the sum over the m old ones divided by n. So an image repeated in every channel gives
    the same features before and after. All aliases of a tensor are treated alike, since each is listed by its name.

    Raises CheckpointError, naming the tensor and both shapes, where the architectures differ.
    """
    adapted = {}
    for name, wanted in like.items():
        if HEADS in name:
            continue
        if name not in weights:
            raise CheckpointError(
                f"the checkpoint is of another architecture: it has no {name}; use plans of one architecture throughout"
            )
        given = weights[name]
        require_finite(name, given)
        if given.shape == wanted.shape:
            adapted[name] = given.clone()
        elif _reads_input(given, wanted, channels):
            adapted[name] = spread_mean(given, channels[1])
        else:
            raise CheckpointError(
                f"the checkpoint is of another architecture: {name} has shape {tuple(given.shape)}, the network wants "
                f"{tuple(wanted.shape)}; use plans of one architecture throughout"
            )
    surplus = sorted(name for name in weights if name not in like and HEADS not in name)
    if surplus:
        raise CheckpointError(
            f"the checkpoint is of another architecture: the network has no {surplus[0]}; "
            "use plans of one architecture throughout"
        )
    return adapted


def require_finite(name: str, tensor: Tensor) -> None:
    """Raises CheckpointError where a tensor of a checkpoint holds NaN or infinity."""
    if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"the training before has diverged: {name} holds NaN or infinity; train that stage again with a "
            "smaller -initial_lr"
        )


def _reads_input(given: Tensor, wanted: Tensor, channels: tuple[int, int]) -> bool:
    same_otherwise = given.shape[:1] == wanted.shape[:1] and given.shape[2:] == wanted.shape[2:]
    return same_otherwise and given.ndim > 2 and (given.shape[1], wanted.shape[1]) == channels


def write_weights(path: Path, weights: dict[str, Tensor]) -> str:
    """Writes weights in the form that nnU-Net's ``-pretrained_weights`` reads too; returns the file's SHA-256.

    Equal weights give equal files, see `save`.
    """
    with replacing(path) as aside, aside.open("wb") as stream:
        save({"network_weights": weights}, stream)
    return sha256(path)


def save(content: dict[str, Any], stream: BinaryIO) -> None:
    """torch.save into a stream: of a path, torch would put the name into the archive.

    Raises OSError, as a full disk does, where torch's writer covers it with a RuntimeError of its own.
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
    """Loads handed-over weights into every tensor of ``network`` but its heads, and into those heads that were kept.

    Raises CheckpointError where the file is not the one recorded, or does not hold the network's body, whole and
    nothing beside it but heads.
    """
    if not path.is_file() or sha256(path) != expected_sha256:
        raise CheckpointError(
            f"the weights handed to this stage are missing or are not the ones recorded in its plans: {path}; "
            "start this stage through nnUNetv2_seq_train, which makes them again"
        )
    weights = load_checkpoint(path)["network_weights"]
    state = network.state_dict()
    body = {name for name in state if HEADS not in name}
    unknown = weights.keys() - state.keys()
    if unknown or body - weights.keys() or any(state[name].shape != tensor.shape for name, tensor in weights.items()):
        raise CheckpointError(f"the weights handed to this stage do not fit its network: {path}; delete the file")
    network.load_state_dict({**state, **weights})


def body_digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of name, type, shape and bytes of all tensors but the heads: equal only where these are identical."""
    digest = hashlib.sha256()
    for name in sorted(name for name in weights if HEADS not in name):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

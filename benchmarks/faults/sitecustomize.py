"""Faults for benchmarks/survival.py, in every Python process that has this folder on PYTHONPATH and a fault to make.

Two variables: SURVIVAL_FAULT, a JSON object (see `survival.Fault`), and SURVIVAL_TRACE, the file to which every
training iteration and every checkpoint is written as a line, so that nothing has to be believed.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

_FAULT = json.loads(os.environ.get("SURVIVAL_FAULT", "null"))
_TRACE = os.environ.get("SURVIVAL_TRACE")
_SEEN = os.environ.get("SURVIVAL_SEEN", "")
_fsync, _replace = os.fsync, os.replace


def _count(event: str) -> int:
    """How often this event has happened, this time included, over all processes: each appends a byte to a file."""
    descriptor = os.open(f"{_SEEN}.{event}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _is_first(path: str) -> bool:
    """Whether this file is written for the first time, over all processes and all calls of the command."""
    seen = Path(f"{_SEEN}.paths")
    known = set(seen.read_text().splitlines()) if seen.exists() else set()
    if path in known:
        return False
    with seen.open("a") as stream:
        stream.write(path + "\n")
    return True


def _trace(line: str) -> None:
    if _TRACE:
        descriptor = os.open(_TRACE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{os.getpid()} {line}\n".encode())
        os.close(descriptor)


def _die(whom: str) -> None:
    """SIGKILL: to this process alone, or by way of survival.py, which watches for the file, to all of them."""
    if whom == "all":
        Path(f"{_SEEN}.kill").touch()
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)


def _is_ours(path: str) -> bool:
    return path.startswith(os.environ.get("SURVIVAL_WORLD", "/nowhere"))


def fsync(descriptor: int) -> None:
    """os.fsync, before which the file may be cut off and the process killed, or the disk be full."""
    path = str(Path(f"/proc/self/fd/{descriptor}").readlink()) if isinstance(descriptor, int) else ""
    if _FAULT and _is_ours(path):
        if _FAULT["kind"] == "torn" and _count("fsync") == _FAULT["number"]:
            os.truncate(path, int(Path(path).stat().st_size * _FAULT["share"]))
            _die(_FAULT["whom"])
        final = Path(path).name.split(".")[1] if Path(path).name.startswith(".") else Path(path).name
        if _FAULT["kind"] == "full" and _is_first(str(Path(path).parent / final)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    _fsync(descriptor)


def replace(source: str, target: str, **options: object) -> None:
    """os.replace, before or after which the process may be killed."""
    at_it = _FAULT and _FAULT["kind"] in ("before", "after") and _is_ours(str(target))
    hit = bool(at_it) and _count("replace") == _FAULT["number"]
    if hit and _FAULT["kind"] == "before":
        _die(_FAULT["whom"])
    _replace(source, target, **options)  # type: ignore[arg-type]
    if _TRACE and Path(target).name.startswith("checkpoint_") and Path(target).name != "checkpoint_previous.pth":
        _trace(f"saved {target}")
    if hit and _FAULT["kind"] == "after":
        _die(_FAULT["whom"])


def _hook_json() -> None:
    """nnU-Net's own save_json, which writes in place: cut off in the middle, or on a full disk."""
    from batchgenerators.utilities import file_and_folder_operations as operations  # noqa: PLC0415 - only here

    real = operations.save_json

    def save_json(content: object, file: str, *arguments: object, **options: object) -> None:
        if _FAULT["kind"] == "json" and _count("json") == _FAULT["number"]:
            text = json.dumps(content, indent=4, default=str)
            Path(file).write_text(text[: int(len(text) * _FAULT["share"])])
            _die(_FAULT["whom"])
        if _FAULT["kind"] == "full" and _is_first(str(file)):
            Path(file).write_text("{")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        real(content, file, *arguments, **options)

    operations.save_json = save_json


if _FAULT or _TRACE:
    os.fsync, os.replace = fsync, replace
if _FAULT and _FAULT["kind"] in ("json", "full"):
    _hook_json()
if _TRACE and "nnUNetv2_train" in " ".join(Path("/proc/self/cmdline").read_text().split("\0")[:2]):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    _train_step = nnUNetTrainer.train_step

    def train_step(self: nnUNetTrainer, batch: dict[str, object]) -> object:
        """nnU-Net's, with a line in the trace: one for every iteration that was really done."""
        result = _train_step(self, batch)
        _trace(f"step {self.output_folder} {self.current_epoch}")
        return result

    nnUNetTrainer.train_step = train_step

"""Weights go from one network to the next bit by bit, by one documented rule, or not at all."""

from __future__ import annotations

import errno
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.transfer.checkpoints import (
    body_digest,
    load_body,
    load_checkpoint,
    load_file,
    save,
    write_weights,
)
from nnunet_seqtransfer.transfer.tensor_roles import HEADS
from support.models import Malicious
from support.u_nets import u_net


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if HEADS not in name}


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    """The file's digest depends on the weights alone, not on when or under which name it was written."""
    weights = body(u_net().state_dict())
    digests = {write_weights(tmp_path / name / "init.pth", weights) for name in ("a", "b")}
    digests.add(write_weights(tmp_path / "other.pth", weights))
    assert len(digests) == 1


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_is_an_error_of_the_system(room: int) -> None:
    """torch's writer covers it with a RuntimeError, which would be a traceback and not a line for the user."""

    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left"):
        save({"network_weights": {"layer": torch.ones(10_000)}}, Full())


def test_the_trainer_loads_the_body_and_keeps_its_heads(tmp_path: Path) -> None:
    """`load_body` gives every tensor but the heads, and refuses a file that is not the recorded one or does not fit."""
    network = u_net()
    heads = {name: tensor.clone() for name, tensor in network.state_dict().items() if HEADS in name}
    weights = body(u_net(seed=1).state_dict())
    digest = write_weights(tmp_path / "init.pth", weights)
    load_body(network, tmp_path / "init.pth", digest)
    assert body_digest(network.state_dict()) == body_digest(weights)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in heads.items())

    with pytest.raises(CheckpointError, match="not the ones recorded"):
        load_body(network, tmp_path / "init.pth", "0" * 64)
    with pytest.raises(CheckpointError, match="missing"):
        load_body(network, tmp_path / "none.pth", digest)
    for unfit in (dict(list(weights.items())[1:]), {**weights, "more": torch.zeros(1)}):
        digest = write_weights(tmp_path / "init.pth", unfit)
        with pytest.raises(CheckpointError, match="do not fit"):
            load_body(network, tmp_path / "init.pth", digest)


def test_a_checkpoint_of_nnunets_own_trainer_is_read(world) -> None:
    """What nnU-Net's trainer saves, NumPy numbers in its log included, loads although nothing but data is allowed."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = world.preprocessed / "Dataset901_Target"
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    for epoch in range(2):
        for key in ("train_losses", "val_losses", "lrs", "epoch_start_timestamps", "epoch_end_timestamps"):
            trainer.logger.log(key, np.float64(0.5), epoch)
        trainer.logger.log("mean_fg_dice", np.float32(0.25), epoch)
        trainer.logger.log("dice_per_class_or_region", [np.float32(0.5), np.float64("nan")], epoch)
    trainer._best_ema = np.float64(0.25)
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    with pytest.raises(Exception, match=r"weights_only|WeightsUnpickler"):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert loaded["current_epoch"] == 1
    assert loaded["logging"]["mean_fg_dice"] == [0.25, 0.25]
    assert loaded["trainer_name"] == "nnUNetTrainer"
    assert body_digest(loaded["network_weights"]) == body_digest(trainer.network.state_dict())


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int32", "int64", "bool"])
def test_numpy_scalars_are_read(tmp_path: Path, kind: str) -> None:
    """NumPy scalars of the kinds that logs hold come back with type and value."""
    value = np.dtype(kind).type(1)
    torch.save({"network_weights": {}, "value": value}, tmp_path / "c.pth")
    read = load_checkpoint(tmp_path / "c.pth")["value"]
    assert type(read) is type(value) and read == value


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_of_numbers_are_read(tmp_path: Path, kind: str, zipped: bool) -> None:
    """Arrays that third parties log come back as they were, in torch's new and old file format."""
    value = np.arange(6).reshape(2, 3).astype(kind)
    torch.save({"logging": value}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    read = load_file(tmp_path / "c.pth", "")["logging"]
    assert read.dtype == value.dtype and np.array_equal(read, value)


@pytest.mark.parametrize("value", [np.array([{}], dtype=object), np.array(["text"])], ids=["objects", "text"])
def test_other_arrays_are_refused(tmp_path: Path, value: np.ndarray) -> None:
    """An array of objects could hold anything; the error names the type and gives no advice to allow it."""
    torch.save({"logging": value}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"it holds numpy\.dtypes\.\w+DType") as raised:
        load_file(tmp_path / "c.pth", "")
    assert "safe_globals" not in str(raised.value)


@pytest.mark.parametrize("where", ["beside the weights", "among the weights", "all of it"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, where: str, zipped: bool) -> None:
    """A checkpoint that would run code is refused without running it, in torch's new and old file format."""
    evil = Malicious(tmp_path / "mark")
    content = {
        "beside the weights": {"network_weights": {}, "logging": evil},
        "among the weights": {"network_weights": {"a": evil}},
        "all of it": evil,
    }[where]
    path = tmp_path / "c.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert not (tmp_path / "mark").exists()
    assert "weights_only" not in str(raised.value), "no advice to load it unsafely"
    assert not zipped or "mkdir" in str(raised.value), "what it would have run is named"
    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").exists(), "the test's own checkpoint must be malicious"


def test_a_checkpoint_damaged_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    """Cut off at any length it is refused; with any byte changed it is refused by the same error, or still readable."""
    path = tmp_path / "c.pth"
    torch.save({"network_weights": {"a": torch.arange(6.0)}, "logging": {"x": [np.float64(1)]}}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            load_checkpoint(path)
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_weights_that_others_start_from_are_compared_with_their_checksums(tmp_path: Path) -> None:
    """torch reads a changed value without a word; where a network is to begin with it, that is an error."""
    path = tmp_path / "c.pth"
    torch.save({"network_weights": {"a": torch.full((64,), 1.5)}}, path)
    assert load_checkpoint(path, compared=True)["network_weights"]["a"][0] == 1.5
    changed = bytearray(path.read_bytes())
    changed[changed.index(np.float32(1.5).tobytes() * 64) + 2] ^= 1
    path.write_bytes(changed)
    assert load_checkpoint(path)["network_weights"]["a"][0] != 1.5
    with pytest.raises(CheckpointError, match="its checksums do not fit"):
        load_checkpoint(path, compared=True)
    with path.open("rb") as stream, pytest.raises(CheckpointError, match="checksums"):
        load_file(path, "", stream, compared=True)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"state_dict": {}},
        {"network_weights": [1]},
        {"network_weights": {"a": 1}},
        {"network_weights": {1: torch.zeros(1)}},
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    """A file that torch reads but that holds no network_weights of tensors is named as no checkpoint of nnU-Net."""
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of nnU-Net"):
        load_checkpoint(tmp_path / "c.pth")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, empty, text, or another zip archive is refused by name."""
    path = tmp_path / "c.pth"
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("readme.txt", "hello")
    for content in (b"", b"text", archive.getvalue()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=str(path)):
            load_checkpoint(path)


def test_digests_of_bodies() -> None:
    """Equal for the same tensors in any order and with any heads; another bit, name, shape or type makes another."""
    state = u_net().state_dict()
    digest = body_digest(state)
    assert body_digest(dict(reversed(state.items()))) == digest
    assert body_digest(body(state)) == digest
    name = next(iter(body(state)))
    for changed in (
        {**state, name: state[name].nextafter(torch.tensor(torch.inf))},
        {**state, name: state[name].reshape(-1)},
        {**state, name: state[name].view(torch.int32)},
        {**state, "more": torch.zeros(1)},
        {key: tensor for key, tensor in state.items() if key != name},
        {key if key != name else "renamed": tensor for key, tensor in state.items()},
    ):
        assert body_digest(changed) != digest
    assert body_digest({"a": torch.tensor([0.0])}) != body_digest({"a": torch.tensor([-0.0])})
    assert body_digest({"a": torch.tensor([torch.nan])}) == body_digest({"a": torch.tensor([torch.nan])})
    assert body_digest({"a": torch.arange(6.0).reshape(2, 3).T}) == body_digest(
        {"a": torch.arange(6.0).reshape(2, 3).T.contiguous()}
    )

"""Weights go from one network to the next bit by bit, by one documented rule, or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.network import network_tensors
from nnunet_seqtransfer.transfer.checkpoints import (
    HEADS,
    adapt_weights,
    body_digest,
    load_body,
    load_checkpoint,
    save,
    write_weights,
)

PLANS = {"3d_fullres": "Dataset901_Target", "2d": "Dataset911_FlatTarget"}
STEM = "stages.0.0.convs.0"
"""Part of the names of nnU-Net's first convolution, its normalisation and their aliases."""


@pytest.fixture(scope="session")
def plans(world_template) -> dict[str, dict[str, Any]]:
    """nnU-Net's own plans of two targets, by configuration; narrow networks."""
    folder = world_template.preprocessed
    return {name: json.loads((folder / dataset / "nnUNetPlans.json").read_text()) for name, dataset in PLANS.items()}


def build(plans: dict[str, Any], configuration: str, channels: int, classes: int, seed: int = 0) -> nn.Module:
    """The network that nnU-Net builds from these plans for so many input channels and classes, random weights."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"][configuration]["architecture"]
    torch.manual_seed(seed)
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        classes,
        deep_supervision=True,
    )


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if HEADS not in name}


def first_convolution(state: dict[str, Tensor]) -> list[str]:
    """Names of the first convolution's weight: all of one storage."""
    name = "encoder.stages.0.0.convs.0.conv.weight"
    return [other for other in state if state[other].data_ptr() == state[name].data_ptr()]


def image(channels: int, configuration: str) -> Tensor:
    size = (16, 16, 16) if configuration == "3d_fullres" else (32, 32)
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("configuration", PLANS)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equal_architectures_are_copied_bit_by_bit(plans, configuration: str, classes: int) -> None:
    """Every tensor but the heads arrives bit-identical, whatever the number of classes; the heads stay behind."""
    source = build(plans[configuration], configuration, 1, 3).state_dict()
    target = build(plans[configuration], configuration, 1, classes, seed=1).state_dict()
    adapted = adapt_weights(source, target, (1, 1))
    assert set(adapted) == {name for name in target if ".seg_layers." not in name}
    for name, tensor in adapted.items():
        assert tensor.dtype == source[name].dtype
        assert torch.equal(tensor, source[name]), name
        assert tensor.data_ptr() != source[name].data_ptr(), "a copy: later training must not reach back"
    assert body_digest(adapted) == body_digest(source) != body_digest(target)


@pytest.mark.parametrize("configuration", PLANS)
@pytest.mark.parametrize("channels", [(1, 2), (2, 1), (3, 1), (1, 3), (4, 3), (2, 4)])
def test_other_channels_follow_the_rule(plans, configuration: str, channels: tuple[int, int]) -> None:
    """Only the first convolution changes: each new channel gets the sum over the old ones divided by their number."""
    source = build(plans[configuration], configuration, channels[0], 2)
    target = build(plans[configuration], configuration, channels[1], 3, seed=1)
    given, like = source.state_dict(), target.state_dict()
    adapted = adapt_weights(given, like, channels)
    aliases = first_convolution(given)
    assert len(aliases) == 4
    for name, tensor in adapted.items():
        assert tensor.shape == like[name].shape
        if name in aliases:
            for channel in range(channels[1]):
                torch.testing.assert_close(tensor[:, channel], given[name].sum(dim=1) / channels[1])
            assert torch.equal(tensor, adapted[aliases[0]])
        else:
            assert torch.equal(tensor, given[name]), name
    target.load_state_dict({**like, **adapted})
    loaded = target.state_dict()
    assert all(torch.equal(loaded[name], adapted[aliases[0]]) for name in first_convolution(loaded))
    assert len(first_convolution(loaded)) == 4


@pytest.mark.parametrize("configuration", PLANS)
@pytest.mark.parametrize("channels", [(1, 2), (2, 1), (3, 1), (1, 3), (4, 3)])
def test_a_repeated_image_gives_the_same_features(plans, configuration: str, channels: tuple[int, int]) -> None:
    """One image in every channel gives the same output of the first convolution, and of the encoder, as before."""
    source = build(plans[configuration], configuration, channels[0], 2).eval()
    target = build(plans[configuration], configuration, channels[1], 2, seed=1).eval()
    target.load_state_dict({**target.state_dict(), **adapt_weights(source.state_dict(), target.state_dict(), channels)})
    one = image(1, configuration)
    repeat = [1] * (one.ndim - 2)
    with torch.no_grad():
        for part in (lambda network: network.encoder.stages[0][0].convs[0].conv, lambda network: network.encoder):
            before = part(source)(one.repeat(1, channels[0], *repeat))
            after = part(target)(one.repeat(1, channels[1], *repeat))
            for a, b in zip(*([x] if isinstance(x, Tensor) else x for x in (before, after)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_shapes_come_from_the_plans_alone(plans, world) -> None:
    """`network_tensors` lists the tensors of the network that nnU-Net builds, without building it in memory."""
    dataset_json = json.loads((world.raw / "Dataset901_Target/dataset.json").read_text())
    listed = network_tensors(plans["3d_fullres"], "3d_fullres", dataset_json)
    real = build(plans["3d_fullres"], "3d_fullres", 1, 3).state_dict()
    assert {name: tensor.shape for name, tensor in listed.items()} == {n: t.shape for n, t in real.items()}
    assert all(tensor.is_meta for tensor in listed.values())
    assert set(adapt_weights(real, listed, (1, 1))) == set(body(real))


def mismatches(plans: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Plans of other architectures: wider, deeper, other kernels."""
    wider, deeper, kernels = (deepcopy(plans) for _ in range(3))
    for changed in (wider, deeper, kernels):
        changed["arch"] = changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    wider["arch"]["features_per_stage"][-1] += 4
    deeper["arch"]["n_conv_per_stage"][0] += 1
    kernels["arch"]["kernel_sizes"][0] = [1, 1, 1]
    return {"wider": wider, "deeper": deeper, "kernels": kernels}


@pytest.mark.parametrize("kind", ["wider", "deeper", "kernels"])
@pytest.mark.parametrize("channels", [(1, 1), (1, 2)])
def test_another_architecture_is_refused(plans, kind: str, channels: tuple[int, int]) -> None:
    """Where architectures differ the error names a tensor, and both shapes where it has two; either way round."""
    ours = build(plans["3d_fullres"], "3d_fullres", channels[0], 2).state_dict()
    theirs = build(mismatches(plans["3d_fullres"])[kind], "3d_fullres", channels[1], 2).state_dict()
    for weights, like, pair in ((ours, theirs, channels), (theirs, ours, channels[::-1])):
        with pytest.raises(CheckpointError, match="another architecture") as raised:
            adapt_weights(weights, like, pair)
        message = str(raised.value)
        assert "\n" not in message and len(message) < 400
        named = [name for name in {**weights, **like} if name in message.replace(",", " ").replace(";", " ").split()]
        assert len(named) == 1
        if named[0] in weights and named[0] in like:
            assert weights[named[0]].shape != like[named[0]].shape
            assert str(tuple(weights[named[0]].shape)) in message
            assert str(tuple(like[named[0]].shape)) in message


def test_channels_that_are_not_those_said_are_refused(plans) -> None:
    """A first convolution of another width than the two tasks have is a mismatch, not adapted."""
    source = build(plans["2d"], "2d", 3, 2).state_dict()
    target = build(plans["2d"], "2d", 1, 2).state_dict()
    with pytest.raises(CheckpointError, match=r"conv\.weight has shape \(4, 3, 3, 3\).*\(4, 1, 3, 3\)"):
        adapt_weights(source, target, (2, 1))


def test_nnunet_reads_the_handed_over_file(plans, tmp_path: Path) -> None:
    """nnU-Net's own load_pretrained_weights takes the file, and has the same body afterwards, its own heads kept."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    source = build(plans["3d_fullres"], "3d_fullres", 2, 2).state_dict()
    network = build(plans["3d_fullres"], "3d_fullres", 1, 3, seed=1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapted = adapt_weights(source, before, (2, 1))
    write_weights(tmp_path / "init.pth", adapted)
    load_pretrained_weights(network, str(tmp_path / "init.pth"))
    after = network.state_dict()
    assert body_digest(after) == body_digest(adapted)
    assert all(torch.equal(after[name], before[name]) for name in after if HEADS in name)


def test_equal_weights_give_equal_files(plans, tmp_path: Path) -> None:
    """The file's digest depends on the weights alone, not on when or under which name it was written."""
    weights = body(build(plans["2d"], "2d", 1, 2).state_dict())
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


def test_the_trainer_loads_the_body_and_keeps_its_heads(plans, tmp_path: Path) -> None:
    """`load_body` gives every tensor but the heads, and refuses a file that is not the recorded one or does not fit."""
    network = build(plans["2d"], "2d", 1, 2)
    heads = {name: tensor.clone() for name, tensor in network.state_dict().items() if HEADS in name}
    weights = body(build(plans["2d"], "2d", 1, 2, seed=1).state_dict())
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


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


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
        load_checkpoint(path, stream, compared=True)


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
    with pytest.raises(CheckpointError, match="no nnU-Net checkpoint"):
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


def test_digests_of_bodies(plans) -> None:
    """Equal for the same tensors in any order and with any heads; another bit, name, shape or type makes another."""
    state = build(plans["2d"], "2d", 1, 2).state_dict()
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

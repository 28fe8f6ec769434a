"""Stages start from the weights of the stage before, or of a pretrained model under any tensor names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.transfer.checkpoints import body_digest
from nnunet_seqtransfer.transfer.correspondence import Correspondence
from nnunet_seqtransfer.transfer.handoff import NewNetwork, from_model, from_stage, match_stages
from nnunet_seqtransfer.transfer.pretrained import find_pretrained
from nnunet_seqtransfer.transfer.tensor_roles import HEADS
from support.models import save, theirs
from support.world import TARGET, World

LABELS = {"background": 0, "front": 1, "back": 2}
Weights = dict[str, Tensor]


def network(world: World, channels: tuple[str, ...] = ("MRI",), labels: Any = LABELS, **more: Any) -> NewNetwork:
    """The target's network under its own plans, for other channels or labels."""
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    dataset_json = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": dict(labels)}
    return NewNetwork(Task(TARGET, dataset_json, {}, {}, ()), plans, "3d_fullres", **more)


def finished(path: Path, old: NewNetwork) -> tuple[Path, Weights]:
    """A final checkpoint of a stage with made-up weights."""
    weights = NewNetwork(old.task, old.plans, old.configuration, seed=7).fresh()
    return save(path, {"network_weights": weights}), weights


def test_kept_heads_come_from_the_stage_before(world: World, tmp_path: Path) -> None:
    """Heads of equal names are the source's bit for bit at every resolution; others are new, the body is copied."""
    old = network(world, labels={"background": 0, "BACK": 1, "organ": 2})
    path, weights = finished(tmp_path / "final.pth", old)
    new = network(world, keep_heads=True, seed=3)
    kept = from_stage(path, old.task, new, match_stages(old.task, new))
    plain = from_stage(path, old.task, network(world), match_stages(old.task, network(world)))
    heads = [name for name in kept.weights if HEADS in name]
    assert len(heads) > 2 and not [name for name in plain.weights if HEADS in name]
    fresh = new.fresh()
    for name in heads:  # the target's outputs are background, front, back
        assert torch.equal(kept.weights[name][[0, 2]], weights[name][[0, 1]])
        assert torch.equal(kept.weights[name][1], fresh[name][1])
    assert body_digest(kept.weights) == body_digest(plain.weights) == body_digest(weights)
    assert kept.match.heads is not None and kept.match.heads.indices == (0, None, 1)
    assert (kept.origin, kept.sha256) == (str(path), sha256(path))


@pytest.mark.parametrize(
    ("names", "compared", "order"),
    [(("T1", "t2"), (), [1, 0]), (("A", "B"), (), [0, 1]), (("A", "B"), (("A", "T1"), ("B", "T2")), [1, 0])],
    ids=["by name", "unknown", "compared"],
)
def test_channels_of_consecutive_stages(
    world: World, tmp_path: Path, names: tuple[str, ...], compared: Any, order: list[int]
) -> None:
    """Each channel of T2, T1 reads what its match did, in all aliases of the first convolution; the rest is copied."""
    old, new = network(world, names), network(world, ("T2", "T1"))
    path, weights = finished(tmp_path / "final.pth", old)
    initial = from_stage(path, old.task, new, match_stages(old.task, new, compared))
    first = [name for name, tensor in initial.weights.items() if tensor.shape[1:2] == (2,) and tensor.ndim == 5]
    assert len(first) == 4
    for name, tensor in initial.weights.items():
        assert torch.equal(tensor, weights[name][:, order] if name in first else weights[name])


def test_a_checkpoint_without_the_channels_of_its_task_is_refused(world: World, tmp_path: Path) -> None:
    """Matched channels are looked for only if the checkpoint has them."""
    path, _ = finished(tmp_path / "final.pth", network(world))
    old, new = network(world, ("T1", "T2")), network(world, ("T2", "T1"))
    match = match_stages(old.task, new)
    assert match.channels == (1, 0)
    for only in (True, False):
        with pytest.raises(CheckpointError, match=r"conv\.weight has shape .*the network needs"):
            from_stage(path, old.task, new, match, check_only=only)


def test_a_check_gives_the_account_without_weights(world: World, tmp_path: Path) -> None:
    """The account of a check is that of the hand-off; NaN is noticed by the hand-off alone, another network by both."""
    old, new = network(world), network(world, ("T1", "T2"), {"background": 0, "x": 1})
    path, weights = finished(tmp_path / "final.pth", old)
    match = match_stages(old.task, new)
    check, real = (from_stage(path, old.task, new, match, check_only=only) for only in (True, False))
    assert check.adaptation == real.adaptation and real.adaptation.count("adapted") == 1
    assert not check.weights and set(real.weights) == {name for name in weights if HEADS not in name}
    name = "encoder.stages.1.0.convs.0.norm.bias"
    weights[name][0] = torch.nan
    save(path, {"network_weights": weights})
    assert from_stage(path, old.task, new, match, check_only=True).adaptation == check.adaptation
    with pytest.raises(CheckpointError, match=f"diverged: {name}"):
        from_stage(path, old.task, new, match)
    save(path, {"network_weights": {key: tensor for key, tensor in weights.items() if key != name}})
    for only in (True, False):
        with pytest.raises(CheckpointError, match=f"another architecture: it has no {name}"):
            from_stage(path, old.task, new, match, check_only=only)


def test_other_networks_keep_no_heads(world: World) -> None:
    """Heads and channels of a network other than nnU-Net's U-Nets are unknown, and no model is adapted to it."""
    new = network(world, keep_heads=True)
    new.plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "other.Network"
    match = match_stages(new.task, new)
    assert match.channels is None and match.heads is not None and match.heads.kept == {}
    plain = NewNetwork(new.task, new.plans, new.configuration)
    assert match_stages(new.task, plain) == Correspondence(None, None)
    with pytest.raises(CheckpointError, match="none of nnU-Net's U-Nets"):
        from_model(find_pretrained(save(world.root / "x.pth", {"a": torch.zeros(1)}), "3d_fullres"), new, 0.0)


def test_a_model_gives_what_it_can(world: World, tmp_path: Path) -> None:
    """Of a shallower model with other channels: the account of the check, kept heads, and a least coverage."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    model = find_pretrained(path, "3d_fullres")
    named = model.load()
    named["init_args"]["dataset_json"]["labels"] = {"background": 0, "back": 1}
    model, new = find_pretrained(save(path, named), "3d_fullres"), network(world, ("T1",), keep_heads=True)
    check, real, again = (from_model(model, new, 0.1, check_only=only) for only in (True, False, False))
    assert check.adaptation == real.adaptation and not check.weights and 0.1 < real.adaptation.coverage < 1
    assert body_digest(real.weights) == body_digest(again.weights), "made again, it is the same"
    assert (real.origin, real.sha256, real.channels) == (str(path), sha256(path), ("other", "T1"))
    assert real.match.channels == (1,) and real.match.heads is not None and real.match.heads.indices == (0, None, 1)
    for head in real.adaptation.heads:
        assert head.source and torch.equal(
            real.weights[head.name][[0, 2]], named["network_weights"][head.source][[0, 1]]
        )
    assert [head.name for head in real.adaptation.heads]
    for only in (True, False):
        with pytest.raises(CheckpointError, match=r"below -min_coverage 0\.99"):
            from_model(model, new, 0.99, check_only=only)


def version_1(weights: Weights) -> Weights:
    """The tensors as nnU-Net v1's Generic_UNet names and orders them; it has neither aliases nor biases of heads."""
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.stages."))
    named: Weights = {}
    rules = (
        (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(\w+)\.(\w+)", "conv_blocks_localization.{0}.{1}.blocks.0.{2}.{3}"),
        (r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(\w+)\.(\w+)", "conv_blocks_context.{0}.blocks.{1}.{2}.{3}"),
        (r"decoder\.transpconvs\.(\d+)\.(weight)", "tu.{0}.{1}"),
        (r"decoder\.seg_layers\.(\d+)\.(weight)", "seg_outputs.{0}.{1}"),
    )
    for pattern, form in rules:
        for name, tensor in weights.items():
            if (match := re.fullmatch(pattern, name)) and "all_modules" not in name:
                groups = [{"norm": "instnorm"}.get(group, group) for group in match.groups()]
                new = form.format(*groups)
                if new.startswith(f"conv_blocks_context.{last}."):  # the bottleneck is two stacks of one convolution
                    new = f"conv_blocks_context.{last}.{groups[1]}.blocks.0.{groups[2]}.{groups[3]}"
                named[new] = tensor
    return named


def renamed(weights: Weights) -> Weights:
    """No name that tells anything, in nnU-Net's order; aliases share memory."""
    return {f"layer{index}": tensor for index, tensor in enumerate(weights.values())}


NAMES: dict[str, Any] = {
    "nnU-Net v2": dict,
    "DDP": lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
    "compiled DDP": lambda weights: {f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()},
    "compiled inside": lambda w: {name.replace("encoder.", "encoder._orig_mod."): t for name, t in w.items()},
    "prefix": lambda weights: {f"model.unet.{name}": tensor for name, tensor in weights.items()},
    "by order": renamed,
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("only", [True, False], ids=["check", "hand-off"])
def test_tensors_under_other_names_are_the_same_weights(world: World, tmp_path: Path, names: str, only: bool) -> None:
    """Wrappers, prefixes and other names of an equal network give full coverage, and every tensor bit by bit."""
    _, weights = finished(tmp_path / "x.pth", network(world, labels={"background": 0, "other": 1}))
    model = find_pretrained(save(tmp_path / "c.pth", NAMES[names](weights)), "3d_fullres")
    initial = from_model(model, network(world), 1.0, check_only=only)
    assert initial.adaptation.coverage == 1 and initial.adaptation.left_behind == ()
    assert only or body_digest(initial.weights) == body_digest(weights)


def test_a_model_of_version_1(world: World, tmp_path: Path) -> None:
    """All but the biases that v1 has not comes over, from torch's old format."""
    _, weights = finished(tmp_path / "x.pth", network(world))
    path = tmp_path / "model_final_checkpoint.model"
    torch.save({"state_dict": version_1(weights)}, path, _use_new_zipfile_serialization=False)
    initial = from_model(find_pretrained(path, "3d_fullres"), network(world), 0.9)
    new = {change.name for change in initial.adaptation.tensors if change.how == "new"}
    assert new == {name for name in weights if re.fullmatch(r"decoder\.transpconvs\.\d+\.bias", name)}
    assert initial.adaptation.left_behind == ()
    for name, tensor in initial.weights.items():
        assert name in new or torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("change", ["fewer", "shape"])
def test_tensors_that_match_in_no_way_are_named(world: World, tmp_path: Path, change: str) -> None:
    """Unknown names with another number of tensors or another shape: one line with a name."""
    _, weights = finished(tmp_path / "x.pth", network(world))
    other = renamed(weights)
    if change == "fewer":
        del other["layer0"], other["layer1"]
        other = {name: tensor.clone() for name, tensor in other.items()}
    else:
        other = {name: tensor.flatten() for name, tensor in other.items()}
    model = find_pretrained(save(tmp_path / "c.pth", other), "3d_fullres")
    with pytest.raises(CheckpointError, match=r"the tensors of .* \(such as layer\d\) match .* neither by name nor"):
        from_model(model, network(world), 0.0)

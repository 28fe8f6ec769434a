"""Checkpoints of a stage before that are cut off, unsafe, or of another network: never handed on, never overwritten."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.prepare import write_stage_plans
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead
from support.bad_inputs import TRAIN, Command, attempt, error_line, truncate
from support.world import NEAR, TARGET, World

Weights = dict[str, Any]


def chain_of(world: World) -> Outlook:
    """What `TRAIN` asks for, as it stands."""
    request = ChainRequest(TARGET, (NEAR,), "nnUNetPlans", "3d_fullres", ("0",), Recipe(), Recipe(), 5)
    return look_ahead(request)


@pytest.fixture
def trained(world: World) -> tuple[World, Path, Weights]:
    """A world in which the source's stage is trained: its plans, its final checkpoint, and the weights in it."""
    chain = chain_of(world)
    source = chain.stages[0]
    block = StageBlock(source.target, source.path, source.role, source.recipe, None)
    write_stage_plans(source.files, chain.survey.plans[source], block)
    shapes = chain.network(source).tensors
    weights = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
    path = source.output / FINAL
    path.parent.mkdir(parents=True)
    torch.save({"network_weights": weights, "current_epoch": 250}, path)
    return world, path, weights


def first(weights: Weights) -> str:
    return next(name for name in weights if name.endswith("conv.weight"))


class Malicious:
    """What a hostile checkpoint would run when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def widened(weights: Weights) -> Weights:
    tensor = weights[first(weights)]
    return {**weights, first(weights): torch.zeros(tensor.shape[0] * 2, *tensor.shape[1:])}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda w: {"network_weights": widened(w)}, ("another architecture", "has shape (8,", "the network needs (4,")),
        (
            lambda w: {"network_weights": {name: w[name] for name in w if name != first(w)}},
            ("another architecture: it has no",),
        ),
        (lambda w: {"network_weights": {**w, "more.weight": torch.zeros(1)}}, ("the network has no more.weight",)),
        (lambda w: {"network_weights": w, "x": Malicious()}, ("is not safe to load", "train that stage again")),
        (lambda w: {"state_dict": w}, ("no checkpoint of nnU-Net (no network_weights)",)),
        (lambda w: [1, 2], ("no checkpoint of nnU-Net",)),
    ],
)
def test_checkpoints_that_are_not_handed_over(
    trained: tuple[World, Path, Weights],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: Callable[[Weights], Any],
    words: tuple[str, ...],
) -> None:
    """A finished source whose checkpoint does not fit or is unsafe stops the chain: one line, no code of it is run."""
    world, path, weights = trained
    monkeypatch.chdir(tmp_path)
    torch.save(content(weights), path)
    before = world.snapshot()
    line = error_line(attempt(command, TRAIN))
    assert all(word in line for word in words), line
    assert not (tmp_path / "ran").exists()
    # What was decided is on record; nothing else is touched, the source's checkpoint least of all.
    new = {name: stamp for name, stamp in world.snapshot().items() if before.get(name) != stamp}
    assert all(name.endswith("/run.json") for name in new), new


def test_a_pickle_in_place_of_a_checkpoint(
    trained: tuple[World, Path, Weights], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plain pickle is no checkpoint: it is not opened, and the stage counts as not trained."""
    world, path, _ = trained
    monkeypatch.chdir(tmp_path)
    path.write_bytes(pickle.dumps({"network_weights": Malicious()}))
    chain = chain_of(world)
    assert [chain.actions[stage].name for stage in chain.stages] == ["START", "START"]
    assert not (tmp_path / "ran").exists()


def exchange(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, ("is broken", "delete it and run nnUNetv2_seq_train again")),
        (lambda path: path.unlink(), ("holds a training whose plans", "are gone", "-tag NAME")),
        (lambda path: path.write_text("{}"), ("holds a training whose plans", "are gone", "-tag NAME")),
        (
            lambda path: exchange(path, '"epochs": 250', '"epochs": 100'),
            ("epochs: 100 on disk, 250 requested", "-tag NAME"),
        ),
        (lambda path: exchange(path, '"format": 2', '"format": 9'), ("has format 9", "update")),
        (lambda path: exchange(path, '"epochs"', '"epoch"'), ("is damaged",)),
    ],
)
def test_plans_of_a_trained_stage(
    trained: tuple[World, Path, Weights], command: Command, harm: Callable[[Path], Any], words: tuple[str, ...]
) -> None:
    """A trained stage whose plans are cut off, gone, edited or newer is neither reused nor overwritten."""
    world, _, _ = trained
    harm(world.preprocessed / NEAR / "nnUNetPlans_for901.json")
    before = world.snapshot()
    for arguments in (TRAIN, (*TRAIN, "--dry_run")):
        line = error_line(attempt(command, arguments))
        assert all(word in line for word in words), line
        assert world.snapshot() == before

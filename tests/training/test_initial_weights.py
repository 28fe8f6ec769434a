"""Chains start from pretrained models and hand weights over: names, records, dry runs and trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import pytest
import torch

from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.nnunet.network import fresh_network
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import read_json, sha256, write_json
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.training.decide import Outlook, weights_fit
from nnunet_seqtransfer.training.on_disk import read_stage
from nnunet_seqtransfer.training.prepare import stage_plans
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, read_block, with_block
from nnunet_seqtransfer.training.run_stage import initial_weights, write_initial
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from nnunet_seqtransfer.training.train import look_ahead
from nnunet_seqtransfer.transfer.checkpoints import body_digest, load_checkpoint
from nnunet_seqtransfer.transfer.correspondence import correspond
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from nnunet_seqtransfer.transfer.tensor_roles import HEADS
from support.bad_inputs import Command, assert_refused
from support.models import save, theirs
from support.states import raise_problems, state_of
from support.u_nets import level_scales, patch
from support.world import NEAR, TARGET, TWO_CHANNELS, World

TRAIN = ("train", "901", "3d_fullres", "0", "-s", "none", "-device", "cpu", "-np", "1")


def request(
    *sources: str,
    pretrained: PretrainedModel | None = None,
    keep: bool = False,
    epochs: int = 40,
    seed: int | None = None,
    **more: Any,
) -> ChainRequest:
    recipe = Recipe(40, 2, seed=seed)
    settings = {"pretrained": pretrained, "keep_heads": keep, **more}
    return ChainRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 5, **settings)


def rename(world: World, dataset: str, **entries: Any) -> None:
    """Changes entries of dataset.json, in nnUNet_raw and in the copy that nnU-Net trains with."""
    for folder in (world.raw, world.preprocessed):
        path = folder / dataset / "dataset.json"
        if path.is_file():
            path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def chain_with_source(world: World, asked: ChainRequest, seed: int = 7) -> tuple[Outlook, Stage, Stage, dict[str, Any]]:
    """A chain whose first source has a final checkpoint with made-up weights."""
    first, last = chain_stages(asked)[0], chain_stages(asked)[-1]
    chain = look_ahead(asked)
    network = fresh_network(
        chain.survey.plans[first], "3d_fullres", chain.survey.tasks[first.dataset].dataset_json, seed
    )
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save(first.output / "checkpoint_final.pth", {"network_weights": network.state_dict()})
    plans = {**chain.survey.plans[first]}
    block = StageBlock(first.target, first.path, "source", first.recipe, None)
    write_json(plans_path(first.dataset, first.plans_name), with_block(plans, "3d_fullres", block))
    return look_ahead(asked), first, last, weights


def test_only_stages_with_weights_keep_heads(world: World) -> None:
    """A first stage from random weights is the same training either way, so that chains go on sharing it."""
    kept, plain = (chain_stages(request(NEAR, TWO_CHANNELS, keep=keep)) for keep in (True, False))
    assert kept[0] == plain[0]
    assert [stage.keep_heads for stage in kept] == [False, True, True]
    assert [stage.plans_name for stage in kept] == [stage.plans_name for stage in plain]


@pytest.mark.parametrize("keep", [True, False])
def test_a_stage_of_the_other_setting_is_not_reused(world: World, keep: bool) -> None:
    """A training that kept its heads is not one that did not, and the other way round; the error names both."""
    stage = chain_stages(request(NEAR, keep=keep))[-1]
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None, keep_heads=not keep)
    with pytest.raises(StageError, match=f"{'new heads; give' if keep else 'kept heads; leave out'}.*-tag NAME"):
        raise_problems([stage], {stage: state_of(stage, final=True, block=block)})
    raise_problems([stage], {stage: state_of(stage, final=True, block=replace(block, keep_heads=keep))})


def test_the_block_remembers_what_a_stage_starts_from() -> None:
    """It is read back as written; without a model and kept heads the block is as older versions wrote it."""
    init = Init("x", "a" * 64, "y", "b" * 64, 0.75, (1, None), (0, None, 1))
    block = StageBlock(TARGET, (TARGET,), "target", Recipe(), init, pretrained="a" * 64, keep_heads=True)
    plans = json.loads(json.dumps(with_block({"plans_name": "p"}, "3d_fullres", block)))
    assert read_block(plans, "3d_fullres") == block and block.needs_weights
    assert with_block(plans, "3d_fullres", block) == plans, "nothing to write again"
    older = plans["seq_transfer"]["configurations"]["3d_fullres"]
    del older["keep_heads"], older["init"]["heads"]
    assert read_block(plans, "3d_fullres") == replace(block, keep_heads=False, init=replace(init, heads=None))
    plain = StageBlock(TARGET, (TARGET,), "target", Recipe(), None)
    written = json.dumps(with_block({}, "3d_fullres", plain))
    assert "pretrained" not in written and "keep_heads" not in written and not plain.needs_weights


def test_weights_of_the_other_setting_are_made_again(world: World) -> None:
    """Weights made with new heads, or for another seed, do not count before training has begun on them."""
    chain, _, last, _ = chain_with_source(world, request(NEAR, seed=1))
    initial = initial_weights(chain, last)
    assert initial is not None
    init = write_initial(initial, last)
    block = StageBlock(last.target, last.path, "target", last.recipe, init)
    write_json(plans_path(TARGET, last.plans_name), with_block(chain.survey.plans[last], "3d_fullres", block))
    on_disk = read_stage(last.files, details=True, checksums=True)
    assert weights_fit(last, on_disk)
    assert not weights_fit(replace(last, keep_heads=True), on_disk)
    assert not weights_fit(replace(last, recipe=replace(last.recipe, seed=2)), on_disk)


def test_a_dry_run_says_which_heads_are_kept(world: World, command: Command) -> None:
    """Each hand-off has a line, also if nothing matches."""
    rename(world, NEAR, labels={"background": 0, "Front": 1})
    arguments = ("train", "901", "3d_fullres", "all", "-device", "cpu", "-np", "1", "--dry_run")
    outcome = command(*arguments, "-s", "902", "903")
    assert outcome.status == 0, outcome.err
    assert "heads: all new, no name is in both (Front; now organ)" in outcome.out
    assert "heads: all new, no name is in both (organ; now front, back)" in outcome.out
    outcome = command(*arguments, "-s", "902")
    assert "heads: kept background, front; new back" in outcome.out
    assert "heads" not in command(*arguments, "-s", "902", "--new_heads").out


def test_a_planned_chain_uses_what_the_affinity_compared(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs reach the chain where its order is the plan's and the affinity is the one it rests on; else none do."""
    from nnunet_seqtransfer.training import train

    seen: list[Any] = []

    def stop(asked: ChainRequest, *_: Any, **__: Any) -> None:
        seen.append(asked)
        raise StageError("seen")

    monkeypatch.setattr(train, "look_ahead", stop)
    assert command("affinity", "-t", "901", "-s", "902", "904", "-n_cases", "2", "-np", "1").status == 0
    assert command("plan", "-t", "901", "-must", "904", "-max_sources", "1", "-np", "1").status == 0
    arguments = ("train", "901", "3d_fullres", "0", "-device", "cpu", "-np", "1", "--dry_run")
    command(*arguments)
    assert list(seen[-1].compared) == [TWO_CHANNELS]
    ((mine, their),) = seen[-1].compared[TWO_CHANNELS]
    assert mine in ("T1", "T2") and their == "MRI"
    command(*arguments, "-s", "904")
    assert seen[-1].compared == {}
    (record,) = (world.preprocessed / TARGET / "seqtransfer").glob("affinity_*_descriptors.json")
    record.write_text(json.dumps(read_json(record, "affinity", "")))
    command(*arguments)
    assert seen[-1].compared == {}, "not the record that the plan was made on"


def test_the_last_hand_off_alone_uses_the_comparison(world: World) -> None:
    """The affinity compares sources with the target, which says nothing about one source and the next."""
    compared = {TWO_CHANNELS: (("T2", "MRI"),), NEAR: (("T1", "MRI"),)}
    chain = look_ahead(request(TWO_CHANNELS, NEAR, compared=compared))
    assert chain.match(chain.stages[1]).channels == (0,), "by name: T1"
    chain = look_ahead(request(TWO_CHANNELS, compared=compared))
    assert chain.match(chain.stages[1]).channels == (1,), "T2 was compared with the target's"
    task = chain.survey.tasks[TARGET]
    assert correspond(task, task, keep_heads=False).channels is None


def test_weights_that_were_matched_otherwise_are_made_anew(world: World) -> None:
    """Unless another fold has trained from them: all folds start from the same."""
    compared = {TWO_CHANNELS: (("T2", "MRI"),)}
    chain = look_ahead(request(TWO_CHANNELS, compared=compared))
    _, stage = chain.stages

    def is_stale(*, siblings: bool = False, **matched: Any) -> bool:
        init = Init("a", "b", "c", "d", **matched)
        block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, init)
        state = state_of(stage, weights=True, siblings=siblings, block=block)
        survey = replace(chain.survey, on_disk={**chain.survey.on_disk, stage: state})
        return replace(chain, survey=survey).weights_are_stale(stage)

    assert not is_stale(channels=(1,))
    assert is_stale(channels=(0,)) and is_stale(channels=None)
    assert is_stale(channels=(1,), heads=(0, 1, None))
    assert not is_stale(channels=(0,), siblings=True)


@pytest.mark.usefixtures("folders")
def test_stages_behind_a_model_have_names_of_their_own() -> None:
    """All names of the chain tell the model by its digest; the first stage warms up like any behind another."""
    one, other = (PretrainedModel(Path("x"), None, digit * 64) for digit in "ab")
    assert chain_stages(request(pretrained=one))[0].plans_name == "nnUNetPlans_initaaaaaaaa"
    stages = chain_stages(request(NEAR, pretrained=one, tag="long"))
    names = ["nnUNetPlans_for901_initaaaaaaaa_long", "nnUNetPlans_via902_initaaaaaaaa_long"]
    assert [stage.plans_name for stage in stages] == names
    assert [stage.recipe.warmup_epochs for stage in stages] == [4, 4]
    assert all(stage.pretrained == "a" * 64 for stage in stages)
    groups = [chain_stages(request(NEAR, pretrained=pretrained)) for pretrained in (None, one, other)]
    assert len({stage.base for group in groups for stage in group}) == 6
    assert [stage.recipe.warmup_epochs for stage in groups[0]] == [0, 4]


@pytest.mark.usefixtures("folders")
def test_a_training_behind_another_model_is_not_reused() -> None:
    """Should two models share the digits in a name, the whole digest tells them apart."""
    (stage,) = chain_stages(request(pretrained=PretrainedModel(Path("x"), None, "a" * 64)))
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None, pretrained="a" * 8 + "b" * 56)
    with pytest.raises(StageError, match="started from another pretrained model"):
        raise_problems([stage], {stage: state_of(stage, final=True, block=block)})


def test_a_dry_run_shows_the_coverage(world: World, command: Command, tmp_path: Path) -> None:
    """--dry_run names the model, its coverage and what is missing, and writes nothing."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    before = world.snapshot(caches=False)
    folds = (*TRAIN[:4], "1", *TRAIN[4:])
    outcome = command(*folds, "-init", str(path), "-min_coverage", "0.1", "--dry_run")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("coverage 0.") == 1 < outcome.out.count("fold_"), "all folds start from the same"
    assert f"weights of {path}" in outcome.out and "coverage 0." in outcome.out
    assert "no counterpart" in outcome.out
    assert f"nnUNetPlans_init{sha256(path)[:8]}" in outcome.out
    assert world.snapshot(caches=False) == before


def test_models_that_do_not_fit_are_refused(world: World, command: Command, tmp_path: Path) -> None:
    """Too little coverage or an unfit option is one line, and nothing is written."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    for given, words in (
        ((path, "-min_coverage", "0.99"), "below -min_coverage 0.99"),
        ((path, "-min_coverage", "1.5"), "'1.5' is not a number from 0 to 1"),
        ((path, "-tag", "init0123abcd"), "reads like a part of the path"),
    ):
        assert_refused(world, command, (*TRAIN, "-init", *map(str, given)), words, alone=False)


def test_plans_keep_nnunets_pretrain_info(world: World) -> None:
    """nnU-Net's own block about pre-training goes through to the plans of every stage untouched."""
    chain = look_ahead(request("Dataset902_Near"))
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    plans["pretrain_info"] = {"checkpoint_path": "x", "citations": ["y"]}
    for stage in chain.stages:
        source = chain.survey.tasks[stage.dataset]
        aligned = align_plans(plans, chain.survey.tasks[TARGET], source) if stage.role == "source" else plans
        made = stage_plans(stage.plans_name, aligned)
        assert made["pretrain_info"] == plans["pretrain_info"]


@pytest.mark.chain
def test_a_chain_begins_with_a_model(
    world: World, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage enters training with the adapted weights; started again it is finished; by hand it refuses."""
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    path, own = theirs(world, tmp_path / "theirs.pth")
    small = ("-epochs", "2", "-iterations", "2", "-seed", "0", "-init", str(path), "-min_coverage", "0.2")
    outcome = command(*TRAIN, *small)
    assert outcome.status == 0, outcome.err
    name = f"nnUNetPlans_init{sha256(path)[:8]}"
    plans = json.loads((world.preprocessed / TARGET / f"{name}.json").read_text())
    block = read_block(plans, "3d_fullres", 0)
    assert block is not None and block.init is not None and block.pretrained == sha256(path)
    assert block.init.checkpoint == str(path) and block.init.checkpoint_sha256 == sha256(path)
    assert 0.2 < block.init.coverage < 1

    def trainer() -> Any:
        arguments = (TARGET, "3d_fullres", 0, "nnUNetTrainerSeqTransfer", name)
        return nnunet_run.get_trainer_from_args(*arguments, device=torch.device("cpu"))

    given, entering = load_checkpoint(path)["network_weights"], trainer()
    entering.on_train_start()
    entered = entering.network.state_dict()
    shared = "encoder.stages.1.0.convs.1.conv.weight"
    assert torch.equal(entered[shared], given[shared])
    assert body_digest(entered) == body_digest(load_checkpoint(world.results / block.init.weights)["network_weights"])
    assert not [key for key in load_checkpoint(world.results / block.init.weights)["network_weights"] if HEADS in key]
    assert all(level > 0 for level in level_scales(entering.network.cpu(), patch(own)))

    snapshot = world.snapshot()
    again = command(*TRAIN, *small)
    assert again.status == 0 and "finished" in again.err
    assert world.snapshot() == snapshot

    (world.results / block.init.weights).unlink()
    with pytest.raises(CheckpointError, match="initial weights of this stage are missing"):
        trainer().on_train_start()

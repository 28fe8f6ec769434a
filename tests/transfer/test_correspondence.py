"""Channels and heads go together by name; where channels' names tell nothing, by what the affinity compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.network import Outputs, fresh_network, network_outputs
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import read_json, sha256, write_json
from nnunet_seqtransfer.training.chain import Chain, load_chain
from nnunet_seqtransfer.training.handoff import adapted_weights, hand_over
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, read_block, with_block
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from nnunet_seqtransfer.training.state import Action, StageState, decide, inspect
from nnunet_seqtransfer.transfer.checkpoints import HEADS, body_digest, write_weights
from nnunet_seqtransfer.transfer.correspondence import (
    channel_words,
    compared_channels,
    correspond,
    match_compared,
    match_heads,
    match_names,
)
from nnunet_seqtransfer.transfer.pretrained import find_landmark, outputs
from support.bad_inputs import Command, attempt, error_line
from support.models import checkpoint, save, theirs
from support.u_nets import architecture
from support.world import NEAR, TARGET, TWO_CHANNELS, World

LABELS: list[tuple[dict[str, Any], tuple[str, ...], bool]] = [
    # labels of a dataset.json, the network's outputs in their order, whether these are regions
    ({"background": 0, "b": 2, "a": 1}, ("background", "a", "b"), False),
    ({"a": 1, "ignore": 2, "background": 0}, ("background", "a"), False),
    ({"background": 0, "a": [1], "b": "2"}, ("background", "a", "b"), False),
    ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3, "ignore": 4}, ("whole", "core", "rim"), True),
    ({"background": 0, "rim": 3, "whole": [1, 2, 3]}, ("rim", "whole"), True),
]


@pytest.mark.parametrize(("labels", "names", "regions"), LABELS)
def test_outputs_are_those_of_nnunet(labels: dict[str, Any], names: tuple[str, ...], regions: bool) -> None:
    """Names, order and number of a network's outputs are what nnU-Net's LabelManager trains."""
    assert network_outputs({"labels": labels}) == Outputs(names, regions)
    manager = LabelManager(labels, list(range(1, len(names) + 1)) if regions else None)
    assert (manager.num_segmentation_heads, manager.has_regions) == (len(names), regions)
    values = [tuple(labels[name]) if isinstance(labels[name], list) else labels[name] for name in names]
    trained = manager.foreground_regions if regions else manager.all_labels
    flat = [value[0] if isinstance(value, tuple) and len(value) == 1 else value for value in values]
    assert [int(v) if isinstance(v, str) else v for v in flat] == list(trained)


def test_heads_go_together_by_name() -> None:
    """Equal names whatever the case, background with background; the rest of the new network's heads is new."""
    match = match_heads(Outputs(("background", "CA1", "Edema"), False), Outputs(("background", "edema", "new"), False))
    assert match.places == (0, 2, None) and match.kept == {0: 0, 1: 2}
    assert match.words == "heads: kept background, edema; new new"
    regions = match_heads(Outputs(("whole", "core"), True), Outputs(("CORE", "whole"), True))
    assert regions.kept == {0: 1, 1: 0} and regions.words == "heads: kept CORE, whole; new none"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (Outputs(("background", "a"), False), Outputs(("background", "b"), False), "no name is in both (a; now b)"),
        (Outputs(("whole",), True), Outputs(("background", "whole"), False), "regions (sigmoid) and do not fit labels"),
        (Outputs(("background", "a"), False), Outputs(("a",), True), "labels (softmax) and do not fit regions"),
        (None, Outputs(("background", "a"), False), "does not say what its outputs are"),
        (Outputs(("a", "A", "x"), True), Outputs(("a",), True), "no name is in both"),
    ],
)
def test_where_nothing_matches_it_is_said(old: Outputs | None, new: Outputs, words: str) -> None:
    """No common name but background's, another kind of outputs, unknown or ambiguous names: all heads are new."""
    match = match_heads(old, new)
    assert match.places is None and match.kept == {} and words in match.words


def test_names_of_a_models_outputs_fit_its_heads_or_do_not_count() -> None:
    """A checkpoint whose dataset.json lists more or fewer labels than it has heads says nothing about them."""
    good = checkpoint(architecture(3))
    good["init_args"]["dataset_json"]["labels"] = {"background": 0, "organ": 1}
    assert outputs(good) == Outputs(("background", "organ"), False)
    for labels in ({"background": 0}, {"background": 0, "a": 1, "b": 2}, {"background": "x"}, [], None):
        good["init_args"]["dataset_json"]["labels"] = labels
        assert outputs(good) is None
    assert outputs({"network_weights": good["network_weights"]}) is None


def test_channels_go_together_by_what_was_compared() -> None:
    """Where names are all different, the affinity's pairs count; a mere identity, or a single old channel, does not."""
    pairs = (("FLAIR", "b"), ("T1", "a"))
    assert match_compared(("FLAIR", "T1"), ("a", "b"), pairs) == (1, 0)
    assert match_compared(("FLAIR", "T1"), ("b",), pairs) == (0,)
    assert match_compared(("FLAIR", "T1"), ("a", "x", "b"), pairs) == (1, None, 0)
    assert match_compared(("FLAIR", "T1"), ("b", "a"), pairs) is None, "already so"
    assert match_compared(("T1",), ("a", "c"), pairs) is None and match_compared(("X", "Y"), ("a", "b"), pairs) is None
    assert match_names(("T1",), ("T1", "T2")) is None, "every new channel reads the only old one"
    assert channel_words((1, None), ("FLAIR", "T1"), ("a", "b")) == "channels: a reads T1; b reads the mean"


def test_the_affinity_says_which_channels_were_compared() -> None:
    """Its record lists pairs of channels, then of labels, in words; what else is there is no pair of channels."""

    def record(old: tuple[str, ...], new: tuple[str, ...], words: tuple[str, ...]) -> Any:
        tasks = (SimpleNamespace(channels=old), SimpleNamespace(channels=new))
        return SimpleNamespace(names=("S", "T"), tasks=tasks, matches=(words,))

    words = ("FLAIR -> b", "T1 -> a", "lesion -> a")
    assert compared_channels(record(("FLAIR", "T1"), ("a", "b"), words), "S") == (("FLAIR", "b"), ("T1", "a"))
    assert compared_channels(record(("FLAIR", "T1"), ("b",), words), "S") == (("FLAIR", "b"),)
    assert compared_channels(record(("FLAIR", "T1"), ("a", "b"), ()), "S") == (), "a metric that compares no channels"
    assert compared_channels(record(("T1", "T1"), ("a", "b"), ("T1 -> a", "T1 -> b")), "S") == ()
    assert compared_channels(record(("FLAIR", "T1"), ("a", "b"), ("lesion -> a", "T1 -> b")), "S") == ()


def request(target: str, *sources: str, keep: bool = False, seed: int | None = None, **more: Any) -> ChainRequest:
    recipe = Recipe(epochs=2, iterations=2, seed=seed)
    return ChainRequest(
        target, sources, "nnUNetPlans", "3d_fullres", ("all",), recipe, recipe, 0, keep_heads=keep, **more
    )


def rename(world: World, dataset: str, **entries: Any) -> None:
    """Changes entries of dataset.json, in nnUNet_raw and in the copy that nnU-Net trains with."""
    for folder in (world.raw, world.preprocessed):
        path = folder / dataset / "dataset.json"
        if path.is_file():
            path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def chain_with_source(world: World, asked: ChainRequest, seed: int = 7) -> tuple[Chain, Stage, Stage, dict[str, Any]]:
    """A chain whose first source has a final checkpoint with made-up weights."""
    first, last = chain_stages(asked)[0], chain_stages(asked)[-1]
    chain = load_chain(asked, 1, print)
    network = fresh_network(chain.plans[first], "3d_fullres", chain.tasks[first.dataset].dataset_json, seed)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save(first.output / "checkpoint_final.pth", {"network_weights": network.state_dict()})
    plans = {**chain.plans[first]}
    block = StageBlock(first.target, first.path, "source", first.recipe, None)
    write_json(plans_path(first.dataset, first.plans_name), with_block(plans, "3d_fullres", block))
    return load_chain(asked, 1, print), first, last, weights


def handed(chain: Chain, first: Stage, last: Stage) -> dict[str, Any]:
    tasks = chain.tasks[first.dataset], chain.tasks[last.dataset]
    return adapted_weights(first, last, tasks, chain.plans[last], chain.match(first, last))


def test_kept_heads_come_from_the_stage_before(world: World) -> None:
    """Heads of equal names are the source's bit for bit at every resolution; others are new, the body as ever."""
    rename(world, NEAR, labels={"background": 0, "BACK": 1, "organ": 2})
    chain, first, last, weights = chain_with_source(world, request(TARGET, NEAR, keep=True))
    kept = handed(chain, first, last)
    plain = handed(*chain_with_source(world, request(TARGET, NEAR))[:3])
    heads = [name for name in kept if HEADS in name]
    assert len(heads) > 2 and not [name for name in plain if HEADS in name]
    new = fresh_network(chain.plans[last], "3d_fullres", chain.tasks[TARGET].dataset_json).state_dict()
    for name in heads:  # the target's outputs are background, front, back
        assert torch.equal(kept[name][[0, 2]], weights[name][[0, 1]])
        assert torch.equal(kept[name][1], new[name][1])
    assert body_digest(kept) == body_digest(plain) == body_digest(weights)
    init = hand_over(first, last, (chain.tasks[NEAR], chain.tasks[TARGET]), chain.plans[last], chain.match(first, last))
    assert init.heads == (0, None, 1) and init.channels is None
    assert sha256(last.weights) == init.weights_sha256 == write_weights(world.root / "again.pth", kept)


def test_channels_between_stages_go_by_name(world: World) -> None:
    """T2, T1 after T1, T2: each reads what the one of its name did, in all aliases; the rest is copied."""
    rename(world, NEAR, channel_names={"0": "T1", "1": "t2"})
    rename(world, TWO_CHANNELS, channel_names={"0": "T2", "1": "T1"})
    path = world.preprocessed / NEAR / "dataset_fingerprint.json"
    fingerprint = json.loads(path.read_text())
    one = fingerprint["foreground_intensity_properties_per_channel"]
    path.write_text(json.dumps({**fingerprint, "foreground_intensity_properties_per_channel": {**one, "1": one["0"]}}))
    for case in range(6):
        image = world.raw / NEAR / "imagesTr" / f"case{case}_0000.nii.gz"
        image.with_name(f"case{case}_0001.nii.gz").write_bytes(image.read_bytes())
    chain, first, last, weights = chain_with_source(world, request(TWO_CHANNELS, NEAR))
    adapted = handed(chain, first, last)
    names = [name for name in adapted if adapted[name].shape[1:2] == (2,) and adapted[name].ndim == 5]
    assert len(names) == 4
    assert all(torch.equal(adapted[name], weights[name][:, [1, 0]]) for name in names)
    assert all(torch.equal(adapted[name], weights[name]) for name in set(adapted) - set(names))
    assert "channels: T2 reads t2; T1 reads T1" in described(chain, last)

    rename(world, NEAR, channel_names={"0": "A", "1": "B"})
    for compared, order in (({}, [0, 1]), ({NEAR: (("A", "T1"), ("B", "T2"))}, [1, 0])):
        chain = load_chain(request(TWO_CHANNELS, NEAR, compared=compared), 1, print)
        adapted = handed(chain, first, last)
        assert all(torch.equal(adapted[name], weights[name][:, order]) for name in names)


def described(chain: Chain, stage: Stage) -> str:
    from nnunet_seqtransfer.training.dry_run import describe_chain

    return "\n".join(describe_chain(replace(chain, actions={**chain.actions, stage: Action.START}), "cpu"))


def test_only_stages_with_weights_keep_heads(world: World) -> None:
    """A first stage from random weights is the same training either way, so that chains go on sharing it."""
    kept, plain = (chain_stages(request(TARGET, NEAR, TWO_CHANNELS, keep=keep)) for keep in (True, False))
    assert kept[0] == plain[0]
    assert [stage.keep_heads for stage in kept] == [False, True, True]
    assert [stage.plans_name for stage in kept] == [stage.plans_name for stage in plain]


@pytest.mark.parametrize("keep", [True, False])
def test_a_stage_of_the_other_setting_is_not_reused(world: World, keep: bool) -> None:
    """A training that kept its heads is not one that did not, and the other way round; the error names both."""
    stage = chain_stages(request(TARGET, NEAR, keep=keep))[-1]
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None, keep_heads=not keep)
    state = StageState(block, True, False, True, False, ())
    with pytest.raises(StageError, match=r"all heads new.*-tag NAME") as raised:
        decide([stage], {stage: state})
    assert "heads of matching labels kept (--keep_heads)" in str(raised.value)
    decide([stage], {stage: replace(state, block=replace(block, keep_heads=keep))})


def test_the_block_remembers_kept_heads(world: World) -> None:
    """It is written and read back; blocks of before have no such entry, which means that all heads were new."""
    init = Init("x", "a", "y", "b", heads=(0, None, 1))
    block = StageBlock(TARGET, (NEAR, TARGET), "target", Recipe(), init, keep_heads=True)
    plans = json.loads(json.dumps(with_block({"plans_name": "p"}, "3d_fullres", block)))
    assert read_block(plans, "3d_fullres") == block
    old = plans["seq_transfer"]["configurations"]["3d_fullres"]
    del old["keep_heads"], old["init"]["heads"]
    assert read_block(plans, "3d_fullres") == replace(block, keep_heads=False, init=replace(init, heads=None))
    assert "keep_heads" not in json.dumps(with_block({}, "3d_fullres", replace(block, keep_heads=False)))


def test_weights_of_the_other_setting_are_made_again(world: World) -> None:
    """Weights made with new heads, or for another seed, do not count before training has begun on them."""
    chain, first, last, _ = chain_with_source(world, request(TARGET, NEAR, seed=1))
    tasks = chain.tasks[NEAR], chain.tasks[TARGET]
    init = hand_over(first, last, tasks, chain.plans[last], chain.match(first, last))
    block = StageBlock(last.target, last.path, "target", last.recipe, init)
    write_json(plans_path(TARGET, last.plans_name), with_block(chain.plans[last], "3d_fullres", block))
    assert inspect(last).weights
    assert not inspect(replace(last, keep_heads=True)).weights
    assert not inspect(replace(last, recipe=replace(last.recipe, seed=2))).weights


def test_a_dry_run_says_which_heads_are_kept(world: World, command: Command, tmp_path: Path) -> None:
    """For every hand-off, from a model as well as between stages; where nothing matches it says so."""
    rename(world, NEAR, labels={"background": 0, "Front": 1})
    arguments = ("train", "901", "3d_fullres", "all", "-device", "cpu", "-np", "1", "--dry_run")
    outcome = command(*arguments, "-s", "902", "903", "--keep_heads")
    assert outcome.status == 0, outcome.err
    assert "heads: all new, no name is in both (Front; now organ)" in outcome.out
    assert "heads: all new, no name is in both (organ; now front, back)" in outcome.out
    outcome = command(*arguments, "-s", "902", "--keep_heads")
    assert "heads: kept background, front; new back" in outcome.out
    assert "heads" not in command(*arguments, "-s", "902").out

    path, own = theirs(world, tmp_path / "theirs.pth")
    begin = (*arguments, "-s", "none", "-init", str(path), "-min_coverage", "0.1", "--keep_heads")
    assert "heads: all new, the model does not say what its outputs are" in command(*begin).out
    named = checkpoint(own)
    named["init_args"]["dataset_json"]["labels"] = {"background": 0, "back": 1}
    save(path, named)
    assert "heads: kept background, back; new front" in command(*begin).out
    chain = load_chain(request(TARGET, keep=True, landmark=find_landmark(path, "3d_fullres")), 1, print)
    beginning = chain.beginning(chain.stages[0], inspect(chain.stages[0]))
    assert beginning is not None
    for name, tensor in beginning.weights.items():
        assert HEADS not in name or torch.equal(tensor[[0, 2]], named["network_weights"][name][[0, 1]])
    assert any(HEADS in name for name in beginning.weights)


def test_a_least_coverage_belongs_to_a_model(world: World, command: Command) -> None:
    """-min_coverage without -init is refused in one line, since it would do nothing."""
    arguments = ("train", "901", "3d_fullres", "0", "-s", "none", "-min_coverage", "0.5")
    assert "-min_coverage says how much" in error_line(attempt(command, arguments))


def test_a_planned_chain_uses_what_the_affinity_compared(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs reach the chain where its order is the plan's and the affinity is the one it rests on; else none do."""
    from nnunet_seqtransfer.entry_points import train

    seen: list[Any] = []

    def stop(asked: ChainRequest, *_: Any, **__: Any) -> None:
        seen.append(asked)
        raise StageError("seen")

    monkeypatch.setattr(train, "load_chain", stop)
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
    chain = load_chain(request(TARGET, TWO_CHANNELS, NEAR, compared=compared), 1, print)
    assert chain.match(chain.stages[0], chain.stages[1]).channels == (0,), "by name: T1"
    chain = load_chain(request(TARGET, TWO_CHANNELS, compared=compared), 1, print)
    assert chain.match(*chain.stages).channels == (1,), "T2 was compared with the target's"
    task = chain.tasks[TARGET]
    assert correspond(task, task, keep_heads=False).channels is None


def test_weights_that_were_matched_otherwise_are_made_anew(world: World) -> None:
    """Unless another fold has trained from them: all folds start from the same."""
    compared = {TWO_CHANNELS: (("T2", "MRI"),)}
    chain = load_chain(request(TARGET, TWO_CHANNELS, compared=compared), 1, print)
    previous, stage = chain.stages

    def is_stale(*, siblings: bool = False, **matched: Any) -> bool:
        init = Init("a", "b", "c", "d", **matched)
        block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, init)
        state = StageState(block, False, False, False, True, (), siblings=siblings)
        return chain.weights_are_stale(previous, stage, state)

    assert not is_stale(channels=(1,))
    assert is_stale(channels=(0,)) and is_stale(channels=None)
    assert is_stale(channels=(1,), heads=(0, 1, None))
    assert not is_stale(channels=(0,), siblings=True)

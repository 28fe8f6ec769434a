"""Chains begin with models that anyone trained: found in any form, never trusted, never mixed with other chains."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import pytest
import torch

from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.chain import load_chain
from nnunet_seqtransfer.training.prepare import stage_plans
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, read_block, with_block
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages
from nnunet_seqtransfer.training.state import StageState, decide, inspect
from nnunet_seqtransfer.transfer.checkpoints import HEADS, body_digest, load_checkpoint
from nnunet_seqtransfer.transfer.correspondence import match_names
from nnunet_seqtransfer.transfer.first_batch import activations, random_batch
from nnunet_seqtransfer.transfer.pretrained import Landmark, channel_names, find_landmark, known_network
from support.bad_inputs import Command, attempt, error_line
from support.models import MODEL, Malicious, checkpoint, save, theirs
from support.u_nets import architecture
from support.world import TARGET, World

TRAIN = ("train", "901", "3d_fullres", "0", "-s", "none", "-device", "cpu", "-np", "1")


def export(path: Path, files: dict[str, Path | bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of nnU-Net's with the folds 1, 3 and all."""
    root = tmp_path_factory.mktemp("results")
    for seed, fold in enumerate(("1", "3", "all")):
        save(root / MODEL / f"fold_{fold}" / FINAL, checkpoint(architecture(3), seed=seed))
    return root / MODEL


def test_every_form_of_a_model_is_found(model: Path, tmp_path: Path) -> None:
    """A checkpoint, a fold's folder, a model's folder and an export give the same weights; fold all goes first."""
    final = model / "fold_all" / FINAL
    digest = sha256(final)
    members = {f"{MODEL}/{path.relative_to(model)}": path for path in model.rglob("*.pth")}
    archive = export(tmp_path / "export.zip", {**members, f"{MODEL}/plans.json": b"{}"})
    for given in (final, final.parent, model, archive):
        landmark = find_landmark(given, "3d_fullres")
        assert landmark.sha256 == digest
        loaded = landmark.load()
        assert body_digest(loaded["network_weights"]) == body_digest(load_checkpoint(final)["network_weights"])
    assert str(landmark) == f"{archive}!{MODEL}/fold_all/{FINAL}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.zip"], "nothing is extracted"
    del members[f"{MODEL}/fold_all/{FINAL}"]
    assert find_landmark(export(archive, members), "3d_fullres").sha256 == sha256(model / "fold_1" / FINAL)


def test_an_archive_of_several_models(model: Path, tmp_path: Path) -> None:
    """The one of the wanted configuration is taken; if it is the only one, any; where that leaves several, none."""
    final, flat = model / "fold_1" / FINAL, model / "fold_3" / FINAL
    names = [f"{MODEL}/fold_0/{FINAL}", f"{MODEL.replace('3d_fullres', '2d')}/fold_0/{FINAL}"]
    archive = export(tmp_path / "export.zip", dict(zip(names, (final, flat), strict=True)))
    assert find_landmark(archive, "3d_fullres").sha256 == sha256(final)
    assert find_landmark(archive, "2d").sha256 == sha256(flat)
    with pytest.raises(CheckpointError, match=r"holds 2 models, .*__2d and others"):
        find_landmark(archive, "3d_lowres")
    assert find_landmark(export(archive, {names[1]: flat}), "3d_fullres").sha256 == sha256(flat)


def test_what_is_no_model_is_named(model: Path, tmp_path: Path) -> None:
    """Nothing there, an empty folder, text, a cut-off file, an archive without a checkpoint: one line with the path."""
    whole = (model / "fold_1" / FINAL).read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    export(tmp_path / "other.zip", {"readme.txt": b"hello", FINAL: b"not in a fold"})
    damaged = export(tmp_path / "damaged.zip", {f"{MODEL}/fold_0/{FINAL}": whole}).read_bytes()
    place = len(damaged) // 2
    (tmp_path / "damaged.zip").write_bytes(damaged[:place] + bytes(64) + damaged[place + 64 :])
    for name, words in {
        "none.pth": "no model at",
        "empty": f"no {FINAL} in",
        "text.pth": "no checkpoint and no ZIP file",
        "cut.pth": "truncated",
        "other.zip": f"no {FINAL} of a fold",
        "damaged.zip": "damaged or encrypted",
    }.items():
        with pytest.raises(CheckpointError, match=words) as raised:
            find_landmark(tmp_path / name, "3d_fullres")
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "C:/x", "C:\\x"])
def test_archives_that_lead_out_of_themselves_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    """An entry that would be written elsewhere is refused before anything is read or written, beside a good model."""
    good = {f"{MODEL}/fold_0/{FINAL}": model / "fold_1" / FINAL}
    (tmp_path / "in").mkdir()
    archive = export(tmp_path / "in" / "export.zip", good)
    assert find_landmark(archive, "3d_fullres")
    export(archive, {**good, name: b"evil"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="not safe"):
        find_landmark(archive, "3d_fullres")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A checkpoint that unpacks to a thousand times its size is not unpacked."""
    archive = export(tmp_path / "export.zip", {f"{MODEL}/fold_0/{FINAL}": bytes(10_000_000)})
    assert archive.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="unpacks to 10000000 bytes"):
        find_landmark(archive, "3d_fullres")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_model_is_not_run(tmp_path: Path, zipped: bool) -> None:
    """A model that would run code is refused without running it, as a file and within an export."""
    mark = tmp_path / "mark"
    path = save(tmp_path / "c.pth", {**checkpoint(architecture(3)), "logging": Malicious(mark)})
    given = export(tmp_path / "export.zip", {f"{MODEL}/fold_0/{FINAL}": path}) if zipped else path
    with pytest.raises(CheckpointError, match="not safe to load") as raised:
        find_landmark(given, "3d_fullres").load()
    assert not mark.exists() and "-init" in str(raised.value)


def test_plans_of_a_model_call_nothing_but_u_nets() -> None:
    """Foreign plans name classes, and building a network calls them: none but nnU-Net's U-Nets and torch's layers."""
    good = checkpoint(architecture(3))
    network, kwargs = known_network(good) or pytest.fail("a model of nnU-Net's is known")
    assert body_digest(network.state_dict()) == body_digest(good["network_weights"])
    assert kwargs == architecture(3)
    for change in (
        {"network_class_name": "os.system"},
        {"network_class_name": "dynamic_network_architectures.architectures.primus.Primus"},
        {"arch_kwargs": {**architecture(3), "conv_op": "os.system"}},
        {"arch_kwargs": {**architecture(3), "nonlin": "torch.nn.functional.os.system"}},
        {"arch_kwargs": {**architecture(3), "nonlin": "torch.hub.load"}},
        {"arch_kwargs": architecture(4)},
        {"arch_kwargs": {}},
    ):
        bad = checkpoint(architecture(3))
        bad["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"].update(change)
        assert known_network(bad) is None
    assert known_network({"network_weights": good["network_weights"]}) is None
    assert channel_names(good) == ("MRI",)
    two = checkpoint(architecture(3))
    two["init_args"]["dataset_json"]["channel_names"]["1"] = "not read"
    assert channel_names(two) == ()
    assert channel_names({"init_args": {"dataset_json": {"channel_names": ["MRI"]}}}) == () == channel_names({})


def test_a_model_that_changes_meanwhile_is_noticed(model: Path, tmp_path: Path) -> None:
    """The checkpoint that is loaded is the one that gave the stages their names, or none."""
    path = tmp_path / "c.pth"
    path.write_bytes((model / "fold_1" / FINAL).read_bytes())
    landmark = find_landmark(path, "3d_fullres")
    path.write_bytes((model / "fold_3" / FINAL).read_bytes())
    with pytest.raises(CheckpointError, match="has changed"):
        landmark.load()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_model_that_is_gone_is_one_line(model: Path, tmp_path: Path, zipped: bool) -> None:
    """Its stage may begin days after the chain was asked for."""
    saved = model / "fold_1" / FINAL
    path = tmp_path / "c"
    if zipped:
        export(path, {f"{MODEL}/fold_1/{FINAL}": saved})
    else:
        path.write_bytes(saved.read_bytes())
    landmark = find_landmark(path, "3d_fullres")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"the model is not there any more: .*; restore it") as caught:
        landmark.load()
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_channels_are_matched_by_name() -> None:
    """Equal names go together whatever their case; where names tell nothing there is no match."""
    assert match_names(("T1", "FLAIR"), ("flair", "t1", "T2")) == (1, 0, None)
    assert match_names(("T1", "FLAIR"), ("T1",)) == (0,)
    for old, new in (
        (("T1",), ("T1",)),
        (("T1",), ("CT",)),
        ((), ("CT",)),
        (("a", "a", "b"), ("b",)),
        (("R",), ("R", "R")),
    ):
        assert match_names(old, new) is None


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


def request(landmark: Landmark | None, *sources: str, tag: str | None = None, least: float = 0.5) -> ChainRequest:
    recipe = Recipe(epochs=40)
    return ChainRequest(
        TARGET,
        sources,
        "nnUNetPlans",
        "3d_fullres",
        ("0",),
        recipe,
        recipe,
        5,
        tag,
        landmark=landmark,
        min_coverage=least,
    )


@pytest.mark.usefixtures("results")
def test_stages_behind_a_model_have_names_of_their_own() -> None:
    """All names of the chain tell the model by its digest; the first stage warms up like any behind another."""
    one, other = (Landmark(Path("x"), None, digit * 64) for digit in "ab")
    assert chain_stages(request(one))[0].plans_name == "nnUNetPlans_initaaaaaaaa"
    stages = chain_stages(request(one, "Dataset902_Near", tag="long"))
    names = ["nnUNetPlans_for901_initaaaaaaaa_long", "nnUNetPlans_via902_initaaaaaaaa_long"]
    assert [stage.plans_name for stage in stages] == names
    assert [stage.recipe.warmup_epochs for stage in stages] == [4, 4]
    assert all(stage.landmark == "a" * 64 for stage in stages)
    groups = [chain_stages(request(landmark, "Dataset902_Near")) for landmark in (None, one, other)]
    assert len({stage.base for group in groups for stage in group}) == 6
    assert [stage.recipe.warmup_epochs for stage in groups[0]] == [0, 4]


def test_the_block_remembers_the_model() -> None:
    """What a stage started from is read back as written; without a model the block is as it always was."""
    init = Init("x", "a" * 64, "y", "b" * 64, 0.75, (1, None))
    block = StageBlock(TARGET, (TARGET,), "target", Recipe(), init, landmark="a" * 64)
    plans = json.loads(json.dumps(with_block({"plans_name": "p"}, "3d_fullres", block)))
    assert read_block(plans, "3d_fullres") == block and block.needs_weights
    assert with_block(plans, "3d_fullres", block) == plans, "nothing to write again"
    plain = StageBlock(TARGET, (TARGET,), "target", Recipe(), None)
    assert "landmark" not in with_block({}, "3d_fullres", plain)["seq_transfer"] and not plain.needs_weights


@pytest.mark.usefixtures("results")
def test_a_training_behind_another_model_is_not_reused() -> None:
    """Should two models share the digits in a name, the whole digest tells them apart."""
    (stage,) = chain_stages(request(Landmark(Path("x"), None, "a" * 64)))
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None, landmark="a" * 8 + "b" * 56)
    state = StageState(block, True, False, True, False, ())
    with pytest.raises(StageError, match="began with another model"):
        decide([stage], {stage: state})


def test_a_dry_run_shows_the_coverage(world: World, command: Command, tmp_path: Path) -> None:
    """--dry_run names the model, its coverage, what is missing and the first batch, and writes nothing."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    before = world.snapshot()
    folds = (*TRAIN[:4], "1", *TRAIN[4:])
    outcome = command(*folds, "-init", str(path), "-min_coverage", "0.1", "--dry_run")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("first batch") == 1 < outcome.out.count("fold_"), "all folds start from the same"
    assert f"weights of {path}" in outcome.out and "coverage 0." in outcome.out
    assert "no counterpart" in outcome.out and "first batch" in outcome.out
    assert f"nnUNetPlans_init{sha256(path)[:8]}" in outcome.out
    assert world.snapshot() == before

    chain = load_chain(request(find_landmark(path, "3d_fullres"), least=0.1), 1, print)
    (stage,) = chain.stages
    first, second = (chain.beginning(stage, inspect(stage)) for _ in range(2))
    assert first and second and body_digest(first.weights) == body_digest(second.weights), "made again, it is the same"


def test_models_that_do_not_fit_are_refused(world: World, command: Command, tmp_path: Path) -> None:
    """Too little coverage, no file, code in it, an unsafe archive: one line, and nothing is written."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    evil = save(tmp_path / "evil.pth", {**checkpoint(architecture(3)), "x": Malicious(tmp_path / "mark")})
    unsafe = export(tmp_path / "unsafe.zip", {"../out": b"", f"{MODEL}/fold_0/{FINAL}": path})
    before = world.snapshot()
    for given, words in (
        ((path, "-min_coverage", "0.99"), "at least 0.99 are wanted"),
        ((tmp_path / "none.pth",), "there is no model at"),
        ((evil,), "not safe to load"),
        ((unsafe,), "the archive is not safe"),
        ((path, "-min_coverage", "1.5"), "'1.5' is not a number from 0 to 1"),
        ((path, "-tag", "init0123abcd"), "reads like a part of the path"),
    ):
        line = error_line(attempt(command, (*TRAIN, "-init", *map(str, given))))
        assert words in line
    assert world.snapshot() == before and not (tmp_path / "mark").exists()


def test_plans_keep_nnunets_pretrain_info(world: World) -> None:
    """nnU-Net's own block about pre-training goes through to the plans of every stage untouched."""
    chain = load_chain(request(None, "Dataset902_Near"), 1, print)
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    plans["pretrain_info"] = {"checkpoint_path": "x", "citations": ["y"]}
    for stage in chain.stages:
        made = stage_plans(stage, plans, chain.tasks[TARGET], chain.tasks[stage.dataset])
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
    assert block is not None and block.init is not None and block.landmark == sha256(path)
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
    assert all(level > 0 for level in activations(entering.network, random_batch(own, 1)).levels)

    snapshot = world.snapshot()
    again = command(*TRAIN, *small)
    assert again.status == 0 and "finished" in again.err
    assert world.snapshot() == snapshot

    (world.results / block.init.weights).unlink()
    with pytest.raises(CheckpointError, match="weights handed to this stage are missing"):
        trainer().on_train_start()

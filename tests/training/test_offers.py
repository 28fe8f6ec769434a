"""A plan offers existing models that a chain could begin with: those that fit, of other cases, the nearest first."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_seqtransfer.overlap.shared_cases import share_origin
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_task
from nnunet_seqtransfer.training import offers
from nnunet_seqtransfer.training.offers import MOST, find_offers
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.transfer.adapt import account, adapt
from support.models import Malicious, checkpoint, save
from support.u_nets import architecture, build
from support.world import FAR, NEAR, TARGET, TWO_CHANNELS, Outcome, World

DISTANCES = {NEAR: 0.2, FAR: 0.6, TWO_CHANNELS: 0.4}
PLAIN = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def own_architecture(world: World) -> dict[str, Any]:
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    return plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]


def model(world: World, dataset: str, name: str = PLAIN, fold: str = "0", **changes: Any) -> Path:
    """A results folder of nnU-Net's with the target's network, entries of which are changed."""
    folder = world.results / dataset / name
    save(folder / f"fold_{fold}" / FINAL, checkpoint({**own_architecture(world), **changes}))
    (folder / "plans.json").write_text(json.dumps({"plans_name": "nnUNetPlans"}))
    return folder


def offered(world: World) -> list[Path]:
    found = find_offers(TARGET, "nnUNetPlans", "3d_fullres", DISTANCES)
    assert found.broken == ()
    return [offer.folder for offer in found.best]


def test_models_are_offered_nearest_first(world: World) -> None:
    """By the distance of their datasets, unknown last, then by coverage; any trainer's models."""
    far = model(world, FAR)
    near = model(world, NEAR, "nnUNetTrainer_50epochs__nnUNetResEncUNetMPlans__3d_fullres", fold="all")
    width = [4 * 2**level + 2 for level in range(own_architecture(world)["n_stages"])]
    wider = model(world, NEAR, features_per_stage=width)
    unknown = model(world, "Dataset999_Elsewhere")
    found = find_offers(TARGET, "nnUNetPlans", "3d_fullres", DISTANCES).best
    assert [offer.folder for offer in found] == [near, wider, far, unknown]
    assert [offer.distance for offer in found] == [0.2, 0.2, 0.6, math.inf]
    assert found[0].coverage == 1 > found[1].coverage >= 0.5
    assert found[0].parts == ("nnUNetTrainer_50epochs", "nnUNetResEncUNetMPlans", "3d_fullres")


def test_at_most_the_best_are_offered(world: World) -> None:
    """Of many models the nearest five; datasets behind these are not even looked at."""
    for dataset, count in ((NEAR, 3), (TWO_CHANNELS, 3)):
        for number in range(count):
            model(world, dataset, f"nnUNetTrainer__plans{number}__3d_fullres")
    last = model(world, FAR)
    (last / "fold_0" / FINAL).write_bytes(b"damaged")
    folders = offered(world)
    assert len(folders) == MOST and [folder.parent.name for folder in folders] == [NEAR] * 3 + [TWO_CHANNELS] * 2


def test_what_does_not_belong_is_left_out(world: World) -> None:
    """The target's own models, stages of our chains, too little coverage, unfinished trainings, other folders."""
    model(world, TARGET)
    shallow = {key: value[:2] if isinstance(value, list) else value for key, value in own_architecture(world).items()}
    shallow["n_conv_per_stage_decoder"] = shallow["n_conv_per_stage_decoder"][:1]
    model(world, NEAR, **{**shallow, "n_stages": 2})
    stage = model(world, FAR, "nnUNetTrainerSeqTransfer__nnUNetPlans_for999__3d_fullres")
    (stage / "plans.json").write_text(json.dumps({"seq_transfer": {}}))
    moved = model(world, FAR, "nnUNetTrainerSeqTransfer__nnUNetPlans_for998__3d_fullres")
    (moved / "plans.json").unlink()
    content = checkpoint(own_architecture(world))
    content["init_args"]["plans"]["seq_transfer"] = {}
    save(moved / "fold_0" / FINAL, content)
    begun = model(world, TWO_CHANNELS)
    (begun / "fold_0" / FINAL).rename(begun / "fold_0" / "checkpoint_best.pth")
    (world.results / NEAR / "notes").mkdir()
    (world.results / "file").write_text("")
    assert offered(world) == []


def test_models_of_the_targets_cases_are_not_offered(world: World) -> None:
    """Datasets derived from the target, or the target's origin, hold its cases; one of other cases of it does not."""

    def derive(origin: str, number: int, *cases: str) -> str:
        request = DeriveRequest(origin=origin, number=number, name="Part", cases=cases)
        return derive_task(request, print).dataset

    part = derive(TARGET, 950, "case0", "case1", "case2")
    smaller, other = derive(part, 951, "case0"), derive(TARGET, 952, "case3")
    assert share_origin(part, TARGET) and share_origin(TARGET, part) and share_origin(TARGET, TARGET)
    assert share_origin(smaller, part) and not share_origin(smaller, other) and not share_origin(other, part)
    assert not share_origin(NEAR, TARGET) and not share_origin("Dataset999_Elsewhere", TARGET)
    (world.raw / other / "derived.json").write_text("{")
    assert not share_origin(other, TARGET), "what cannot be read says nothing"
    model(world, part)
    assert offered(world) == []


def test_broken_models_do_not_stop_the_plan(world: World, tmp_path: Path) -> None:
    """A truncated checkpoint, code in one, odd weights: at most a line with the reason, and the others are offered."""
    good = model(world, FAR)
    cut = model(world, NEAR, "nnUNetTrainer__cut__3d_fullres") / "fold_0" / FINAL
    cut.write_bytes(cut.read_bytes()[:1000])
    evil = model(world, NEAR, "nnUNetTrainer__evil__3d_fullres") / "fold_0" / FINAL
    save(evil, {**checkpoint(architecture(3)), "x": Malicious(tmp_path / "mark")})
    odd = model(world, NEAR, "nnUNetTrainer__odd__3d_fullres") / "fold_0" / FINAL
    save(odd, {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(2, 0, 3, 3, 3)}})
    found = find_offers(TARGET, "nnUNetPlans", "3d_fullres", DISTANCES)
    assert [offer.folder for offer in found.best] == [good]
    assert len(found.broken) == 2 and not (tmp_path / "mark").exists()
    for line, words in zip(found.broken, ("truncated", "not safe to load"), strict=True):
        assert words in line and "\n" not in line


def test_an_error_without_words_is_named_by_its_kind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is wrong with a file that nobody asked for stops the plan."""

    def fail(*_: Any) -> float:
        raise NotImplementedError

    folder = model(world, NEAR)
    monkeypatch.setattr(offers, "_coverage", fail)
    assert find_offers(TARGET, "nnUNetPlans", "3d_fullres", DISTANCES).broken == (
        f"{folder} is not offered: NotImplementedError",
    )


def test_a_target_without_plans_gets_no_offers(world: World) -> None:
    """An affinity from elsewhere can be planned on where the target itself is not."""
    model(world, NEAR)
    (world.preprocessed / TARGET / "nnUNetPlans.json").unlink()
    assert offered(world) == []


@pytest.mark.parametrize("other", [{}, {"stages": 5}, {"width": 6}, {"dimensions": 2}, {"residual": True}])
def test_shapes_alone_give_the_account(other: dict[str, Any]) -> None:
    """The coverage without any values is that of the hand-off."""
    old, new = build(architecture(**other), 2).state_dict(), build(architecture()).state_dict()
    shapes = [{name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()} for state in (old, new)]
    assert account(shapes[0], shapes[1]) == adapt(old, new)[1]


def test_the_plan_prints_the_command(world: World, command: Any) -> None:
    """Each model comes with the command that begins a chain with it, which works; the record knows nothing of it."""
    assert command("affinity", "-t", "901", "-s", "902", "-cases", "2", "-np", "1").status == 0
    before = command("plan", "-t", "901", "-np", "1")
    assert before.status == 0 and "-init" not in before.out
    record = world.preprocessed / TARGET / "seqtransfer" / "sequence_nnUNetPlans_3d_fullres.json"
    written = record.read_text()
    folder = model(world, NEAR)
    broken = model(world, "Dataset999_Elsewhere") / "fold_0" / FINAL
    broken.write_bytes(b"damaged")
    after: Outcome = command("plan", "-t", "901", "-np", "1")
    assert after.status == 0 and record.read_text() == written
    assert f"{broken.parents[1]} is not offered: " in after.out
    (line,) = [line for line in after.out.splitlines() if line.startswith("nnUNetv2_seq_train")]
    words = shlex.split(line)
    assert words == ["nnUNetv2_seq_train", "901", "3d_fullres", "0", "-s", "none", "-init", str(folder)]
    assert "is not known" in after.out
    dry = command("train", *words[1:], "-device", "cpu", "-np", "1", "--dry_run")
    assert dry.status == 0 and "coverage 1.000" in dry.out

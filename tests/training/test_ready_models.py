"""Models that exist are first sources of a planned path: found, adapted, ranked, and not trained again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import CheckpointError, Problems, StageError
from nnunet_seqtransfer.planning.record import ReadyModel, plan_file, read_plan
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.ready_models import find_ready_models
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.run_record import find_runs, read_run
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.bad_inputs import Command, error_line
from support.models import checkpoint, save
from support.world import (
    FAR,
    NEAR,
    PYTHON,
    QUICK_FINGERPRINTS,
    SCRIPTS,
    TARGET,
    TWO_CHANNELS,
    World,
    make_dataset,
    python_environment,
    run,
    shrink_network,
)

KEY = (TARGET, "nnUNetPlans", "3d_fullres")
ELSEWHERE = "Dataset905_Elsewhere"
STOCK = "nnUNetTrainer__nnUNetPlans__3d_fullres"
TRAIN = """
import json, sys, torch
from pathlib import Path
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
folder = Path(nnUNet_preprocessed) / sys.argv[1]
plans, labels = (json.loads((folder / file).read_text()) for file in ("nnUNetPlans.json", "dataset.json"))
plans["continue_training"] = False
trainer = nnUNetTrainer(plans, "3d_fullres", "all", labels, torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
trainer.run_training()
if sys.argv[2:]:
    trainer.perform_actual_validation()
"""
"""Trains nnU-Net's own trainer for seconds."""


def content_of(world: World, dataset: str | None, **plans: Any) -> dict[str, Any]:
    """A checkpoint with the target's network, as stock nnU-Net would leave it for a dataset."""
    own = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    content = checkpoint(own["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"])
    arguments = content["init_args"]
    arguments["plans"] |= {"dataset_name": dataset, **plans}
    arguments["dataset_json"] = {
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, "front": 1}, "numTraining": 30,
    }  # fmt: skip
    return content


def add_model(root: Path, world: World, dataset: str, folder: str = STOCK, **plans: Any) -> Path:
    """A finished model in a results folder."""
    return save(root / dataset / folder / "fold_0" / "checkpoint_final.pth", content_of(world, dataset, **plans))


def found(*files: Path, **options: bool) -> tuple[dict[str, ReadyModel], list[str]]:
    """The ready models for the target, and the lines about those left out."""
    lines: list[str] = []
    return find_ready_models(*KEY, files, Context(lines.append), **options), lines


def test_finished_models_are_found_whatever_trained_them(world: World, tmp_path: Path) -> None:
    """Any trainer and plans in nnUNet_results, folders elsewhere and single files; given ones go first."""
    far = add_model(world.results, world, FAR, "nnUNetTrainerNoMirroring__nnUNetResEncUNetMPlans__3d_fullres")
    near = add_model(world.results, world, NEAR)
    add_model(world.results, world, TARGET)
    single = save(tmp_path / "any.pth", content_of(world, ELSEWHERE))
    copied = add_model(tmp_path / "copies", world, "Dataset777_Total")
    again = save(tmp_path / "near.pth", content_of(world, NEAR, note="another"))
    assert sha256(again) != sha256(near)
    models, lines = found(single, tmp_path / "copies", again)
    assert not lines, "the target's own model is no source, and nothing else is left out"
    files = {name: ready.model.file for name, ready in models.items()}
    assert files == {ELSEWHERE: single, "Dataset777_Total": copied, NEAR: again, FAR: far}
    ready = models[FAR]
    assert ready.model == PretrainedModel(far, None, sha256(far), FAR)
    assert (ready.coverage, ready.channels, ready.labels, ready.cases) == (1.0, ("MRI",), ("front",), 30)


def test_models_that_must_not_be_used_are_named_in_a_line(world: World, tmp_path: Path) -> None:
    """Relatives of the target, chains that passed it, unknown beginnings and small coverage are left out."""
    (world.raw / NEAR / "derived.json").unlink(missing_ok=True)
    shutil.copytree(world.raw / TARGET, world.raw / "Dataset950_Twin")
    passed = StageBlock(FAR, (TARGET, FAR), "target", Recipe(), None)
    unknown = StageBlock(NEAR, (NEAR,), "target", Recipe(), None, pretrained="a" * 64)
    for dataset, block in ((FAR, passed), (NEAR, unknown)):
        add_model(world.results, world, dataset, **with_block({}, "3d_fullres", block))
    small = content_of(world, TWO_CHANNELS)
    small["network_weights"] = dict(list(small["network_weights"].items())[:12])
    save(world.results / TWO_CHANNELS / STOCK / "fold_0" / "checkpoint_final.pth", small)
    models, lines = found()
    assert not models and len(lines) == 3 and all(line.count("\n") == 0 for line in lines)
    assert "trained on Dataset901_Target" in next(line for line in lines if FAR in line)
    assert "unknown data" in next(line for line in lines if NEAR in line)
    assert "coverage" in next(line for line in lines if TWO_CHANNELS in line)


def test_the_next_best_model_of_a_dataset_is_taken(world: World) -> None:
    """If the preferred model of a dataset cannot be used, another one of it is."""
    preferred = add_model(world.results, world, NEAR)
    preferred.write_bytes(preferred.read_bytes()[:1000])
    other = add_model(world.results, world, NEAR, "nnUNetTrainerDA5__nnUNetPlans__3d_fullres")
    models, lines = found()
    assert models[NEAR].model.file == other and not lines


@pytest.mark.parametrize("kind", ["missing", "text", "own", "nameless"])
def test_wrong_files_are_refused_in_one_line(world: World, command: Command, tmp_path: Path, kind: str) -> None:
    """A given file that is no model, or cannot be a source, ends the command."""
    path = tmp_path / "model.pth"
    words = {"missing": "no model", "text": "no checkpoint", "own": f"trained on {TARGET}", "nameless": "which dataset"}
    if kind == "text":
        path.write_text("weights")
    elif kind != "missing":
        save(path, content_of(world, TARGET if kind == "own" else None))
    with pytest.raises(CheckpointError, match=words[kind]) as raised:
        found(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(Problems):
        found(path, tmp_path / "neither.zip")


def test_a_model_of_shared_patients_is_refused_before_training(world: World) -> None:
    """Cases shared with the dataset of a planned model are searched like those of a source, and cannot be excluded."""
    twin = "Dataset950_Twin"
    shutil.copytree(world.raw / TARGET, world.raw / twin)
    file = add_model(world.results, world, twin)
    model = PretrainedModel(file, None, sha256(file), twin)
    for overlap, words in (("refuse", "share image"), ("exclude", "cannot exclude")):
        request = ChainRequest(*KEY[:1], (), *KEY[1:], ("0",), Recipe(), Recipe(), 0, overlap=overlap, pretrained=model)  # type: ignore[arg-type]
        with pytest.raises(StageError, match=words):
            look_ahead(request)
    assert found()[1] == [f"left out: the model was trained on {twin}, which holds cases of {TARGET}: {file}"]


@pytest.mark.chain
def test_a_plan_starts_from_a_model_and_retrains_nothing(world: World, command: Command, tmp_path: Path) -> None:
    """Three stock models and an export are ranked; the chain starts from one, and stock nnU-Net predicts with it."""
    make_dataset(world.raw, ELSEWHERE, ("MRI",), ("front", "back"), 60)
    environment = {**python_environment(world), "nnUNet_compile": "f"}
    run([PYTHON, "-c", QUICK_FINGERPRINTS, ELSEWHERE], environment)
    planning = ["-d", "902", "903", "905", "-c", "3d_fullres", "-np", "1"]
    run([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), *planning], {**environment, "nnUNet_n_proc_DA": "1"})
    for name in (NEAR, FAR, ELSEWHERE):
        shrink_network(world.preprocessed / name / "nnUNetPlans.json")
    for name in (NEAR, FAR, TWO_CHANNELS, ELSEWHERE):
        run([PYTHON, "-c", TRAIN, name, *["validate"] * (name == ELSEWHERE)], environment)  # exports need that
    export = tmp_path / "export.zip"
    exporting = ["-d", "905", "-o", str(export), "-c", "3d_fullres", "-f", "all"]
    run([str(SCRIPTS / "nnUNetv2_export_model_to_zip"), *exporting], environment)
    for folder in (world.raw, world.preprocessed, world.results):
        shutil.rmtree(folder / ELSEWHERE)
    before = {path: path.stat().st_mtime_ns for path in world.results.rglob("*.pth")}

    assert command("affinity", "-t", "901", "-n_cases", "2", "-np", "1").status == 0
    planned = command("plan", "-t", "901", "-np", "1", "-scratch_dice", "0.1", "-models", str(export))
    assert planned.status == 0, planned.err
    plan = read_plan(plan_file(*KEY))
    assert set(plan.models) == {NEAR, FAR, TWO_CHANNELS, ELSEWHERE}
    free = [entry for entry in plan.candidates if len(entry.path) == 2]
    assert len(free) == 4 and {entry.gpu_hours for entry in free} == {plan.candidates[-1].gpu_hours}
    assert plan.model is not None and plan.to_train == () and "* starts from a ready model" in planned.out
    assert f"{plan.model.dataset}*" in planned.out

    small = ("-epochs", "2", "-iterations", "2", "-np", "1", "-device", "cpu")
    trained = command("train", "901", "3d_fullres", "0", *small)
    assert trained.status == 0, trained.err
    recorded = read_run(next(find_runs()))
    assert recorded.request.pretrained == plan.model.model and recorded.request.sources == ()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    new = {path.parent for path in world.results.rglob("checkpoint_final.pth")} - {path.parent for path in before}
    name = f"nnUNetPlans_init{plan.model.model.sha256[:8]}"
    assert new == {world.results / TARGET / f"nnUNetTrainerSeqTransfer__{name}__3d_fullres" / "fold_0"}

    images = tmp_path / "in"
    images.mkdir()
    shutil.copy(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz", images)
    where = ["-d", "901", "-i", str(images), "-o", str(tmp_path / "out"), "-tr", "nnUNetTrainerSeqTransfer", "-p", name]
    settings = ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *where, *settings], environment)
    assert (tmp_path / "out" / "case0.nii.gz").is_file()

    save(plan.model.model.file, content_of(world, "Dataset999_Other"))
    refused = command("train", "901", "3d_fullres", "1", *small)
    assert "the planned model has changed" in error_line(refused)

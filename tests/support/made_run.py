"""A run as its files: record, plan, affinity, logs, validation and comparison, written without any training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry, affinity_path, write_affinity
from nnunet_seqtransfer.evaluation.comparison import (
    Arm,
    Budget,
    Comparison,
    Difference,
    ModelScores,
    Ranking,
    comparison_path,
    write_comparison,
)
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.nnunet.validation import CaseDice
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan, plan_file, write_plan
from nnunet_seqtransfer.storage import sha256, write_json
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import Stage
from support.runs import MadeRun, checkpoint, plans, record
from support.runs import training_log as write_log
from support.world import make_dataset, make_flat_dataset

TARGET, NEAR, FAR, SMALL = "Dataset901_Target", "Dataset902_Near", "Dataset903_Far", "Dataset905_Small"
HOSTILE = "<script>document.title='taken'</script>"
"""A name that must come out as text."""
CONFIGURATION = "3d_fullres"


def write_world(raw: Path, *, flat: bool = False, channel: str = "MRI", cases: int = 6) -> None:
    """Raw datasets and the target's plans; ``flat``: the target is RGB images."""
    if flat:
        make_flat_dataset(raw, TARGET, ("R", "G", "B"), 60, cases)
    else:
        make_dataset(raw, TARGET, (channel,), ("front", "back"), 60, cases)
    make_dataset(raw, NEAR, (channel,), ("organ",), 60, 3)
    shutil.copytree(raw / NEAR, raw / FAR)
    shutil.copytree(raw / NEAR, raw / SMALL)
    reader = "NaturalImage2DIO" if flat else "SimpleITKIO"
    unread = ("data_identifier", "preprocessor_name", "normalization_schemes", "use_mask_for_norm")
    settings: dict[str, Any] = dict.fromkeys((*unread, "resampling_fn_data", "resampling_fn_seg"), "x")
    settings |= {"batch_size": 2, "patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0]}
    plans = {
        "plans_name": DEFAULT_PLANS,
        "dataset_name": TARGET,
        "configurations": {CONFIGURATION: settings},
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {},
    }
    write_json(plans_path(TARGET, DEFAULT_PLANS), plans)


def write_made_run(
    sources: Sequence[str] = (NEAR,),
    folds: Sequence[str] = ("0",),
    *,
    epochs: int = 12,
    begun: int = 2,
    tag: str | None = None,
) -> Path:
    """A run whose first ``begun`` stages are finished, validation included, and one more half trained."""
    recipe = Recipe(epochs, 10, 0.01, 0, 7)
    made = record(tuple(sources), tuple(folds), target=TARGET, recipe=recipe, tag=tag)
    for index, stage in enumerate(made.stages[: begun + 1]):
        is_final = index < begun
        _write_stage(made, stage, epochs if is_final else epochs // 2, final=is_final)
    return made.folder


def _write_stage(made: MadeRun, stage: Stage, epochs: int, *, final: bool) -> None:
    previous = made.previous(stage)
    count = 1 if stage.role == "source" else 2
    lines = training_log(epochs, count).splitlines()
    write_log(stage, lines, "training_log_2026_1_2_03_04_05.txt")
    plans(stage, previous)
    if previous is not None:
        checkpoint(stage.weights)
    if final:
        checkpoint(stage.output / "checkpoint_final.pth")
        if stage.role == "target":
            write_validation(stage)


def training_log(epochs: int, labels: int, first: int = 0) -> str:
    """What nnU-Net writes about epochs."""
    lines = ["Some heading"]
    for epoch in range(first, first + epochs):
        reached = 1 - 0.8 * 0.8**epoch
        dice = ", ".join(f"np.float32({reached - 0.1 * label:.4f})" for label in range(labels))
        for text in (
            "",
            f"Epoch {epoch} ",
            f"Current learning rate: {0.01 * (1 - epoch / 100):.5f} ",
            f"train_loss {-reached:.4f} ",
            f"val_loss {0.1 - reached:.4f} ",
            f"Pseudo dice [{dice}] ",
            "Epoch time: 12.5 s ",
        ):
            lines.append(f"2026-01-02 03:04:05.678901: {text}")
    return "\n".join(lines) + "\n"


def write_validation(stage: Stage) -> None:
    """Predictions that are the reference, moved by 0, 1, 2 voxels, and nnU-Net's summary of them."""
    folder = stage.output / "validation"
    folder.mkdir()
    raw = preprocessed_folder().parent / "raw" / TARGET / "labelsTr"
    entries = []
    for place, file in enumerate(sorted(raw.iterdir())[:3]):
        if file.suffix == ".png":
            reference = np.asarray(Image.open(file))
            moved = np.roll(reference, 2 * place, axis=0)
            Image.fromarray(moved).save(folder / file.name)
        else:
            image = sitk.ReadImage(str(file))
            reference = sitk.GetArrayFromImage(image)
            moved = np.roll(reference, place, axis=1)
            result = sitk.GetImageFromArray(moved)
            result.CopyInformation(image)
            sitk.WriteImage(result, str(folder / file.name))
        metrics = {}
        for value in sorted(set(np.unique(reference).tolist()) - {0}):
            one, two = reference == value, moved == value
            metrics[str(value)] = {"Dice": float(2 * (one & two).sum() / (one.sum() + two.sum()))}
        entries.append(
            {"metrics": metrics, "prediction_file": f"/elsewhere/{file.name}", "reference_file": f"/gt/{file.name}"}
        )
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": entries, "foreground_mean": {}, "mean": {}}))


def write_made_affinity(channel: str = "MRI", sources: Sequence[str] = (NEAR, SMALL, FAR)) -> Path:
    """Distances 0.4, 0.7, 1.0 and so on to the target."""
    names = [*sources, TARGET]
    points = np.asarray([[0.4 + 0.3 * k, 0.2 * (k % 3)] for k in range(len(sources))] + [[0.0, 0.0]])
    table = np.linalg.norm(points[:, None] - points[None], axis=-1)
    rows = tuple(tuple(float(value) for value in row) for row in table)
    tasks = tuple(
        TaskEntry(name, (channel,), ("front", "back") if name == TARGET else ("organ",), 6, ("a", "b"), "0" * 16)
        for name in names
    )
    affinity = Affinity(
        target=TARGET,
        plans=DEFAULT_PLANS,
        configuration=CONFIGURATION,
        metric="descriptors",
        combination=Combination({"image": 1.0, "label": 0.25}, 2.0),
        seed=3,
        cases=2,
        tasks=tasks,
        distances=rows,
        components={"image": rows, "label": rows},
        counterparts=(Counterparts(((channel, channel),), (("organ", "front"),)),) * len(sources),
        low=tuple(row[-1] * 0.9 for row in rows[:-1]),
        high=tuple(row[-1] * 1.1 for row in rows[:-1]),
        indistinct=(False,) * (len(sources) - 1),
    )
    path = affinity_path(TARGET, DEFAULT_PLANS, CONFIGURATION, "descriptors")
    write_affinity(path, affinity)
    return path


def write_made_plan(affinity: Path, sources: Sequence[str] = (NEAR,)) -> None:
    """A plan of ``sources`` on that affinity, with scratch, a direct path and a sequence among its candidates."""
    candidates = (
        CandidatePath((NEAR, TARGET), 0.12, -0.05, 0.31, 0.14, 500, 6.2),
        CandidatePath((NEAR, SMALL, TARGET), 0.08, -0.1, 0.3, 0.25, 750, 9.3),
        CandidatePath((TARGET,), 0.0, 0.0, 0.0, 0.0, 250, 3.1),
        CandidatePath((FAR, TARGET), -0.1, -0.3, 0.1, 0.8, 500, 6.2, "cases"),
    )
    plan = SequencePlan(
        target=TARGET,
        plans=DEFAULT_PLANS,
        configuration=CONFIGURATION,
        sources=tuple(sources),
        strategy="gain",
        metric="descriptors",
        affinity_file=affinity.name,
        candidates=candidates,
        affinity_sha256=sha256(affinity),
        evidence=("closeness", "names"),
        measured=(515, 12),
        resamples=200,
        gpu_hours=6.2,
    )
    write_plan(plan_file(TARGET, DEFAULT_PLANS, CONFIGURATION), plan)


def write_made_comparison(cases: int = 8, tag: str | None = None, test: str | None = None) -> None:
    """Scratch, the direct path and a sequence, each better than the one before on most cases; ``test``: a test set."""
    rng = np.random.default_rng(0)
    arms = (
        Arm("scratch", (), ("scratch",)),
        Arm("902 -> 901", (NEAR,), ("direct", "planned")),
        Arm("902 -> 905 -> 901", (NEAR, SMALL), ("runner-up",)),
    )
    base = rng.uniform(0.4, 0.8, cases)
    scores = []
    for place, arm in enumerate(arms):
        values = base + 0.06 * place + rng.normal(0, 0.04, cases)
        dice = [
            CaseDice(f"case{case}", label, float(value))
            for case, value in enumerate(values)
            for label in ("front", "back")
        ]
        scores.append(ModelScores(arm.name, "0", 0, tuple(dice)))
    differences = tuple(
        Difference(arm.name, "scratch", 0.06 * place, 0.02 * place, 0.1 * place, 0.02, 0.04, cases)
        for place, arm in enumerate(arms)
        if place
    )
    comparison = Comparison(
        target=TARGET,
        plans=DEFAULT_PLANS,
        configuration=CONFIGURATION,
        folds=("0",),
        seeds=(0,),
        test_set=test,
        cases=cases,
        budget=Budget(4, 4, 0, 0.0, 120),
        arms=arms,
        scores=tuple(scores),
        differences=differences,
        rankings=(Ranking("descriptors", 0.8, 0.7, 0.01, 3),),
    )
    write_comparison(comparison_path(TARGET, DEFAULT_PLANS, CONFIGURATION, tag, test), comparison)

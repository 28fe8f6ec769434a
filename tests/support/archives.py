"""An archive of datasets as the planner sees it: registered names, and an affinity with resamples; no images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import (
    Affinity,
    Resamples,
    TaskEntry,
    affinity_path,
    write_affinity,
    write_resamples,
)
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.stage_files import FINAL

PLANS, CONFIGURATION, METRIC = "nnUNetPlans", "3d_fullres", "descriptors"
RESAMPLES = 60
COMBINATION = Combination({"image": 1.0, "contrast": 1.0, "label": 0.0, "geometry": 0.0}, 2.0, 1.0)


@dataclass(frozen=True)
class Archive:
    """nnU-Net's three folders with registered names in them."""

    root: Path
    "The folder that holds them."

    def register(self, *names: str) -> None:
        """Datasets that are known by name alone."""
        for name in names:
            (self.root / "raw" / name).mkdir(parents=True, exist_ok=True)

    def add_affinity(
        self,
        places: Mapping[str, Sequence[float]],
        counts: Mapping[str, int],
        *,
        scatter: float | None = 0.02,
        elsewhere: Sequence[str] = (),
        single: Sequence[str] = (),
    ) -> Path:
        """An affinity of the last of ``places``, its tasks being points whose Euclidean distance is the distance.

        ``scatter`` is the standard deviation of the points in the resamples; None for no resamples at all.
        ``elsewhere`` are known by signature only; of ``single`` one case was looked at.
        """
        names, points = tuple(places), np.asarray(list(places.values()), dtype=np.float64)
        self.register(*(name for name in names if name not in elsewhere))
        affinity = make_affinity(names, points, counts, elsewhere=elsewhere, single=single)
        path = affinity_path(affinity.target, PLANS, CONFIGURATION, METRIC)
        write_affinity(path, affinity)
        if scatter is not None:
            noise = np.random.default_rng(0).normal(0, scatter, (RESAMPLES, *points.shape))
            write_resamples(path, affinity, Resamples(tuple(range(len(names))), components_of(points + noise)))
        return path

    def add_stage(self, path: Sequence[str], target: str, name: str, recipe: Recipe, *, whole: bool = True) -> Path:
        """A trained source stage: its plans with their block, and a final checkpoint; the folder of its fold."""
        dataset = path[-1]
        block = StageBlock(target, tuple(path), "source", recipe, None)
        plans = with_block({"plans_name": name, "configurations": {CONFIGURATION: {}}}, CONFIGURATION, block)
        base = self.root / "results" / dataset / f"nnUNetTrainerSeqTransfer__{name}__{CONFIGURATION}"
        fold = base / "fold_all"
        fold.mkdir(parents=True)
        for file in (self.root / "preprocessed" / dataset / f"{name}.json", base / "plans.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(plans))
        write_checkpoint(fold / FINAL)
        if not whole:
            (fold / FINAL).write_bytes((fold / FINAL).read_bytes()[:50])
        return fold

    def add_plans(self, target: str, **settings: Any) -> None:
        """The target's own plans."""
        entry = {
            "data_identifier": f"{PLANS}_{CONFIGURATION}",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16, 16, 16],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample",
            "resampling_fn_seg": "resample",
            **settings,
        }
        content = {
            "plans_name": PLANS,
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {},
            "configurations": {CONFIGURATION: entry},
        }
        folder = self.root / "preprocessed" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{PLANS}.json").write_text(json.dumps(content))

    def files(self) -> dict[str, bytes]:
        """Every file with its content."""
        return {str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()}


def make_affinity(
    names: Sequence[str],
    points: np.ndarray,
    counts: Mapping[str, int],
    *,
    elsewhere: Sequence[str] = (),
    single: Sequence[str] = (),
) -> Affinity:
    """An affinity of the last of ``names``."""
    components = components_of(points[None])
    n = len(names)
    return Affinity(
        target=names[-1],
        plans=PLANS,
        configuration=CONFIGURATION,
        metric=METRIC,
        combination=COMBINATION,
        seed=0,
        cases=10,
        tasks=tuple(
            TaskEntry(
                dataset=name,
                channels=("T1",),
                labels=("organ",),
                labelled_cases=counts[name],
                sampled_cases=("a",) if name in single else ("a", "b"),
                signature=name,
                registered=name not in elsewhere,
            )
            for name in names
        ),
        distances=rows(COMBINATION.distances(components)[0]),
        components={name: rows(values[0]) for name, values in components.items()},
        counterparts=(Counterparts((("T1", "T1"),)),) * (n - 1),
        low=(0.0,) * (n - 1),
        high=(9.0,) * (n - 1),
        indistinct=(False,) * max(0, n - 2),
    )


def components_of(points: np.ndarray) -> dict[str, np.ndarray]:
    """(B, n, d) points -> components whose squares add up to the squared distances, each (B, n, n)."""
    squared = ((points[:, :, None] - points[:, None]) ** 2).sum(axis=-1)
    half = np.sqrt(squared / 2).astype(np.float32)
    zero = np.zeros_like(half)
    return {"image": half, "contrast": half, "label": zero, "geometry": zero}


def rows(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """An array as the record holds it."""
    return tuple(tuple(float(value) for value in row) for row in table)


def make_archive(root: Path, patch: pytest.MonkeyPatch) -> Archive:
    """An empty archive, with nnU-Net's variables pointing at it."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(parents=True)
        patch.setenv(f"nnUNet_{name}", str(root / name))
    return Archive(root)


def write_checkpoint(path: Path) -> None:
    """A whole archive in place of a checkpoint."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "weights" * 100)

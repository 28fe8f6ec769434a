"""The published metric as the command computes it, against reference numbers and against its own claims."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from nnunet_seqtransfer.affinity.published import PublishedMetric
from nnunet_seqtransfer.affinity.published_terms import published_distance
from nnunet_seqtransfer.host.datasets import RawCase
from nnunet_seqtransfer.host.preprocessing import read_raw_case
from nnunet_seqtransfer.tasks.signature import Signature, read_signature, write_signature

REFERENCE = SHARED / "reference" / "published_affinity.json"


@cache
def profile(dataset: str, case: str) -> dict[str, np.ndarray]:
    folder = SHARED / "data" / dataset
    raw = RawCase((folder / f"imagesTr/{case}_0000.nii.gz",), folder / f"labelsTr/{case}.nii.gz")
    return PublishedMetric().profile(read_raw_case(case, raw, "SimpleITKIO"), ((1,),))


def signature(dataset: str, cases: list[str]) -> Signature:
    return Signature(
        dataset=dataset,
        metric="published",
        digest=dataset + "".join(cases),
        channels=("T1",),
        labels=("organ",),
        labelled_cases=len(cases),
        cases=tuple(cases),
        spacing=(1.0, 1.0, 1.0),
        extent=(48.0, 48.0, 48.0),
        profiles=tuple(profile(dataset, case) for case in cases),
    )


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no reference numbers in {REFERENCE}")
def test_every_pair_of_the_reference_is_met_after_a_round_through_the_cache(tmp_path: Path):
    """W, SSIM and distance of each pair agree to 1e-6, read by nnU-Net's reader and stored as a signature."""
    for row in json.loads(REFERENCE.read_text())["rows"]:
        distances = []
        for number, pair in enumerate(row["pairs"]):
            files = [tmp_path / f"{number}_{side}.npz" for side in "ab"]
            for path, side in zip(files, "ab", strict=True):
                write_signature(path, signature(row[f"task_{side}"], [pair[f"case_{side}"]]))
            first, second = (read_signature(path) for path in files)
            if first.digest == second.digest:
                continue  # the same case of the same task: 0 by definition
            compared = PublishedMetric().compare(first, second)
            assert compared.components["wasserstein"] == pytest.approx(pair["wasserstein"], rel=1e-6)
            assert compared.components["ssim"] == pytest.approx(pair["ssim"], rel=1e-6)
            expected = published_distance(pair["wasserstein"], pair["ssim"])
            assert compared.distance == pytest.approx(max(0.0, expected), rel=1e-6, abs=1e-9)
            distances.append(compared.distance)
        if row["task_a"] != row["task_b"]:
            assert len(distances) == len(row["pairs"]), "no pair was left out"


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no real data in {SHARED}")
def test_tasks_that_share_patients_are_compared_patient_by_patient():
    """Equal identifiers pair up as published; the mean over the pairs is what `compare` returns."""
    cases = ["oasis_1000A", "oasis_1001A"]
    one, other = (signature(name, cases) for name in ("Dataset021_OasisHippocampus", "Dataset022_OasisThalamus"))
    together = PublishedMetric().compare(one, other)
    alone = [
        PublishedMetric().compare(signature(one.dataset, [case]), signature(other.dataset, [case])) for case in cases
    ]
    assert together.components["pairs"] == 2 and together.match == ("same patients",)
    for part in ("wasserstein", "ssim"):
        assert together.components[part] == pytest.approx(np.mean([single.components[part] for single in alone]))


def test_masks_of_different_shapes_are_compared_on_one_grid():
    """Unequal mask shapes, which stop the published scripts, give the distance of the resized masks."""

    def with_mask(shape: tuple[int, int, int], name: str) -> Signature:
        mask = np.zeros(shape, dtype=bool)
        mask[: shape[0] // 2] = True
        content = {"scores": np.zeros(16384, np.float32), "mask": np.packbits(mask), "shape": np.asarray(shape)}
        return Signature(name, "published", name, ("T1",), ("organ",), 1, (name,), (1.0,) * 3, (1.0,) * 3, (content,))

    compared = PublishedMetric().compare(with_mask((16, 16, 16), "a"), with_mask((32, 20, 24), "b"))
    assert compared.components["ssim"] == pytest.approx(1.0, abs=1e-5) and compared.distance == pytest.approx(
        0, abs=1e-4
    )

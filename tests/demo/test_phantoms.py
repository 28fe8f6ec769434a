"""Phantoms: the same from the same seed, varied from case to case, and stored as nnU-Net wants them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.demo.phantoms import SIZE, SOURCES, STRUCTURES, TARGET, draw_phantom, label_image, write_task

ALL = (TARGET, *SOURCES)


def test_equal_seeds_draw_equal_phantoms():
    """A phantom is a function of its generator's seed, and of nothing else."""
    first, again, other = (draw_phantom(np.random.default_rng(seed), TARGET.scanner) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    for name in STRUCTURES:
        assert np.array_equal(first.structures[name], again.structures[name])


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_every_case_can_be_segmented(task):
    """Images are finite and of one size, labels are inside of the head and hardly ever missing."""
    sizes = []
    for seed in range(20):
        phantom = draw_phantom(np.random.default_rng(seed), task.scanner)
        assert phantom.image.shape == (SIZE, SIZE)
        assert phantom.image.dtype == np.float32
        assert np.isfinite(phantom.image).all()
        labels = label_image(phantom, task.labels)
        assert set(np.unique(labels)) <= set(range(len(task.labels) + 1))
        assert not labels[[0, -1]].any()
        sizes.append(np.count_nonzero(labels))
    assert np.median(sizes) > 15
    assert np.std(sizes) > 2


def test_structures_do_not_overlap():
    """Each pixel belongs to at most one structure, but for ties on a border."""
    phantom = draw_phantom(np.random.default_rng(0), TARGET.scanner)
    assert np.sum([phantom.structures[name] for name in STRUCTURES], axis=0).max() == 1


def test_written_as_nnunet_wants_them(tmp_path):
    """Files and dataset.json follow nnU-Net's layout, and whole datasets are not written again."""
    task = replace(TARGET, cases=2)
    write_task(tmp_path, task)
    folder = tmp_path / task.name
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")) == [
        "imagesTr/case00_0000.nii.gz",
        "imagesTr/case01_0000.nii.gz",
        "labelsTr/case00.nii.gz",
        "labelsTr/case01.nii.gz",
    ]
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 2
    assert content["labels"] == {"background": 0, **{name: i for i, name in enumerate(task.labels, 1)}}
    image = sitk.ReadImage(str(folder / "imagesTr/case00_0000.nii.gz"))
    assert image.GetSize() == (SIZE, SIZE, 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_task(tmp_path, task)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    # without dataset.json, which comes last, the files were interrupted and are written again
    half = folder / "imagesTr/case00_0000.nii.gz"
    half.write_bytes(b"half")
    (folder / "dataset.json").unlink()
    write_task(tmp_path, task)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(half))), sitk.GetArrayFromImage(image))

"""Dice against closed forms, and folders of predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.evaluation.dice import CaseDice, case_means, dice, folder_dice, mean_dice


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (10, 20), 0.0),
        ((0, 10), (5, 15), 0.5),
        ((0, 10), (0, 30), 0.5),
        ((0, 0), (0, 10), 0.0),
        ((0, 0), (0, 0), math.nan),
    ],
)
def test_closed_forms(first, second, expected):
    """Two intervals of a and b pixels with c in common have Dice 2 c / (a + b); two empty ones have none."""
    arrays = [np.zeros((1, 1, 40), dtype=np.uint8) for _ in range(2)]
    for array, (start, stop) in zip(arrays, (first, second), strict=True):
        array[..., start:stop] = 1
    assert dice(*arrays, [1]) == pytest.approx(expected, nan_ok=True)
    assert dice(*arrays[::-1], [1]) == pytest.approx(expected, nan_ok=True)


def test_a_region_is_the_union_of_its_values():
    """Voxels of any of the values count as the region, whichever value each array has there."""
    assert dice(np.asarray([1, 2, 0]), np.asarray([2, 1, 3]), [1, 2]) == 1.0


def test_shapes_that_differ_are_named():
    """A prediction that does not fit its reference is an error with both shapes."""
    with pytest.raises(DatasetError, match=r"\(2,\).*\(3,\)"):
        dice(np.zeros(3), np.zeros(2), [1])


def test_means_leave_nan_out():
    """Means run over cases, then over labels, and cases in which a label is on neither side do not count."""
    found = [
        CaseDice("a", "x", 1.0),
        CaseDice("b", "x", 0.5),
        CaseDice("a", "y", 0.25),
        CaseDice("b", "y", math.nan),
        CaseDice("c", "x", math.nan),
    ]
    assert mean_dice(found) == pytest.approx((0.75 + 0.25) / 2)
    assert case_means(found) == {"a": 0.625, "b": 0.5}
    assert math.isnan(mean_dice([]))


def test_agrees_with_nnunet(tmp_path):
    """nnU-Net's own evaluation of the same files gives the same Dice, NaN for empty against empty among them."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    rng = np.random.default_rng(0)
    folders = _write(tmp_path, {"a": rng.integers(0, 3, (2, 4, 8, 8)), "b": np.zeros((2, 4, 8, 8))})
    found = folder_dice(*folders, {"one": (1,), "two": (2,)}, ".nii.gz")
    assert [(entry.case, entry.label) for entry in found] == [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]
    for entry in found:
        value = {"one": 1, "two": 2}[entry.label]
        files = [str(folder / f"{entry.case}.nii.gz") for folder in folders]
        theirs = compute_metrics(*files, SimpleITKIO(), [1, 2])["metrics"][value]["Dice"]
        assert entry.dice == pytest.approx(theirs, nan_ok=True)


def test_missing_files_are_named(tmp_path):
    """A missing prediction, a broken file and a folder without references are errors that name them."""
    references, predictions = _write(tmp_path, {"a": np.ones((2, 1, 4, 4))})
    with pytest.raises(DatasetError, match="no reference"):
        folder_dice(tmp_path, predictions, {"one": (1,)}, ".nii.gz")
    (predictions / "a.nii.gz").write_bytes(b"broken")
    with pytest.raises(DatasetError, match="cannot read"):
        folder_dice(references, predictions, {"one": (1,)}, ".nii.gz")
    (predictions / "a.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"a\.nii\.gz is missing"):
        folder_dice(references, predictions, {"one": (1,)}, ".nii.gz")


def _write(folder, cases):
    """Writes each case's (reference, prediction); returns the two folders."""
    folders = folder / "references", folder / "predictions"
    for index, sub in enumerate(folders):
        sub.mkdir()
        for name, pair in cases.items():
            sitk.WriteImage(sitk.GetImageFromArray(pair[index].astype(np.uint8)), str(sub / f"{name}.nii.gz"))
    return folders

"""Dice by nnU-Net, read from its summaries, and its means."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.validation import CaseDice, evaluate_folder, label_means, mean_dice, read_summary

CONTENT = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz"}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}


def interval(start: int, stop: int, value: int = 1) -> np.ndarray:
    array = np.zeros((1, 1, 40), dtype=np.uint8)
    array[..., start:stop] = value
    return array


def write(folder: Path, cases: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Path, Path]:
    """Write each case's (reference, prediction); return the two folders."""
    folders = folder / "references", folder / "predictions"
    for index, sub in enumerate(folders):
        sub.mkdir()
        for name, pair in cases.items():
            sitk.WriteImage(sitk.GetImageFromArray(pair[index]), str(sub / f"{name}.nii.gz"))
    return folders


def test_a_folder_has_closed_forms(tmp_path):
    """Intervals of a and b voxels with c in common have Dice 2 c / (a + b); two empty ones have none."""
    cases = {
        "half": (interval(0, 10), interval(5, 15)),
        "same": (interval(0, 10), interval(0, 10)),
        "apart": (interval(0, 10), interval(10, 20)),
    }
    found = evaluate_folder(*write(tmp_path, cases), "SimpleITKIO", CONTENT, 1)
    assert [(one.case, one.label) for one in found][:2] == [("apart", "one"), ("apart", "two")]
    assert {one.case: one.dice for one in found if one.label == "one"} == {"half": 0.5, "same": 1.0, "apart": 0.0}
    assert all(one.dice is None for one in found if one.label == "two")


def test_regions_and_the_ignore_label_are_nnunets(tmp_path):
    """A region is the union of its labels; ignored voxels count for neither side."""
    reference = interval(0, 10) + interval(10, 20, 2) + interval(20, 30, 3)
    prediction = interval(0, 10, 2) + interval(10, 30, 1)
    found = evaluate_folder(*write(tmp_path, {"a": (reference, prediction)}), "SimpleITKIO", REGIONS, 1)
    assert found == (CaseDice("a", "whole", 1.0), CaseDice("a", "core", 0.0))


def test_a_folder_is_evaluated_once(tmp_path):
    """The summary that nnU-Net wrote is read again; one that is broken is named with what to do."""
    references, predictions = write(tmp_path, {"a": (interval(0, 10), interval(5, 15))})
    found = evaluate_folder(references, predictions, "SimpleITKIO", CONTENT, 1)
    (references / "a.nii.gz").unlink()
    assert evaluate_folder(references, predictions, "SimpleITKIO", CONTENT, 1) == found
    summary = predictions / "summary.json"
    assert read_summary(summary, {"one": (1,), "two": (2,)}, ".nii.gz") == found
    summary.write_text(summary.read_text().replace("metric_per_case", "else"))
    with pytest.raises(RecordError, match=r"lacks entries .*summary\.json; delete it"):
        evaluate_folder(references, predictions, "SimpleITKIO", CONTENT, 1)


@pytest.mark.parametrize("fault", ["missing", "broken", "shape"])
def test_what_cannot_be_evaluated_is_named(tmp_path, fault):
    """A missing reference, a broken file, and shapes that differ are one error that names the folder to delete."""
    references, predictions = write(tmp_path, {"a": (interval(0, 10), interval(5, 15))})
    if fault == "missing":
        (references / "a.nii.gz").unlink()
    elif fault == "broken":
        (predictions / "a.nii.gz").write_bytes(b"broken")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(interval(0, 10)[..., :39]), str(predictions / "a.nii.gz"))
    with pytest.raises(DatasetError, match=r"(?s)cannot be evaluated .*predictions against .*references; delete"):
        evaluate_folder(references, predictions, "SimpleITKIO", CONTENT, 1)
    assert not (predictions / "summary.json").exists()


def test_means_leave_absent_labels_out():
    """Means run over cases, then over labels; a case with a label on neither side does not count for that label."""
    found = [
        CaseDice("a", "x", 1.0),
        CaseDice("b", "x", 0.5),
        CaseDice("a", "y", 0.25),
        CaseDice("b", "y", None),
        CaseDice("c", "x", None),
    ]
    assert label_means(found) == {"x": 0.75, "y": 0.25}
    assert mean_dice(found) == pytest.approx((0.75 + 0.25) / 2)
    assert math.isnan(mean_dice([]))

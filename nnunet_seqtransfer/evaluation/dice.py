"""Dice of predictions against reference segmentations, per case and label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError


@dataclass(frozen=True)
class CaseDice:
    """One label of one case."""

    case: str
    "Identifier of the case."
    label: str
    "Name of the label or region."
    dice: float
    "0 to 1; NaN where the label is neither in the reference nor in the prediction."


def dice(reference: NDArray[Any], prediction: NDArray[Any], values: Iterable[int]) -> float:
    """Dice 2 |A and B| / (|A| + |B|) of the voxels with any of ``values``; both arrays have the same shape.

    NaN where both are empty, as in nnU-Net's own evaluation: such a case says nothing and is left out of means.
    """
    if reference.shape != prediction.shape:
        raise DatasetError(f"a prediction of shape {prediction.shape} does not fit a reference of {reference.shape}")
    wanted = list(values)
    a, b = np.isin(reference, wanted), np.isin(prediction, wanted)
    size = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / size if size else math.nan


def folder_dice(
    references: Path, predictions: Path, labels: Mapping[str, tuple[int, ...]], ending: str
) -> tuple[CaseDice, ...]:
    """Dice of every label of every reference in a folder, sorted by case.

    Args:
        references: folder of reference segmentations, CASE + ``ending``.
        predictions: folder of predictions of the same names.
        labels: name -> the values it consists of.
        ending: nnU-Net's file_ending, such as .nii.gz.

    Raises DatasetError where there is no reference, or a prediction is missing or has another shape.
    """
    files = sorted(path for path in references.glob(f"*{ending}") if not path.name.startswith("."))
    if not files:
        raise DatasetError(f"there are no reference segmentations (*{ending}) in {references}; check the folder")
    found = []
    for file in files:
        predicted = predictions / file.name
        if not predicted.is_file():
            raise DatasetError(f"the prediction {predicted} is missing; run nnUNetv2_predict again")
        pair = read_segmentation(file), read_segmentation(predicted)
        case = file.name.removesuffix(ending)
        found += [CaseDice(case, name, dice(*pair, values)) for name, values in labels.items()]
    return tuple(found)


def label_means(found: Iterable[CaseDice]) -> dict[str, float]:
    """Label -> mean over its cases, as nnU-Net's; NaN is left out, and the mean of a label that no case has."""
    by_label: dict[str, list[float]] = {}
    for entry in found:
        by_label.setdefault(entry.label, []).extend([] if math.isnan(entry.dice) else [entry.dice])
    return {label: sum(values) / len(values) if values else math.nan for label, values in by_label.items()}


def mean_dice(found: Iterable[CaseDice]) -> float:
    """Mean over the cases of each label, then over the labels, as nnU-Net's foreground mean; NaN is left out."""
    means = [value for value in label_means(found).values() if not math.isnan(value)]
    return sum(means) / len(means) if means else math.nan


def case_means(found: Iterable[CaseDice]) -> dict[str, float]:
    """Case -> mean over its labels, NaN left out; cases without any are left out too."""
    by_case: dict[str, list[float]] = {}
    for entry in found:
        if not math.isnan(entry.dice):
            by_case.setdefault(entry.case, []).append(entry.dice)
    return {case: sum(values) / len(values) for case, values in by_case.items()}


def read_segmentation(path: Path) -> NDArray[Any]:
    """Label values as stored, axes z, y, x. Raises DatasetError where the file cannot be read."""
    try:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    except RuntimeError:
        raise DatasetError(f"cannot read the segmentation {path}; make it again") from None

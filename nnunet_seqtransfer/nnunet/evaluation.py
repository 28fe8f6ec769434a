"""Evaluate predictions with nnU-Net's own command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder
from nnunet_seqtransfer.nnunet.validation import SUMMARY, CaseDice, read_summary


def evaluate_folder(
    references: Path, predictions: Path, reader_writer: str, dataset_json: Mapping[str, Any], processes: int
) -> tuple[CaseDice, ...]:
    """Return the Dice of every label of all predictions, by nnU-Net's compute_metrics_on_folder.

    The result is kept as ``predictions``/summary.json and read from there the next time.

    Args:
        references: folder of reference segmentations that have the names of the predictions.
        predictions: folder of predicted segmentations; all of them are evaluated.
        reader_writer: name of the nnU-Net class that reads both.
        dataset_json: labels and file ending.
        processes: worker processes.

    Raises DatasetError if a segmentation is missing, unreadable, or does not fit its reference.
    """
    labels = foreground_labels(dict(dataset_json))
    ending, summary = str(dataset_json["file_ending"]), predictions / SUMMARY
    if not summary.is_file():
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder  # noqa: PLC0415 - slow
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415

        # nnU-Net writes a region as a tuple, a label as a number
        wanted = [values if len(values) > 1 else values[0] for values in labels.values()]
        ignore = dataset_json["labels"].get("ignore")
        try:
            compute_metrics_on_folder(
                str(references),
                str(predictions),
                str(summary),
                recursive_find_reader_writer_by_name(reader_writer)(),
                ending,
                wanted,
                None if ignore is None else int(ignore),
                processes,
            )
        except Exception as error:  # image readers raise all kinds of errors, NumPy others if shapes differ
            raise DatasetError(
                f"the predictions cannot be evaluated ({error}): {predictions} against {references}; "
                f"delete {predictions} and run the same command again"
            ) from error
    return read_summary(summary, labels, ending)


@dataclass(frozen=True)
class LabelMasks:
    """One label of one case."""

    label: str
    "Name of the label or region."
    dice: float
    "By nnU-Net's compute_metrics: 0 to 1, NaN where it is neither in the reference nor in the prediction."
    reference: NDArray[np.bool_]
    "Shape (x, y, z) as nnU-Net stores it, without voxels of the ignore label."
    prediction: NDArray[np.bool_]
    "The same shape."
    spacing: tuple[float, ...]
    "Distance between voxels along each axis in millimetres."


def evaluated_labels(
    case: str, reference: Path, prediction: Path, reader_writer: str, labels: dict[str, Any]
) -> Iterator[LabelMasks]:
    """Every foreground label of a case with nnU-Net's Dice.

    Args:
        case: its identifier, for messages.
        reference, prediction: the segmentation files.
        reader_writer: name of the nnU-Net class that reads them.
        labels: as in dataset.json.

    Raises DatasetError where a file is missing or cannot be read, or the shapes differ.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics, region_or_label_to_mask  # noqa: PLC0415 - slow
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415 - slow

    reader = recursive_find_reader_writer_by_name(reader_writer)()
    wanted = {name: _key(value) for name, value in labels.items() if name not in ("background", "ignore")}
    ignore = labels.get("ignore")
    for path in (reference, prediction):
        if not path.is_file():
            remedy = "plan and preprocess its dataset again" if path == reference else f"delete {path.parent}"
            raise DatasetError(
                f"the segmentation {path} of case {case} is missing; {remedy} and run the same command again"
            )
    try:
        found = compute_metrics(str(reference), str(prediction), reader, list(wanted.values()), ignore)["metrics"]
        (own, properties), (other, _) = reader.read_seg(str(reference)), reader.read_seg(str(prediction))
    except Exception as error:  # image readers raise all kinds for a damaged file, NumPy for other shapes
        raise DatasetError(
            f"case {case} cannot be evaluated ({error}): {prediction} against {reference}; "
            f"delete {prediction.parent} and run the same command again"
        ) from error
    counted = np.ones(own.shape, dtype=bool) if ignore is None else own != int(ignore)
    spacing = tuple(float(value) for value in properties["spacing"])
    for name, key in wanted.items():
        masks = [np.asarray(region_or_label_to_mask(mask, key) & counted)[0] for mask in (own, other)]
        yield LabelMasks(name, float(found[key]["Dice"]), masks[0], masks[1], spacing)


def _key(value: Any) -> int | tuple[int, ...]:
    return tuple(int(part) for part in value) if isinstance(value, list) else int(value)


def reference_file(dataset: str, case: str, ending: str) -> Path:
    """The reference segmentation that nnU-Net's own validation of a preprocessed case reads."""
    return preprocessed_folder() / dataset / "gt_segmentations" / f"{case}{ending}"


def voxel_size(plans: dict[str, Any], configuration: str) -> float:
    """The geometric mean of the spacing that the configuration resamples to, in millimetres."""
    return float(np.exp(np.mean(np.log(np.asarray(plans["configurations"][configuration]["spacing"], dtype=float)))))

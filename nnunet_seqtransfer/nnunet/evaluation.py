"""Evaluate predictions with nnU-Net's own function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.nnunet.validation import SUMMARY, CaseDice, read_summary


def evaluate_folder(
    references: Path, predictions: Path, reader_writer: str, dataset_json: Mapping[str, Any], processes: int
) -> tuple[CaseDice, ...]:
    """Return the Dice of every case and label by nnU-Net's compute_metrics_on_folder.

    The result is kept as ``predictions``/summary.json and read from there the next time.

    Args:
        references: folder with reference segmentations, named like the predictions.
        predictions: folder with predicted segmentations; all are evaluated.
        reader_writer: nnU-Net class that reads both.
        dataset_json: labels and file ending.
        processes: worker processes.

    Raises DatasetError if a segmentation is missing, unreadable, or does not fit the reference.
    """
    labels = foreground_labels(dict(dataset_json))
    ending, summary = str(dataset_json["file_ending"]), predictions / SUMMARY
    if not summary.is_file():
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder  # noqa: PLC0415 - slow
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415

        # nnU-Net wants a region as a tuple, but a single label as a number.
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

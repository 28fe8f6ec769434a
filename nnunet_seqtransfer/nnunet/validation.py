"""Read nnU-Net's summary.json: the Dice of every case and label, and means as nnU-Net computes them."""

import ast
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.storage import read_json

SUMMARY = "summary.json"
"""File in which nnU-Net keeps the evaluation next to the predictions."""


@dataclass(frozen=True)
class CaseDice:
    """Dice of one label in one case."""

    case: str
    "Identifier of the case."
    label: str
    "Name of the label or region."
    dice: float | None
    "Dice from 0 to 1; None if neither the reference nor the prediction has the label."


@dataclass(frozen=True)
class ValidatedCase:
    """One case with the Dice of all labels and the prediction."""

    case: str
    "Identifier of the case."
    fold: str
    "Fold whose model made the prediction."
    dice: Mapping[str, float]
    "Label name -> Dice; NaN if neither the reference nor the prediction has the label."
    prediction: Path
    "Predicted segmentation."

    @property
    def mean(self) -> float:
        """Return the mean over the labels that have a Dice, NaN if none has."""
        known = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def read_validation(
    folder: Path, fold: str, labels: Mapping[str, tuple[int, ...]], ending: str
) -> tuple[ValidatedCase, ...]:
    """Return the cases in summary.json of a fold's ``folder``, sorted by case; none without a summary.

    ``labels``: label or region name -> label values. ``ending``: that of the predictions, such as .nii.gz.

    Raises RecordError if the summary is broken or incomplete.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return ()
    remedy = "delete it and run the same command again"
    content = read_json(path, "nnU-Net's evaluation", remedy)
    names = {values: name for name, values in labels.items()}
    try:
        cases = [_case(entry, folder, fold, names, ending) for entry in content["metric_per_case"]]
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise RecordError(f"nnU-Net's evaluation lacks entries ({error}): {path}; {remedy}") from None
    return tuple(sorted(cases, key=lambda one: one.case))


def read_summary(path: Path, labels: Mapping[str, tuple[int, ...]], ending: str) -> tuple[CaseDice, ...]:
    """Return the Dice of every case and label in a summary.json, like `read_validation`.

    Raises RecordError if the summary is missing, broken or incomplete.
    """
    if not path.is_file():
        raise RecordError(f"nnU-Net's evaluation is missing: {path}; run the same command again")
    return tuple(case_dice(read_validation(path.parent, "", labels, ending)))


def telling(cases: Sequence[ValidatedCase]) -> tuple[tuple[str, ValidatedCase], ...]:
    """Return the worst, the median and the best case by mean Dice, each with that word; fewer if there are fewer."""
    ordered = sorted(
        (case for case in cases if not math.isnan(case.mean)), key=lambda case: (case.mean, case.case, case.fold)
    )
    if not ordered:
        return ()
    picked = {0: "worst", len(ordered) - 1: "best"} if len(ordered) > 1 else {0: "only"}
    picked.setdefault((len(ordered) - 1) // 2, "median")
    return tuple((picked[index], ordered[index]) for index in sorted(picked))


def case_dice(cases: Iterable[ValidatedCase]) -> Iterator[CaseDice]:
    """Yield one record per case and label."""
    for case in cases:
        for label, value in case.dice.items():
            yield CaseDice(case.case, label, None if math.isnan(value) else value)


def label_means(scores: Iterable[CaseDice]) -> dict[str, float]:
    """Return the mean Dice of each label over the cases that have one, like nnU-Net; NaN if none has."""
    by_label: dict[str, list[float]] = {}
    for score in scores:
        by_label.setdefault(score.label, []).extend([] if score.dice is None else [score.dice])
    return {label: sum(values) / len(values) if values else math.nan for label, values in by_label.items()}


def mean_dice(scores: Iterable[CaseDice]) -> float:
    """Return nnU-Net's foreground mean, the mean over `label_means`; NaN if no label has a Dice."""
    means = [value for value in label_means(scores).values() if not math.isnan(value)]
    return sum(means) / len(means) if means else math.nan


def _case(
    entry: Mapping[str, Any], folder: Path, fold: str, names: Mapping[tuple[int, ...], str], ending: str
) -> ValidatedCase:
    # The folders may have moved since nnU-Net wrote the path, possibly on Windows: only the file name counts.
    file = str(entry["prediction_file"]).replace("\\", "/").rsplit("/", 1)[-1]
    dice = {names.get(_values(key), key): float(metrics["Dice"]) for key, metrics in entry["metrics"].items()}
    return ValidatedCase(file.removesuffix(ending), fold, dice, folder / file)


def _values(key: str) -> tuple[int, ...]:
    """Return the label values of a key: nnU-Net writes a label as "1" and a region as "(1, 2)"."""
    value = ast.literal_eval(key)
    return tuple(int(part) for part in value) if isinstance(value, tuple) else (int(value),)


def evaluate_folder(
    references: Path, predictions: Path, reader_writer: str, dataset_json: Mapping[str, Any], processes: int
) -> tuple[CaseDice, ...]:
    """Return the Dice of every case and label by nnU-Net's compute_metrics_on_folder.

    All segmentations in ``predictions`` are compared with those of the same name in ``references``, both read by
    nnU-Net's class ``reader_writer``. The result is kept as ``predictions``/summary.json and read from there next time.

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

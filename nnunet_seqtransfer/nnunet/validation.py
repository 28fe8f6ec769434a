"""Dice of the final validation, case by case, from nnU-Net's summary.json; and which cases are worth a look."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import read_json

SUMMARY = "summary.json"


@dataclass(frozen=True)
class CaseDice:
    """Dice of one label of one case."""

    case: str
    "Identifier of the case."
    label: str
    "Name of the label or region."
    dice: float | None
    "Dice from 0 to 1; None if neither the reference nor the prediction has the label."


@dataclass(frozen=True)
class ValidatedCase:
    """One case that a fold of the target was validated on."""

    case: str
    "Its identifier."
    fold: str
    "The fold that predicted it."
    dice: Mapping[str, float]
    "Label name -> Dice; NaN where neither the reference nor the prediction has the label."
    prediction: Path
    "The predicted segmentation."

    @property
    def mean(self) -> float:
        """Mean over the labels that have a Dice; NaN where none has."""
        known = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def read_validation(
    folder: Path, fold: str, labels: Mapping[str, tuple[int, ...]], ending: str
) -> tuple[ValidatedCase, ...]:
    """The cases in ``folder``/summary.json, predictions looked for beside it; none where there is no summary.

    Args:
        folder: ``validation`` of a fold.
        fold: its name.
        labels: name -> the label values it consists of.
        ending: of image files, such as .nii.gz.

    Raises RecordError where the summary is broken.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return ()
    remedy = "delete it and run nnUNetv2_seq_train again, which validates anew"
    content = read_json(path, "the summary of the validation", remedy)
    names = {values: name for name, values in labels.items()}
    try:
        return tuple(_case(entry, folder, fold, names, ending) for entry in content["metric_per_case"])
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise RecordError(f"the summary of the validation lacks entries ({error}): {path}; {remedy}") from None


def read_summary(path: Path, labels: Mapping[str, tuple[int, ...]], ending: str) -> tuple[CaseDice, ...]:
    """Return the Dice of every label of every case in a summary.json of nnU-Net, sorted by case.

    Args:
        path: the summary, of a validation or of `evaluate_folder`.
        labels: name of each label or region -> its label values.
        ending: file ending of the predictions, such as .nii.gz.

    Raises RecordError if the summary is missing, broken or incomplete.
    """
    remedy = "delete it and run the same command again"
    content = read_json(path, "the summary of the Dice", remedy)
    names = {values: name for name, values in labels.items()}
    try:
        cases = [_case(entry, path.parent, "", names, ending) for entry in content["metric_per_case"]]
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise RecordError(f"the summary of the Dice lacks entries ({error}): {path}; {remedy}") from None
    return tuple(case_dice(sorted(cases, key=lambda one: one.case)))


def telling(cases: Sequence[ValidatedCase]) -> tuple[tuple[str, ValidatedCase], ...]:
    """The worst, the median and the best case by mean Dice, equal ones by name; fewer where there are fewer."""
    ordered = sorted(
        (case for case in cases if not math.isnan(case.mean)), key=lambda case: (case.mean, case.case, case.fold)
    )
    if not ordered:
        return ()
    picked = {0: "worst", len(ordered) - 1: "best"} if len(ordered) > 1 else {0: "only"}
    picked.setdefault((len(ordered) - 1) // 2, "median")
    return tuple((picked[place], ordered[place]) for place in sorted(picked))


def case_dice(cases: Sequence[ValidatedCase]) -> Iterator[CaseDice]:
    """Return one record for each label of each case, for the means below."""
    return (
        CaseDice(case.case, label, None if math.isnan(value) else value)
        for case in cases
        for label, value in case.dice.items()
    )


def label_means(scores: Iterable[CaseDice]) -> dict[str, float]:
    """Return the mean Dice of each label over the cases that have one; NaN if none has (as nnU-Net does)."""
    by_label: dict[str, list[float]] = {}
    for score in scores:
        by_label.setdefault(score.label, []).extend([] if score.dice is None else [score.dice])
    return {label: sum(values) / len(values) if values else math.nan for label, values in by_label.items()}


def mean_dice(scores: Iterable[CaseDice]) -> float:
    """Return the mean over labels of `label_means`, nnU-Net's foreground mean; NaN if no label has a Dice."""
    means = [value for value in label_means(scores).values() if not math.isnan(value)]
    return sum(means) / len(means) if means else math.nan


def _case(
    entry: Mapping[str, Any], folder: Path, fold: str, names: Mapping[tuple[int, ...], str], ending: str
) -> ValidatedCase:
    # The folders may have moved since: only the name of the file counts.
    file = str(entry["prediction_file"]).replace("\\", "/").rsplit("/", 1)[-1]
    dice = {names.get(_values(key), key): float(metrics["Dice"]) for key, metrics in entry["metrics"].items()}
    return ValidatedCase(file.removesuffix(ending), fold, dice, folder / file)


def _values(key: str) -> tuple[int, ...]:
    """nnU-Net writes a label as "1" and a region as "(1, 2)"."""
    value = ast.literal_eval(key)
    return tuple(int(part) for part in value) if isinstance(value, tuple) else (int(value),)

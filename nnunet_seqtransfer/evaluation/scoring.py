"""Scores of one trained model: nnU-Net's Dice and the surface distance of every case, kept for the next time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.evaluation.cache import cached
from nnunet_seqtransfer.evaluation.surface import normalised_surface_distance
from nnunet_seqtransfer.nnunet.evaluation import evaluated_labels
from nnunet_seqtransfer.parallel import run_in_processes


@dataclass(frozen=True)
class ScoringJob:
    """One case to score."""

    case: str
    "Its identifier."
    reference: Path
    "Its reference segmentation."
    prediction: Path
    "What the model made of it."


@dataclass(frozen=True)
class Scorer:
    """How cases are scored."""

    reader_writer: str
    "Name of the nnU-Net class that reads segmentations."
    labels: Mapping[str, Any]
    "As in dataset.json."
    tolerance: float
    "Of the surface distance, in millimetres."


@dataclass(frozen=True)
class LabelScore:
    """One label of one case."""

    case: str
    "Identifier of the case."
    label: str
    "Name of the label or region."
    dice: float
    "0 to 1; NaN where the label is neither in the reference nor in the prediction."
    nsd: float
    "Normalised surface distance, 0 to 1; NaN as Dice."


def scored(
    jobs: Sequence[ScoringJob], scorer: Scorer, cache: Path, title: str, processes: int
) -> tuple[LabelScore, ...]:
    """The scores of all cases of one model, from ``cache`` where it was made of the same files in the same way.

    Raises DatasetError where a prediction is missing or does not fit its reference.
    """

    def make() -> list[tuple[str, str, float | None, float | None]]:
        found = run_in_processes(partial(score_case, scorer), jobs, processes, title)
        return [(one.case, one.label, _or_none(one.dice), _or_none(one.nsd)) for labels in found for one in labels]

    files = [path for job in jobs for path in (job.reference, job.prediction)]
    settings = [[job.case for job in jobs], scorer.reader_writer, dict(scorer.labels), scorer.tolerance]
    values = cached(cache, files, settings, make)
    return tuple(LabelScore(case, label, _or_nan(dice), _or_nan(nsd)) for case, label, dice, nsd in values)


def score_case(scorer: Scorer, job: ScoringJob) -> list[LabelScore]:
    """The labels of one case. Raises DatasetError where it cannot be evaluated."""
    masks = evaluated_labels(job.case, job.reference, job.prediction, scorer.reader_writer, dict(scorer.labels))
    return [
        LabelScore(
            job.case,
            one.label,
            one.dice,
            normalised_surface_distance(one.reference, one.prediction, one.spacing, scorer.tolerance),
        )
        for one in masks
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value

"""Scores of one trained model: nnU-Net's Dice and the surface distance of every case, kept for the next time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.surface import normalised_surface_distance
from nnunet_seqtransfer.host.evaluation import evaluated_labels
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum, read_record, write_record

FORMAT = 1
KIND = "scores"
Values = tuple[str, str, float | None, float | None]
"""Case, label, Dice and normalised surface distance; None for NaN."""


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

    def score(self, job: ScoringJob) -> list[Values]:
        """The labels of one case; runs in a worker process. Raises DatasetError where it cannot be evaluated."""
        masks = evaluated_labels(job.case, job.reference, job.prediction, self.reader_writer, dict(self.labels))
        values = []
        for one in masks:
            nsd = normalised_surface_distance(one.reference, one.prediction, one.spacing, self.tolerance)
            values.append((job.case, one.label, _or_none(one.dice), _or_none(nsd)))
        return values


def scored(jobs: list[ScoringJob], scorer: Scorer, cache: Path, title: str, processes: int) -> tuple[Values, ...]:
    """The scores of all cases of one model, from ``cache`` where it was made of the same files in the same way.

    Raises DatasetError where a prediction is missing or does not fit its reference.
    """
    made_of = _stamp(jobs, scorer)
    try:
        content = read_record(cache, KIND, FORMAT, "")
        if content["made_of"] == made_of:
            return tuple((case, label, dice, nsd) for case, label, dice, nsd in content["values"])
    except (RecordError, KeyError):
        pass  # none yet, or damaged: they are made again
    found = [value for values in run_in_processes(partial(_score, scorer), jobs, processes, title) for value in values]
    write_record(cache, KIND, FORMAT, {"made_of": made_of, "values": [list(value) for value in found]}, compact=True)
    return tuple(found)


def _score(scorer: Scorer, job: ScoringJob) -> list[Values]:
    return scorer.score(job)


def _stamp(jobs: list[ScoringJob], scorer: Scorer) -> str:
    """Checksum of names, sizes and times of all files, and of how they are scored."""
    files = [
        [job.case, *((stat.st_size, stat.st_mtime_ns) if (stat := _stat(path)) else (0, 0))]
        for job in jobs
        for path in (job.reference, job.prediction)
    ]
    return checksum([files, scorer.reader_writer, dict(scorer.labels), scorer.tolerance])


def _stat(path: Path) -> Any:
    return path.stat() if path.is_file() else None


def _or_none(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 - NaN differs from itself

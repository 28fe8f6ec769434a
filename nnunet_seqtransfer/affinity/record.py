"""The record of an affinity run: every distance, and everything it was made from."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.errors import RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import cache_folder, registered_datasets
from nnunet_seqtransfer.storage import read_record, replacing, write_record

FORMAT = 2
KIND = "affinity"


@dataclass(frozen=True)
class TaskEntry:
    """One task as it was when its distances were computed."""

    dataset: str
    "Full name."
    channels: tuple[str, ...]
    "Channel names."
    labels: tuple[str, ...]
    "Label names."
    labelled_cases: int
    "Labelled cases in the dataset."
    sampled_cases: tuple[str, ...]
    "Identifiers of the cases that were looked at."
    signature: str
    "Digest of its signature."
    registered: bool = True
    "Whether the dataset is on this machine; one that is known by its signature alone can be ranked, not trained on."


@dataclass(frozen=True)
class Affinity:
    """Distances between tasks: the sources, and last the target."""

    target: str
    "Full name of the target."
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    metric: str
    "Name of the metric."
    combination: Combination
    "How the components became the distance."
    calibration: str | None
    "Name of the calibration that the weights come from; None where they are the metric's own guesses."
    seed: int
    "Seed of the case sample and of the resamples."
    cases: int
    "Cases asked for per task; 0 where they were drawn until the ranking stood."
    tasks: tuple[TaskEntry, ...]
    "The sources in the order given, then the target."
    distances: tuple[tuple[float, ...], ...]
    "distances[i][j] from task i to task j."
    components: dict[str, tuple[tuple[float, ...], ...]] = field(repr=False)
    "Each component of the distance, in the same layout."
    matches: tuple[tuple[str, ...], ...] = field(repr=False)
    "For each source, in words, which of its channels and labels were compared with which of the target's."
    low: tuple[float, ...]
    "For each source the lower end of the 95 % bootstrap interval of its distance to the target, over cases."
    high: tuple[float, ...]
    "The upper end; as `low` infinite where there is none, since a task was looked at in one case alone."
    indistinct: tuple[bool, ...]
    "For each place of `ranking` but the last: whether the cases cannot tell its source from the next."
    version: str = __version__
    "Version of this package that made it."

    @property
    def unit(self) -> float:
        """A typical distance of this metric; planners divide by it."""
        return self.combination.unit

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of all tasks."""
        return tuple(task.dataset for task in self.tasks)

    @property
    def sources(self) -> tuple[str, ...]:
        """Full names of the sources."""
        return self.names[:-1]

    def matrix(self) -> NDArray[np.float64]:
        """Distances as an array of shape (tasks, tasks)."""
        return np.asarray(self.distances, dtype=np.float64)

    def ranking(self) -> tuple[int, ...]:
        """Indices of the sources, nearest to the target first; equal ones by name."""
        return tuple(sorted(range(len(self.sources)), key=lambda i: (self.distances[i][-1], self.names[i])))


def affinity_path(target: str, plans: str, configuration: str, metric: str) -> Path:
    """Where the affinity of a target is kept; a CSV and a PNG of the same name lie beside it."""
    return cache_folder(target) / f"affinity_{plans}_{configuration}_{metric}.json"


def write_affinity(path: Path, affinity: Affinity) -> None:
    """Writes a CSV for people, then the record beside it."""
    with replacing(path.with_suffix(".csv")) as aside, aside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        header = ["source", "distance_to_target", "low", "high", "like_next"]
        writer.writerow([*header, *affinity.components, "labelled_cases", "match"])
        for place, i in enumerate(affinity.ranking()):
            like_next = place < len(affinity.indistinct) and affinity.indistinct[place]
            distance = [affinity.distances[i][-1], affinity.low[i], affinity.high[i], "yes" if like_next else "no"]
            parts = [component[i][-1] for component in affinity.components.values()]
            match = "; ".join(affinity.matches[i])
            writer.writerow([affinity.names[i], *distance, *parts, affinity.tasks[i].labelled_cases, match])
    write_record(path, KIND, FORMAT, _to_json(asdict(affinity)), compact=True)


def read_affinity(path: Path) -> Affinity:
    """Reads a record. Raises RecordError where it is missing, truncated, edited, or of a newer format."""
    remedy = "run nnUNetv2_seq_affinity again"
    content = read_record(path, KIND, FORMAT, remedy)
    try:
        tasks = tuple(TaskEntry(**{k: _tuples(v) for k, v in task.items()}) for task in content.pop("tasks"))
        components = {name: _tuples(values) for name, values in content.pop("components").items()}
        combination = Combination.from_json(content.pop("combination"))
        calibration = content.pop("calibration")
        fields = {name: _tuples(value) for name, value in content.items()}
        return Affinity(tasks=tasks, components=components, combination=combination, calibration=calibration, **fields)
    except (TypeError, KeyError, AttributeError, ValueError, SeqTransferError) as error:
        raise RecordError(f"the affinity file lacks entries ({error}): {path}; {remedy}") from None


class MadeForTarget(Protocol):
    """A record of an affinity or of a plan, as far as `require_fitting` looks at it."""

    @property
    def target(self) -> str:
        """Full name of the target."""

    @property
    def plans(self) -> str:
        """Name of the target's plans."""

    @property
    def configuration(self) -> str:
        """nnU-Net configuration."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Full names of the sources."""


def require_fitting(record: MadeForTarget, path: Path, wanted: tuple[str, str, str], maker: str) -> None:
    """Raise RecordError if a record is not for the ``wanted`` target, plans and configuration, or names lost datasets.

    ``maker`` is the command that makes such a record.
    """
    remedy = f"run {maker} for this target"
    made_for = (record.target, record.plans, record.configuration)
    if made_for != wanted:
        raise RecordError(f"this file was made for {' '.join(made_for)}, not for {' '.join(wanted)}: {path}; {remedy}")
    elsewhere = {task.dataset for task in getattr(record, "tasks", ()) if not task.registered}
    lost = sorted(set(record.sources) - elsewhere - set(registered_datasets()))
    if lost:
        raise RecordError(
            f"this file names {lost[0]}, which is not registered any more: {path}; restore that dataset, or {remedy}"
        )


def _to_json(value: Any) -> Any:
    """Lists for tuples, and null for numbers that JSON does not have (no distance)."""
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    """The inverse of `_to_json` for lists of names and numbers."""
    if isinstance(value, list):
        return tuple(math.inf if item is None else _tuples(item) for item in value)
    return value

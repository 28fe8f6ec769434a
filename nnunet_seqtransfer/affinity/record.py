"""The files of an affinity: the record with every distance, a CSV for people, and the resampled distances."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.base import Counterparts, Pairs
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import cache_folder, registered_datasets
from nnunet_seqtransfer.storage import checksum, from_json, read_record, replacing, to_json, write_record

FORMAT = 3
KIND = "affinity"
RESAMPLES_FORMAT = 1
_REMEDY = "run nnUNetv2_seq_affinity again"
_MATRICES = ("distances", "components", "low", "high")
"""Fields that may hold infinity, which JSON lacks: null in the file."""


@dataclass(frozen=True)
class TaskEntry:
    """One task at the time when its distances were computed."""

    dataset: str
    "Full dataset name."
    channels: tuple[str, ...]
    "Input channel names."
    labels: tuple[str, ...]
    "Label or region names, without background."
    labelled_cases: int
    "Number of labelled cases in the dataset."
    sampled_cases: tuple[str, ...]
    "Identifiers of compared cases."
    signature: str
    "Signature digest."
    registered: bool = True
    "False if only the signature is on this machine: the task can be ranked but not trained on."


@dataclass(frozen=True)
class Affinity:
    """Distances between tasks: first the sources, then the target."""

    target: str
    "Target's full name."
    plans: str
    "Target's plans name."
    configuration: str
    "nnU-Net configuration."
    metric: str
    "Metric name."
    combination: Combination
    "Weights that turn the components into distances."
    seed: int
    "Seed of the case sample and of the resamples."
    cases: int
    "Cases requested per task; 0 means that cases were added until the order of the nearest sources was certain."
    tasks: tuple[TaskEntry, ...]
    "The sources in the order requested, then the target."
    distances: tuple[tuple[float, ...], ...]
    "distances[i][j]: distance from task i to task j; inf means no distance."
    components: dict[str, tuple[tuple[float, ...], ...]] = field(repr=False)
    "Each component by name, in the layout of `distances`."
    counterparts: tuple[Counterparts, ...] = field(repr=False)
    "For each source, the channels and labels that were compared with channels and labels of the target."
    low: tuple[float, ...]
    "For each source, the lower end of the 95 % bootstrap interval of its distance to the target; inf if unknown."
    high: tuple[float, ...]
    "For each source, the upper end; inf if unknown, because the source or the target has a single sampled case."
    indistinct: tuple[bool, ...]
    "indistinct[k]: True if the cases cannot separate the sources at ranks k and k + 1."
    version: str = __version__
    "Package version that wrote the record."

    @property
    def names(self) -> tuple[str, ...]:
        """Return all tasks by full name."""
        return tuple(task.dataset for task in self.tasks)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources by full name."""
        return self.names[:-1]

    def matrix(self) -> NDArray[np.float64]:
        """Return the distances as an array of shape (tasks, tasks)."""
        return np.asarray(self.distances, dtype=np.float64)

    def ranking(self) -> tuple[int, ...]:
        """Return the indices of the sources, nearest to the target first. Names break ties."""
        return tuple(sorted(range(len(self.sources)), key=lambda i: (self.distances[i][-1], self.names[i])))

    def compared_channels(self, source: str) -> Pairs:
        """Return the pairs of channels of a source and the target that were compared.

        Empty if the metric compares no channels, or if a channel name occurs twice in one of the two tasks.
        """
        index = self.names.index(source)
        channels = (self.tasks[index].channels, self.tasks[-1].channels)
        unique = all(len(set(names)) == len(names) for names in channels)
        return self.counterparts[index].channels if unique else ()


def affinity_path(target: str, plans: str, configuration: str, metric: str) -> Path:
    """Return the path of a target's affinity. The CSV and the NPZ have the same stem."""
    return cache_folder(target) / f"affinity_{plans}_{configuration}_{metric}.json"


def write_affinity(path: Path, affinity: Affinity) -> None:
    """Write a CSV for people, then the record."""
    with replacing(path.with_suffix(".csv")) as aside, aside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        header = ["source", "distance_to_target", "low", "high", "like_next"]
        writer.writerow([*header, *affinity.components, "labelled_cases", "match"])
        for rank, i in enumerate(affinity.ranking()):
            like_next = rank < len(affinity.indistinct) and affinity.indistinct[rank]
            distance = [affinity.distances[i][-1], affinity.low[i], affinity.high[i], "yes" if like_next else "no"]
            parts = [component[i][-1] for component in affinity.components.values()]
            pairs = (*affinity.counterparts[i].channels, *affinity.counterparts[i].labels)
            match = "; ".join(f"{mine} -> {theirs}" for mine, theirs in pairs)
            writer.writerow([affinity.names[i], *distance, *parts, affinity.tasks[i].labelled_cases, match])
    content = to_json(affinity)
    content |= {name: _each(content[name], lambda value: value if math.isfinite(value) else None) for name in _MATRICES}
    write_record(path, KIND, FORMAT, content, compact=True)


def read_affinity(path: Path) -> Affinity:
    """Read a record. Raises RecordError if it is missing, truncated, edited, or of another format."""
    content = read_record(path, KIND, FORMAT, _REMEDY)
    try:
        content |= {
            name: _each(content[name], lambda value: math.inf if value is None else value) for name in _MATRICES
        }
        if "matches" in content:
            content["counterparts"] = [_counterparts_of(words) for words in content["matches"]]
        return from_json(content, Affinity)
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"the affinity file was written by another version ({error}): {path}; {_REMEDY}") from None


def _counterparts_of(words: Sequence[str]) -> dict[str, Any]:
    """Return a source's counterparts from format 2, which kept sentences: channels and labels as one list of words."""
    # not told apart there, so no channel counts as compared: training then matches channels by name
    return {"labels": [text.split(" -> ") for text in words if text.count(" -> ") == 1]}


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested lists and dictionaries with every number in them changed."""
    if isinstance(value, dict):
        return {name: _each(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change) for item in value]
    return change(value)


def require_fitting(record: Any, path: Path, wanted: tuple[str, str, str], maker: str) -> None:
    """Raise RecordError if an affinity or a plan is not for the ``wanted`` target, plans and configuration.

    Also if it names a dataset that is not registered any more. ``maker`` is the command that makes such a record.
    """
    remedy = f"run {maker} for this target"
    made_for = (record.target, record.plans, record.configuration)
    if made_for != wanted:
        raise RecordError(f"this file was made for {' '.join(made_for)}, not for {' '.join(wanted)}: {path}; {remedy}")
    elsewhere = {task.dataset for task in getattr(record, "tasks", ()) if not task.registered}
    needed = set(getattr(record, "to_train", record.sources))  # a plan needs no data of the model that it begins with
    lost = sorted(needed - elsewhere - set(registered_datasets()))
    if lost:
        raise RecordError(
            f"this file names {lost[0]}, which is not registered any more: {path}; restore that dataset, or {remedy}"
        )


@dataclass(frozen=True, eq=False)
class Resamples:
    """Components of the distances between the nearest sources and the target, for B resamples of their cases."""

    tasks: tuple[int, ...]
    "Indices in `Affinity.tasks` of the m tasks that were resampled together, the target last."
    components: Mapping[str, NDArray[np.float32]] = field(repr=False)
    "Each component by name, shape (B, m, m)."

    def to_target(self, tasks: int) -> dict[str, NDArray[np.float64]]:
        """Return each component of the distances to the target, (B, tasks); NaN for tasks that were not resampled."""
        found = {name: np.full((len(values), tasks), np.nan) for name, values in self.components.items()}
        for name, values in self.components.items():
            found[name][:, list(self.tasks)] = values[:, :, -1]
        return found


def resamples_path(affinity_path: Path) -> Path:
    """Return the path of the resamples that belong to an affinity."""
    return affinity_path.with_suffix(".npz")


def write_resamples(affinity_path: Path, affinity: Affinity, resamples: Resamples) -> None:
    """Write the resamples next to the record of their affinity, as NPZ without pickle."""
    with replacing(resamples_path(affinity_path)) as aside:
        content: dict[str, Any] = {f"component/{name}": values for name, values in resamples.components.items()}
        content |= {"format": RESAMPLES_FORMAT, "belongs_to": _identity(affinity), "tasks": resamples.tasks}
        np.savez_compressed(aside, **content)


def read_resamples(affinity_path: Path, affinity: Affinity) -> Resamples | None:
    """Return the resamples of an affinity; None if there is no such file, as when only the record was copied.

    Raises RecordError if the file is damaged, of a newer format, or belongs to another affinity.
    """
    path = resamples_path(affinity_path)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            content: dict[str, Any] = {name: archive[name] for name in archive.files}
        found = int(content.pop("format"))
        if found > RESAMPLES_FORMAT:
            raise RecordError(
                f"the resampled distances have format {found}, this version reads up to {RESAMPLES_FORMAT}: {path}; "
                "update nnunet-seqtransfer"
            )
        identity = str(content.pop("belongs_to"))
        resamples = _checked_resamples(content, affinity)
    except RecordError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise all kinds of errors for a damaged file
        raise RecordError(
            f"the resampled distances are truncated or damaged ({type(error).__name__}): {path}; {_REMEDY}"
        ) from None
    if identity != _identity(affinity):
        raise RecordError(f"the resampled distances belong to another affinity than the record: {path}; {_REMEDY}")
    return resamples


def _checked_resamples(content: dict[str, Any], affinity: Affinity) -> Resamples:
    """Raise ValueError or KeyError if the entries do not fit each other, or the affinity."""
    tasks = tuple(int(task) for task in content.pop("tasks"))
    components = {name.removeprefix("component/"): values for name, values in content.items()}
    shapes, fits = {values.shape for values in components.values()}, components.keys() == affinity.components.keys()
    if (
        len(shapes) != 1
        or shapes.pop()[1:] != (len(tasks),) * 2
        or not fits
        or not {*tasks} <= {*range(len(affinity.tasks))}
    ):
        raise ValueError("the entries do not fit each other")
    return Resamples(tasks, components)


def _identity(affinity: Affinity) -> str:
    """Return a checksum of what resamples depend on: the signatures of all tasks, and the seed."""
    parts = [affinity.metric, affinity.seed, [task.signature for task in affinity.tasks]]
    return checksum(parts)[:16]

"""From tasks to signatures: the sampled cases of all tasks go through one pool of processes, once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import cache_folder, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import (
    CaseData,
    load_preprocessed_case,
    preprocess_case,
    preprocessed_cases,
    read_raw_case,
    read_raw_labels,
)
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum
from nnunet_seqtransfer.tasks.alignment import preprocessing_of, target_preprocessing_of
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature, read_signature, write_signature
from nnunet_seqtransfer.tasks.task import Task, sample_cases

_LOOKED_THROUGH = 8
"""Older signatures of a dataset that are searched for cases already profiled."""


def profile_tasks(
    requests: Sequence[ProfileRequest], metric: Profiler, processes: int
) -> tuple[Signature | SeqTransferError, ...]:
    """The signature of each request, from the cache where it is there, else computed and cached.

    Where a case cannot be read, or no sampled case of a task has a label, that task's place holds the error instead.
    """
    paths = [_path(request, metric) for request in requests]
    known: dict[Path, Signature | SeqTransferError] = {
        path: signature for path in paths if (signature := _cached(path)) is not None
    }
    missing = {path: request for request, path in zip(requests, paths, strict=True) if path not in known}
    found = {path: _profiles_of_older(request, metric) for path, request in missing.items()}
    _profile_missing(missing, found, metric, processes)
    for path, request in missing.items():
        known[path] = _finish(request, metric, found[path])
        if isinstance(made := known[path], Signature):
            write_signature(path, made)
    return tuple(known[path] for path in paths)


def has_signature(request: ProfileRequest, metric: Profiler) -> bool:
    """Whether the signature of a request is in the cache."""
    return _cached(_path(request, metric)) is not None


def _path(request: ProfileRequest, metric: Profiler) -> Path:
    return cache_folder(request.task.dataset) / f"signature_{metric.name}_{_digest(request, metric)[:16]}.npz"


def _digest(request: ProfileRequest, metric: Profiler) -> str:
    return checksum([request.base(metric), *zip(request.cases, request.stamps(), strict=True)])


def _cached(path: Path) -> Signature | None:
    """The signature in ``path``; a missing or damaged one is made again."""
    if not path.is_file():
        return None
    try:
        return read_signature(path)
    except RecordError:
        return None


def _profiles_of_older(request: ProfileRequest, metric: Profiler) -> Found:
    """Profiles of the wanted cases out of signatures of other samples, where neither they nor the rest has changed."""
    folder = cache_folder(request.task.dataset)
    paths = sorted(folder.glob(f"signature_{metric.name}_*.npz"), key=lambda path: -path.stat().st_mtime_ns)
    base, wanted = request.base(metric), dict(zip(request.cases, request.stamps(), strict=True))
    found: Found = {}
    for path in paths[:_LOOKED_THROUGH]:
        older = _cached(path)
        if older is not None and older.base == base:
            known = zip(older.cases, older.stamps, older.profiles, older.labelled, strict=True)
            found |= {
                case: CaseProfile(profile, labelled)
                for case, stamp, profile, labelled in known
                if wanted.get(case) == stamp
            }
    return found


def _profile_missing(
    missing: dict[Path, ProfileRequest], found: dict[Path, Found], metric: Profiler, processes: int
) -> None:
    """Completes ``found``. Tasks that share an image go together: it is read once, and a metric may remember it."""
    groups: dict[Any, list[tuple[Path, str]]] = {}
    for path, request in missing.items():
        for case in request.cases:
            if case not in found[path]:
                raw = request.task.raw.get(case)
                images = (
                    tuple(image.resolve() for image in raw.images) if raw and metric.view == "raw" else (path, case)
                )
                groups.setdefault(images, []).append((path, case))
    units = list(groups.values())
    jobs = [[(missing[path], case, metric) for path, case in unit] for unit in units]
    results = run_in_processes(_profile_job, jobs, processes, "Profiling cases")
    for unit, profiles in zip(units, results, strict=True):
        for (path, case), profile in zip(unit, profiles, strict=True):
            found[path][case] = profile


def _profile_job(job: list[tuple[ProfileRequest, str, Profiler]]) -> list[CaseProfile | SeqTransferError]:
    return [_profile_or_error(*entry) for entry in job]


def _profile_or_error(request: ProfileRequest, case: str, metric: Profiler) -> CaseProfile | SeqTransferError:
    try:
        return profile_case(request, case, metric)
    except SeqTransferError as error:
        return error


def _finish(request: ProfileRequest, metric: Profiler, found: Found) -> Signature | SeqTransferError:
    """The signature out of the profiles of all cases, or the first error."""
    errors = [result for case in request.cases if isinstance(result := found[case], SeqTransferError)]
    if errors:
        return errors[0]
    profiles = [result for case in request.cases if isinstance(result := found[case], CaseProfile)]
    task = request.task
    if not any(profile.labelled for profile in profiles):
        return DatasetError(
            f"{task.dataset}: none of the {len(profiles)} cases looked at has a voxel of its labels "
            f"{', '.join(task.labels)}; check labelsTr and the labels in dataset.json, or give a larger -n_cases"
        )
    channels = task.fingerprint["foreground_intensity_properties_per_channel"]
    return Signature(
        dataset=task.dataset,
        metric=metric.name,
        version=metric.version,
        digest=_digest(request, metric),
        base=request.base(metric),
        preprocessing=request.preprocessing(metric),
        channels=task.channels,
        labels=tuple(task.labels),
        labelled_cases=len(task.cases),
        cases=request.cases,
        stamps=request.stamps(),
        labelled=tuple(profile.labelled for profile in profiles),
        geometry=request.geometry(),
        intensities=np.asarray(
            [[channels[key][name] for name in INTENSITY_PROPERTIES] for key in sorted(channels, key=int)], dtype=float
        ),
        profiles=tuple(profile.arrays for profile in profiles),
    )


Labels = tuple[tuple[int, ...], ...]
"""For each label or region the values it consists of."""
View = Literal["raw", "preprocessed", "labels"]
"""Voxels as stored in nnUNet_raw; as the network will see them; or the labels alone, as stored, and no image.

Axes of the first are those of nnU-Net's readers, of the others those of preprocessed data.
"""


class Profiler(Protocol):
    """The half of a metric that looks at one case."""

    name: str
    "What users call the metric."
    version: int
    "Raised whenever profiles change, so that older signatures are not used."
    view: View
    "Which voxels it wants."

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Arrays that describe one case."""
        ...


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile of a task, and where its voxels come from."""

    task: Task
    plans: dict[str, Any]
    "Plans aligned to the target (for the target: its own)."
    configuration: str
    cases: tuple[str, ...]
    "Identifiers of the sampled cases."

    def base(self, metric: Profiler) -> str:
        """Checksum of all that the profile of a case depends on, but for the files of that case."""
        seen = {
            "preprocessed": preprocessing_of(self.plans, self.configuration),
            "raw": self.plans["image_reader_writer"],
            "labels": self.plans["image_reader_writer"],
        }
        return checksum(
            {
                "metric": [metric.name, metric.version],
                "preprocessing": seen[metric.view],
                "transposition": self.plans["transpose_forward"],
                "dataset_json": self.task.dataset_json,
                "fingerprint": checksum(self.task.fingerprint),
                "labelled_cases": len(self.task.cases),
            }
        )

    def stamps(self) -> tuple[str, ...]:
        """For each case a checksum of the name, size and time of its files: a changed file is looked at again."""
        return tuple(checksum([case, *self._files(case)])[:16] for case in self.cases)

    def preprocessing(self, metric: Profiler) -> str:
        """See `preprocessing_for`."""
        return preprocessing_for(metric.view, self.plans, self.configuration)

    def load(self, case: str, view: View) -> CaseData:
        """The voxels of one case: preprocessed data where they exist, else preprocessed in memory."""
        raw, reader = self.task.raw.get(case), self.plans["image_reader_writer"]
        folder = data_folder(self.task.dataset, self.plans, self.configuration)
        if view == "raw":
            if raw is None:
                raise DatasetError(f"{self.task.dataset} has no raw images of {case}; copy the dataset to nnUNet_raw")
            return read_raw_case(case, raw, reader)
        if view == "labels":
            labels = read_raw_labels(case, self._reference(case), reader).transpose(self.plans["transpose_forward"])
            return CaseData(np.zeros((0, *labels.shape), dtype=np.float32), labels)
        if case in preprocessed_cases(folder):
            return load_preprocessed_case(folder, case)
        if raw is None:
            raise DatasetError(
                f"{self.task.dataset} has no raw images of {case}, and it is not preprocessed as the target is; copy "
                "the dataset to nnUNet_raw"
            )
        return preprocess_case(case, raw, self.plans, self.configuration, self.task.dataset_json)

    def geometry(self) -> NDArray[np.float64]:
        """(cases, 2, axes) spacing and extent in mm, axes as preprocessed."""
        rows = [self.task.fingerprint_row(case) for case in self.cases]
        forward = self.plans["transpose_forward"]
        spacings = np.asarray(self.task.fingerprint["spacings"], dtype=float)[rows][:, forward]
        shapes = np.asarray(self.task.fingerprint["shapes_after_crop"], dtype=float)[rows][:, forward]
        return np.stack([spacings, shapes * spacings], axis=1)

    def _reference(self, case: str) -> Path:
        """The file of a case's labels: in nnUNet_raw, or the copy that nnU-Net keeps beside preprocessed data."""
        raw = self.task.raw.get(case)
        kept = preprocessed_folder() / self.task.dataset / "gt_segmentations"
        path = raw.label if raw else kept / f"{case}{self.task.dataset_json['file_ending']}"
        if not path.is_file():
            raise DatasetError(
                f"{self.task.dataset} has no labels of {case} in nnUNet_raw, and none in {kept}; copy the dataset to "
                "nnUNet_raw"
            )
        return path

    def _files(self, case: str) -> list[list[Any]]:
        raw = self.task.raw.get(case)
        if raw is None:
            folder = data_folder(self.task.dataset, self.plans, self.configuration)
            kept = folder.parent / "gt_segmentations"
            files: list[Path] = sorted([*folder.glob(f"{case}[._]*"), *kept.glob(f"{case}.*")])
        else:
            files = [*raw.images, raw.label]
        stats = [(path.name, path.stat()) for path in files]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


@dataclass(frozen=True)
class CaseProfile:
    """What was learnt from one case."""

    arrays: dict[str, NDArray[Any]]
    "The metric's."
    labelled: bool
    "Whether any voxel has one of the task's labels."


Found = dict[str, CaseProfile | SeqTransferError]
"""By case: what was learnt from it, or why it could not be looked at."""


def preprocessing_for(view: View, plans: dict[str, Any], configuration: str) -> str:
    """What a target's plans decide about the voxels of a view: a checksum, or of stored labels the order of axes."""
    if view == "raw":
        return "raw"
    if view == "labels":
        return "labels, axes " + " ".join(str(axis) for axis in plans["transpose_forward"])
    return checksum(target_preprocessing_of(plans, configuration))[:16]


def request_profile(
    task: Task, plans: dict[str, Any], configuration: str, case_count: int, seed: int
) -> ProfileRequest:
    """The request for at most ``case_count`` seeded cases of a task."""
    return ProfileRequest(task, plans, configuration, sample_cases(task.cases, case_count, seed))


def profile_case(request: ProfileRequest, case: str, metric: Profiler) -> CaseProfile:
    """Loads and profiles one case; runs in a worker process."""
    data = request.load(case, metric.view)
    if metric.view != "labels":
        _check_images(request, case, data)
    labels = tuple(request.task.labels.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # empty labels give NaN on purpose
        return CaseProfile(metric.profile(data, labels), _is_labelled(data, labels))


def _check_images(request: ProfileRequest, case: str, data: CaseData) -> None:
    if len(data.images) != len(request.task.channels):
        raise DatasetError(
            f"case {case} of {request.task.dataset} has {len(data.images)} channels, dataset.json names "
            f"{len(request.task.channels)}; correct dataset.json"
        )
    if not all(np.isfinite(image).all() for image in data.images):
        raise DatasetError(f"case {case} of {request.task.dataset} holds NaN or infinite intensities; repair its image")


def _is_labelled(data: CaseData, labels: Labels) -> bool:
    values = sorted({value for label in labels for value in label})
    return any(np.isin(part, values).any() for part in data.segmentation)  # slice by slice: np.isin takes 8 B a voxel

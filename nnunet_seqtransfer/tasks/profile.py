"""From tasks to signatures: the sampled cases of all tasks go through one pool of processes, once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.host.folders import cache_folder
from nnunet_seqtransfer.host.plans import data_folder
from nnunet_seqtransfer.host.preprocessing import (
    CaseData,
    load_preprocessed_case,
    preprocess_case,
    preprocessed_cases,
    read_raw_case,
)
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum
from nnunet_seqtransfer.tasks.alignment import preprocessing_of
from nnunet_seqtransfer.tasks.signature import Signature, read_signature, write_signature
from nnunet_seqtransfer.tasks.task import Task, sample_cases

Labels = tuple[tuple[int, ...], ...]
"""For each label or region the values it consists of."""


class Profiler(Protocol):
    """The half of a metric that looks at one case."""

    name: str
    "What users call the metric."
    version: int
    "Raised whenever profiles change, so that older signatures are not used."
    view: Literal["raw", "preprocessed"]
    "Which voxels it wants: as stored in nnUNet_raw, or as the network will see them."

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

    def digest(self, metric: Profiler) -> str:
        """Checksum of all that the signature depends on."""
        return checksum(
            {
                "metric": [metric.name, metric.version],
                "preprocessing": preprocessing_of(self.plans, self.configuration)
                if metric.view == "preprocessed"
                else self.plans["image_reader_writer"],
                "dataset_json": self.task.dataset_json,
                "fingerprint": checksum(self.task.fingerprint),
                "labelled_cases": len(self.task.cases),
                "files": [self._stamps(case) for case in self.cases],
                "cases": self.cases,
            }
        )

    def load(self, case: str, view: Literal["raw", "preprocessed"]) -> CaseData:
        """The voxels of one case: preprocessed data where they exist, else preprocessed in memory."""
        raw = self.task.raw.get(case)
        if view == "raw":
            if raw is None:
                raise DatasetError(f"{self.task.dataset} has no raw images of {case}; copy the dataset to nnUNet_raw")
            return read_raw_case(case, raw, self.plans["image_reader_writer"])
        folder = data_folder(self.task.dataset, self.plans, self.configuration)
        if case in preprocessed_cases(folder):
            return load_preprocessed_case(folder, case)
        if raw is None:
            raise DatasetError(
                f"{self.task.dataset} has no raw images of {case}, and it is not preprocessed as the target is; copy "
                "the dataset to nnUNet_raw"
            )
        return preprocess_case(case, raw, self.plans, self.configuration, self.task.dataset_json)

    def _stamps(self, case: str) -> list[Any]:
        """Size and time of each file of a case: a changed file makes a new signature."""
        raw = self.task.raw.get(case)
        if raw is None:
            folder = data_folder(self.task.dataset, self.plans, self.configuration)
            files: list[Path] = sorted(folder.glob(f"{case}[._]*"))
        else:
            files = [*raw.images, raw.label]
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


@dataclass(frozen=True)
class CaseProfile:
    """What was learnt from one case."""

    arrays: dict[str, NDArray[Any]]
    "The metric's."
    labelled: bool
    "Whether any voxel has one of the task's labels."


def request_profile(
    task: Task, plans: dict[str, Any], configuration: str, case_count: int, seed: int
) -> ProfileRequest:
    """The request for at most ``case_count`` seeded cases of a task."""
    return ProfileRequest(task, plans, configuration, sample_cases(task.cases, case_count, seed))


def profile_tasks(requests: Sequence[ProfileRequest], metric: Profiler, processes: int) -> tuple[Signature, ...]:
    """The signature of each request, from the cache where it is there, else computed and cached.

    Raises DatasetError where a case cannot be read, or no sampled case of a task has a label.
    """
    paths = [_path(request, metric) for request in requests]
    known = {path: signature for path in paths if (signature := _cached(path)) is not None}
    missing = [(request, path) for request, path in zip(requests, paths, strict=True) if path not in known]
    profiles = _profile_all([request for request, _ in missing], metric, processes)
    for (request, _), per_case in zip(missing, profiles, strict=True):
        _require_labels(request, per_case)
    for (request, path), per_case in zip(missing, profiles, strict=True):
        known[path] = _signature(request, metric, per_case)
        write_signature(path, known[path])
    return tuple(known[path] for path in paths)


def _path(request: ProfileRequest, metric: Profiler) -> Path:
    return cache_folder(request.task.dataset) / f"signature_{metric.name}_{request.digest(metric)[:16]}.npz"


def _cached(path: Path) -> Signature | None:
    """The signature in ``path``; a missing or damaged one is made again."""
    if not path.is_file():
        return None
    try:
        return read_signature(path)
    except RecordError:
        return None


def _require_labels(request: ProfileRequest, profiles: Sequence[CaseProfile]) -> None:
    if not any(profile.labelled for profile in profiles):
        raise DatasetError(
            f"{request.task.dataset}: none of the {len(profiles)} cases looked at has a voxel of its labels "
            f"{', '.join(request.task.labels)}; check labelsTr and the labels in dataset.json, or give a larger -cases"
        )


def _signature(request: ProfileRequest, metric: Profiler, profiles: Sequence[CaseProfile]) -> Signature:
    forward = request.plans["transpose_forward"]
    spacings = np.asarray(request.task.fingerprint["spacings"], dtype=float)[:, forward]
    shapes = np.asarray(request.task.fingerprint["shapes_after_crop"], dtype=float)[:, forward]
    return Signature(
        dataset=request.task.dataset,
        metric=metric.name,
        digest=request.digest(metric),
        channels=request.task.channels,
        labels=tuple(request.task.labels),
        labelled_cases=len(request.task.cases),
        cases=request.cases,
        spacing=tuple(float(value) for value in np.median(spacings, axis=0)),
        extent=tuple(float(value) for value in np.median(shapes * spacings, axis=0)),
        profiles=tuple(profile.arrays for profile in profiles),
    )


def _profile_all(requests: Sequence[ProfileRequest], metric: Profiler, processes: int) -> list[list[CaseProfile]]:
    units = [(index, case) for index, request in enumerate(requests) for case in request.cases]
    jobs = [(requests[index], case, metric) for index, case in units]
    profiles = run_in_processes(_profile_job, jobs, processes, "Profiling cases")
    found = dict(zip(units, profiles, strict=True))
    return [[found[index, case] for case in request.cases] for index, request in enumerate(requests)]


def _profile_job(job: tuple[ProfileRequest, str, Profiler]) -> CaseProfile:
    return profile_case(*job)


def profile_case(request: ProfileRequest, case: str, metric: Profiler) -> CaseProfile:
    """Loads and profiles one case; runs in a worker process."""
    data = request.load(case, metric.view)
    if len(data.images) != len(request.task.channels):
        raise DatasetError(
            f"case {case} of {request.task.dataset} has {len(data.images)} channels, dataset.json names "
            f"{len(request.task.channels)}; correct dataset.json"
        )
    if not np.isfinite(data.images).all():
        raise DatasetError(f"case {case} of {request.task.dataset} holds NaN or infinite intensities; repair its image")
    labels = tuple(request.task.labels.values())
    labelled = bool(np.isin(data.segmentation, [value for values in labels for value in values]).any())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # empty labels give NaN on purpose
        return CaseProfile(metric.profile(data, labels), labelled)

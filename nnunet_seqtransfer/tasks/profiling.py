"""From tasks to signatures: the sampled cases of all tasks go through one pool of processes, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.errors import DatasetError, RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum
from nnunet_seqtransfer.tasks.profile import CaseProfile, Profiler, ProfileRequest, profile_case
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature, read_signature, write_signature

_LOOKED_THROUGH = 8
"""Older signatures of a dataset that are searched for cases already profiled."""

Found = dict[str, CaseProfile | SeqTransferError]
"""By case: what was learnt from it, or why it could not be looked at."""


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
            f"{', '.join(task.labels)}; check labelsTr and the labels in dataset.json, or give a larger -cases"
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

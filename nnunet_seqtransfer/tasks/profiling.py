"""Turn tasks into signatures: read all sampled cases once, in one process pool."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, Problems, RecordError, SeqTransferError
from nnunet_seqtransfer.memory import available_memory
from nnunet_seqtransfer.nnunet import preprocessing
from nnunet_seqtransfer.nnunet.folders import cache_folder, preprocessed_folder
from nnunet_seqtransfer.nnunet.integrity import Declared
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.parallel import results_of
from nnunet_seqtransfer.storage import checksum, file_stats
from nnunet_seqtransfer.tasks.alignment import preprocessing_of, target_preprocessing_of
from nnunet_seqtransfer.tasks.check import MOST_LINES, size_problems
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature, read_signature, write_signature
from nnunet_seqtransfer.tasks.task import Task, sample_cases

PROFILE = 3
"""Time of preprocessing and profiling a case, divided by the time of reading it."""
_MAX_OLDER = 8
"""Maximum number of older signatures that are searched for profiled cases."""
Labels = tuple[tuple[int, ...], ...]
"""Label values per label or region."""
View = Literal["raw", "preprocessed"]
"""Voxels that a metric reads.

raw: as stored in nnUNet_raw, axes as nnU-Net's readers give them.
preprocessed: cropped, resampled and normalised, as the network will see them.
"""


class Profiler(Protocol):
    """Part that a metric applies to one case."""

    name: str
    "Metric name on the command line."
    version: int
    "Profile version; raise it whenever they change, so that older signatures are not used."
    view: View
    "Voxels that the metric needs."

    def profile(self, case: preprocessing.CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Return arrays that describe one case."""
        ...


@dataclass(frozen=True)
class CaseProfile:
    """Result for one case."""

    arrays: dict[str, NDArray[Any]]
    "Arrays that describe the case."
    labelled: bool
    "True if any voxel is labelled."


Profiles = dict[str, CaseProfile | SeqTransferError]
"""Case -> profile, or the reason that the case could not be read."""


@dataclass(frozen=True)
class ProfileRequest:
    """Cases to profile in one task."""

    task: Task
    "Task that the cases belong to."
    plans: dict[str, Any]
    "Plans aligned to the target; for the target, the target's plans."
    configuration: str
    "nnU-Net configuration."
    cases: tuple[str, ...]
    "Sampled case identifiers."

    def base(self, metric: Profiler) -> str:
        """Return a checksum over everything that a case's profile depends on, except the case files."""
        preprocessed = metric.view == "preprocessed"
        return checksum(
            {
                "metric": [metric.name, metric.version],
                "preprocessing": preprocessing_of(self.plans, self.configuration)
                if preprocessed
                else self.plans["image_reader_writer"],
                "transposition": self.plans["transpose_forward"],
                "dataset_json": self.task.dataset_json,
                "fingerprint": checksum(self.task.fingerprint),
                "labelled_cases": len(self.task.cases),
            }
        )

    def stamps(self) -> tuple[str, ...]:
        """Return a checksum per case over file names, sizes and times; a changed case is profiled again."""
        return tuple(checksum([case, *file_stats(self._files(case))])[:16] for case in self.cases)

    def load(self, case: str, view: View) -> preprocessing.CaseData:
        """Load one case and check it; preprocess in memory if there is no preprocessed copy."""
        raw, reader = self.task.raw.get(case), self.plans["image_reader_writer"]
        declared = Declared.by(self.task.dataset, self.task.dataset_json)
        if view == "preprocessed" and case in preprocessing.preprocessed_cases(self._data_folder):
            if raw is not None:  # nnU-Net's preprocessing has cut off fractions
                preprocessing.read_raw_labels(case, raw.label, reader, declared)
            data = preprocessing.load_preprocessed_case(self._data_folder, case)
            preprocessing.require_declared(case, data, declared)
            return data
        if raw is None:
            aligned = "" if view != "preprocessed" else ", and it is not preprocessed as the target is"
            raise DatasetError(
                f"{self.task.dataset} has no raw images of {case}{aligned}; copy the dataset to nnUNet_raw"
            )
        if view != "preprocessed":
            return preprocessing.read_raw_case(case, raw, reader, declared)
        return preprocessing.preprocess_case(case, raw, self.plans, self.configuration, self.task.dataset_json)

    def geometry(self) -> NDArray[np.float64]:
        """Return spacing and extent in mm, shape (cases, 2, axes), axes as preprocessed."""
        rows = [self.task.fingerprint_row(case) for case in self.cases]
        forward = self.plans["transpose_forward"]
        spacings = np.asarray(self.task.fingerprint["spacings"], dtype=float)[rows][:, forward]
        shapes = np.asarray(self.task.fingerprint["shapes_after_crop"], dtype=float)[rows][:, forward]
        return np.stack([spacings, shapes * spacings], axis=1)

    def size_problems(self) -> list[SeqTransferError]:
        """Return why cases that are not preprocessed yet do not fit at the target's spacing."""
        done = set(preprocessing.preprocessed_cases(self._data_folder))
        cases = [case for case in self.cases if case not in done]
        return size_problems(self.task, self.plans, self.configuration, cases, available_memory())

    @property
    def _data_folder(self) -> Path:
        return data_folder(self.task.dataset, self.plans, self.configuration)

    def _files(self, case: str) -> Sequence[Path]:
        raw = self.task.raw.get(case)
        if raw is not None:
            return raw.files
        copies = preprocessed_folder() / self.task.dataset / "gt_segmentations"
        return sorted([*self._data_folder.glob(f"{case}[._]*"), *copies.glob(f"{case}.*")])


def request_profile(
    task: Task, plans: dict[str, Any], configuration: str, case_count: int, seed: int
) -> ProfileRequest:
    """Return a request for at most ``case_count`` cases, drawn by ``seed``."""
    return ProfileRequest(task, plans, configuration, sample_cases(task.cases, case_count, seed))


def preprocessing_for(view: View, plans: dict[str, Any], configuration: str) -> str:
    """Return a text that identifies what the target's plans decide about voxels; only equal ones are comparable."""
    if view == "raw":
        return "raw"
    return checksum(target_preprocessing_of(plans, configuration))[:16]


def profile_tasks(
    requests: Sequence[ProfileRequest], metric: Profiler, processes: int
) -> tuple[Signature | SeqTransferError, ...]:
    """Return one signature per request, from the cache if possible; new ones are cached.

    If a case cannot be read, or no sampled case has a label, the task's entry is an error instead.
    """
    paths = [_path(request, metric) for request in requests]
    known: dict[Path, Signature | SeqTransferError] = {
        path: signature for path in paths if (signature := _cached(path)) is not None
    }
    missing = {path: request for request, path in zip(requests, paths, strict=True) if path not in known}
    for path, request in [*missing.items()]:
        if problems := request.size_problems():  # before anything is read
            known[path] = problems[0]
            del missing[path]
    for path, profiles in _complete_profiles(missing, metric, processes):
        known[path] = _signature_or_error(missing[path], metric, profiles)
        if isinstance(made := known[path], Signature):
            write_signature(path, made)
    return tuple(known[path] for path in paths)


def _path(request: ProfileRequest, metric: Profiler) -> Path:
    return cache_folder(request.task.dataset) / f"signature_{metric.name}_{_digest(request, metric)[:16]}.npz"


def _digest(request: ProfileRequest, metric: Profiler) -> str:
    return checksum([request.base(metric), *zip(request.cases, request.stamps(), strict=True)])


def _cached(path: Path) -> Signature | None:
    try:
        return read_signature(path) if path.is_file() else None
    except RecordError:  # a damaged signature is made again
        return None


def _older_profiles(request: ProfileRequest, metric: Profiler) -> Profiles:
    """Return profiles for the wanted cases from older samples, if neither the case nor anything else has changed."""
    folder = cache_folder(request.task.dataset)
    # newest first
    paths = sorted(folder.glob(f"signature_{metric.name}_*.npz"), key=lambda path: -path.stat().st_mtime_ns)
    base, wanted = request.base(metric), dict(zip(request.cases, request.stamps(), strict=True))
    profiles: Profiles = {}
    for path in paths[:_MAX_OLDER]:
        older = _cached(path)
        if older is not None and older.base == base:
            entries = zip(older.cases, older.stamps, older.profiles, older.labelled, strict=True)
            profiles |= {
                case: CaseProfile(arrays, labelled)
                for case, stamp, arrays, labelled in entries
                if wanted.get(case) == stamp
            }
    return profiles


def _complete_profiles(
    missing: dict[Path, ProfileRequest], metric: Profiler, processes: int
) -> Iterator[tuple[Path, Profiles]]:
    """Yield each signature's path and profiles once all cases are profiled, so that an interrupted run keeps them."""
    profiles = {path: _older_profiles(request, metric) for path, request in missing.items()}
    left = {path: len(request.cases) - len(profiles[path]) for path, request in missing.items()}
    yield from ((path, profiles[path]) for path, count in left.items() if count == 0)
    # Tasks that share an image form one job: the image is read once, and a metric may cache it.
    groups: dict[Any, list[tuple[Path, str]]] = {}
    for path, request in missing.items():
        for case in request.cases:
            if case not in profiles[path]:
                raw = request.task.raw.get(case)
                shared = raw is not None and metric.view != "preprocessed"
                # derived datasets reference the images of their original
                key = tuple(image.resolve() for image in raw.images) if raw and shared else (path, case)
                groups.setdefault(key, []).append((path, case))
    ordered = [*groups.values()]
    jobs = [[(missing[path], case, metric) for path, case in group] for group in ordered]
    files = [missing[path].task.raw.get(case) for (path, case), *_ in ordered]
    size = PROFILE * sum(case.size for case in files if case is not None)
    for index, made in results_of(_profile_job, jobs, processes, "Profiling cases", size):
        for (path, case), profile in zip(ordered[index], made, strict=True):
            profiles[path][case] = profile
            left[path] -= 1
            if left[path] == 0:
                yield path, profiles[path]


def _profile_job(job: list[tuple[ProfileRequest, str, Profiler]]) -> list[CaseProfile | SeqTransferError]:
    results: list[CaseProfile | SeqTransferError] = []
    for request, case, metric in job:
        try:
            results.append(profile_case(request, case, metric))
        except SeqTransferError as error:
            results.append(error)
    return results


def profile_case(request: ProfileRequest, case: str, metric: Profiler) -> CaseProfile:
    """Load and profile one case; runs in a worker process."""
    data = request.load(case, metric.view)
    labels = tuple(request.task.labels.values())
    # regions may share label values
    values = sorted({value for label in labels for value in label})
    # slice by slice, because np.isin takes 8 bytes per voxel
    labelled = any(np.isin(part, values).any() for part in data.segmentation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # empty labels give NaN on purpose
        return CaseProfile(metric.profile(data, labels), labelled)


def _signature_or_error(request: ProfileRequest, metric: Profiler, profiles: Profiles) -> Signature | SeqTransferError:
    results = [profiles[case] for case in request.cases]
    errors = [result for result in results if isinstance(result, SeqTransferError)]
    if errors:
        return errors[0] if len(errors) == 1 else Problems(errors[:MOST_LINES])
    cases = [result for result in results if isinstance(result, CaseProfile)]
    task = request.task
    if not any(case.labelled for case in cases):
        return DatasetError(
            f"{task.dataset}: none of the {len(cases)} cases looked at has a voxel of its labels "
            f"{', '.join(task.labels)}; check labelsTr and the labels in dataset.json, or give a larger -n_cases"
        )
    channels = task.fingerprint["foreground_intensity_properties_per_channel"]
    return Signature(
        dataset=task.dataset,
        metric=metric.name,
        version=metric.version,
        digest=_digest(request, metric),
        base=request.base(metric),
        preprocessing=preprocessing_for(metric.view, request.plans, request.configuration),
        channels=task.channels,
        labels=tuple(task.labels),
        labelled_cases=len(task.cases),
        cases=request.cases,
        stamps=request.stamps(),
        labelled=tuple(case.labelled for case in cases),
        geometry=request.geometry(),
        intensities=np.asarray(
            [[channels[key][name] for name in INTENSITY_PROPERTIES] for key in sorted(channels, key=int)], dtype=float
        ),
        profiles=tuple(case.arrays for case in cases),
    )

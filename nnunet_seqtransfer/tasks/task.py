"""A task: one registered dataset, with the channels, labels and cases that nnU-Net sees in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_seqtransfer.errors import DatasetError, SeqTransferError
from nnunet_seqtransfer.nnunet.datasets import (
    RawCase,
    channel_names,
    foreground_labels,
    raw_cases,
    read_dataset_json,
)
from nnunet_seqtransfer.nnunet.fingerprints import extract_fingerprints, has_fingerprint, read_fingerprint
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases


@dataclass(frozen=True)
class Task:
    """A registered dataset; see `load_tasks`."""

    dataset: str
    "Full name, such as Dataset004_Hippocampus."
    dataset_json: dict[str, Any]
    "As nnU-Net reads it."
    fingerprint: dict[str, Any]
    "nnU-Net's dataset fingerprint."
    raw: dict[str, RawCase]
    "Identifier -> files of the labelled cases; empty where only preprocessed data are at hand."
    cases: tuple[str, ...]
    "Identifiers of all labelled cases, sorted."

    @property
    def number(self) -> int:
        """The dataset's number, 4 for Dataset004_Hippocampus."""
        return dataset_id(self.dataset)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels."""
        return channel_names(self.dataset_json)

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Label or region name -> the label values it consists of, background and ignore label left out."""
        return foreground_labels(self.dataset_json)

    @property
    def is_planar(self) -> bool:
        """Whether its images are 2-D: every case has one slice along the first axis, as nnU-Net stores 2-D images."""
        return all(shape[0] == 1 for shape in self.fingerprint["shapes_after_crop"])

    def fingerprint_row(self, case: str) -> int:
        """The place of a case in the fingerprint's lists, which follow nnU-Net's own order of the cases."""
        return (list(self.raw) or list(self.cases)).index(case)


def load_tasks(
    datasets: Sequence[str], processes: int, notify: Callable[[str], None], *, extract: bool = True
) -> list[Task]:
    """Reads what nnU-Net knows of each dataset; has fingerprints extracted where they are missing, announced.

    Raises DatasetError or RecordError, naming the file, where a dataset is incomplete or broken, and where a
    fingerprint is missing and ``extract`` is False.
    """
    for name in datasets:  # what exists is checked before anything is extracted
        _known_task(name, extract=extract)
    loaded = load_each(datasets, processes, notify)
    errors = [result for result in loaded if isinstance(result, SeqTransferError)]
    if errors:
        raise errors[0]
    return [result for result in loaded if isinstance(result, Task)]


def load_each(datasets: Sequence[str], processes: int, notify: Callable[[str], None]) -> list[Task | SeqTransferError]:
    """As `load_tasks`, but the place of a dataset that cannot be loaded holds the error, and the others are loaded."""
    loaded: dict[str, Task | SeqTransferError | None] = {}
    for name in datasets:
        try:
            loaded[name] = _known_task(name)
        except SeqTransferError as error:
            loaded[name] = error
    missing = [name for name, task in loaded.items() if task is None]
    for name in missing:
        notify(f"extracting the fingerprint of {name}, which has none yet (once)")
    failed = extract_fingerprints(missing, processes) if missing else {}
    for name in missing:
        try:
            loaded[name] = failed.get(name) or load_task(name)
        except SeqTransferError as error:
            loaded[name] = error
    return [task for name in datasets if (task := loaded[name]) is not None]


def _known_task(name: str, *, extract: bool = True) -> Task | None:
    """The task of a dataset that has a fingerprint, None where one can be extracted. Raises as `load_tasks`."""
    parts = _read_parts(name)
    if has_fingerprint(name):
        return _task(name, *parts)
    if not parts[1]:
        raise DatasetError(f"{name} has neither raw images nor a fingerprint; copy it to nnUNet_raw")
    if not extract:
        raise DatasetError(
            f"{name} has no fingerprint yet, and --dry_run writes nothing; "
            f"run nnUNetv2_extract_fingerprint -d {dataset_id(name)} first"
        )
    return None


def load_task(dataset: str) -> Task:
    """One dataset that has a fingerprint; see `load_tasks`."""
    return _task(dataset, *_read_parts(dataset))


def _read_parts(dataset: str) -> tuple[dict[str, Any], dict[str, RawCase]]:
    dataset_json = read_dataset_json(dataset)
    return dataset_json, raw_cases(dataset, dataset_json)


def _task(dataset: str, dataset_json: dict[str, Any], raw: dict[str, RawCase]) -> Task:
    fingerprint = read_fingerprint(dataset)
    cases = tuple(sorted(raw)) or _cases_on_disk(dataset)
    if raw and len(fingerprint["spacings"]) != len(cases):
        raise DatasetError(
            f"the fingerprint of {dataset} was made of {len(fingerprint['spacings'])} cases, now there are "
            f"{len(cases)}; run nnUNetv2_extract_fingerprint -d {dataset_id(dataset)} --clean"
        )
    if len(fingerprint["foreground_intensity_properties_per_channel"]) != len(channel_names(dataset_json)):
        raise DatasetError(
            f"the fingerprint of {dataset} has other channels than its dataset.json; correct channel_names, or run "
            f"nnUNetv2_extract_fingerprint -d {dataset_id(dataset)} --clean"
        )
    if not cases:
        raise DatasetError(f"{dataset} has neither raw images nor preprocessed cases; copy it to nnUNet_raw")
    return Task(dataset, dataset_json, fingerprint, raw, cases)


def _cases_on_disk(dataset: str) -> tuple[str, ...]:
    """Cases of a dataset without raw data: those of any folder of preprocessed data."""
    folders = (entry for entry in (preprocessed_folder() / dataset).iterdir() if entry.is_dir())
    return max((preprocessed_cases(folder) for folder in folders), key=len, default=())


def sample_cases(cases: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    """At most ``count`` of the identifiers, drawn by ``seed``, sorted.

    Each identifier's place in the draw depends on itself and the seed alone. So tasks that share patients (equal
    identifiers) draw the same ones, and a case more in a dataset exchanges at most one of the drawn.
    """
    drawn = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).digest())
    return tuple(sorted(drawn[:count]))


def load_target(name: str, plans_name: str, configuration: str) -> tuple[Task, dict[str, Any]]:
    """The target and its plans. Raises DatasetError where it is not planned and preprocessed for the configuration."""
    plans = read_plans(name, plans_name, configuration)
    folder = data_folder(name, plans, configuration)
    command = f"nnUNetv2_plan_and_preprocess -d {dataset_id(name)} -c {configuration}"
    if not has_fingerprint(name):
        raise DatasetError(f"{name} has plans but no fingerprint; run {command}")
    task = load_task(name)
    missing = sorted(set(task.cases) - set(preprocessed_cases(folder)))
    if missing or not task.cases:
        raise DatasetError(
            f"{name} is not preprocessed for {configuration}: {len(missing)} of {len(task.cases)} cases are missing "
            f"or incomplete in {folder}; run {command}"
        )
    return task, plans


def named_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Full names of the sources. Raises DatasetError for the target among them, a repetition, or an unknown one."""
    names = tuple(dataset_name(source) for source in sources)
    if target in names:
        raise DatasetError(f"the target {target} is among its sources; leave it out of -s")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DatasetError(f"{repeated[0]} is named more than once among the sources; name it once")
    return names

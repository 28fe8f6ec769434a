"""Load tasks: a task is a registered dataset with the channels, labels and cases that nnU-Net sees in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, collecting, raise_collected
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
    "Parsed dataset.json."
    fingerprint: dict[str, Any]
    "nnU-Net's dataset fingerprint."
    raw: dict[str, RawCase]
    "Identifier -> files for each labelled case; empty if only preprocessed data exist."
    cases: tuple[str, ...]
    "All labelled case identifiers, sorted."

    @property
    def number(self) -> int:
        """Return the dataset number, 4 for Dataset004_Hippocampus."""
        return dataset_id(self.dataset)

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the input channel names."""
        return channel_names(self.dataset_json)

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Return label or region name -> label values, without background and the ignore label."""
        return foreground_labels(self.dataset_json)

    @property
    def is_planar(self) -> bool:
        """Return True for 2-D images: nnU-Net stores them with one slice along the first axis."""
        return all(shape[0] == 1 for shape in self.fingerprint["shapes_after_crop"])

    def fingerprint_row(self, case: str) -> int:
        """Return a case's index in the fingerprint's lists, which follow nnU-Net's case order."""
        # `cases` is sorted; nnU-Net keeps the order of dataset.json if that lists the cases
        return (list(self.raw) or list(self.cases)).index(case)


def load_target(name: str, plans_name: str, configuration: str) -> tuple[Task, dict[str, Any]]:
    """Load the target and the target's plans. Call it once per process and pass both on.

    Raises DatasetError or RecordError if the target is not planned and preprocessed for the configuration.
    """
    plans = read_plans(name, plans_name, configuration)
    folder = data_folder(name, plans, configuration)
    command = f"nnUNetv2_plan_and_preprocess -d {dataset_id(name)} -c {configuration}"
    if not has_fingerprint(name):
        raise DatasetError(f"{name} has plans but no fingerprint; run {command}")
    # a missing case would change nnU-Net's folds
    task = load_task(name)
    missing = sorted(set(task.cases) - set(preprocessed_cases(folder)))
    if missing or not task.cases:
        raise DatasetError(
            f"{name} is not preprocessed for {configuration}: {len(missing)} of {len(task.cases)} cases are missing "
            f"or incomplete in {folder}; run {command}"
        )
    return task, plans


def named_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Return the sources' full names. Raises if one is unknown, given twice, or the target itself."""
    names: list[str] = []
    errors: list[SeqTransferError] = []
    for source in sources:
        with collecting(errors):
            name = dataset_name(source)
            if name == target:
                raise DatasetError(f"the target {target} is among its sources; leave it out of -s")
            if name in names:
                raise DatasetError(f"{name} is named more than once among the sources; name it once")
            names.append(name)
    raise_collected(errors)
    return tuple(names)


def load_tasks(datasets: Sequence[str], context: Context, *, extract: bool = True) -> list[Task]:
    """Load datasets, and extract missing fingerprints.

    Raises DatasetError, RecordError or Problems if datasets are incomplete or broken, or if a fingerprint is missing
    and ``extract`` is False.
    """
    errors: list[SeqTransferError] = []
    for name in datasets:  # all checks come first: an extraction may take minutes
        with collecting(errors):
            _known_task(name, extract=extract)
    raise_collected(errors)
    loaded = load_each(datasets, context)
    raise_collected([result for result in loaded if isinstance(result, SeqTransferError)])
    return [result for result in loaded if isinstance(result, Task)]


def load_each(datasets: Sequence[str], context: Context) -> list[Task | SeqTransferError]:
    """Load datasets like `load_tasks`, but return an error for each dataset that cannot be loaded."""
    loaded: dict[str, Task | SeqTransferError | None] = {}
    for name in datasets:
        try:
            loaded[name] = _known_task(name)
        except SeqTransferError as error:
            loaded[name] = error
    missing = [name for name, task in loaded.items() if task is None]
    for name in missing:
        context.notify(f"extracting the fingerprint of {name}, which has none yet (once)")
    failed = extract_fingerprints(missing, context.processes) if missing else {}
    for name in missing:
        try:
            loaded[name] = failed.get(name) or load_task(name)
        except SeqTransferError as error:
            loaded[name] = error
    return [task for name in datasets if (task := loaded[name]) is not None]


def _known_task(name: str, *, extract: bool = True) -> Task | None:
    """Load a dataset that has a fingerprint, or return None if it can be extracted. Raises as `load_tasks`."""
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
    """Load one dataset that has a fingerprint; see `load_tasks`."""
    return _task(dataset, *_read_parts(dataset))


def _read_parts(dataset: str) -> tuple[dict[str, Any], dict[str, RawCase]]:
    dataset_json = read_dataset_json(dataset)
    return dataset_json, raw_cases(dataset, dataset_json)


def _task(dataset: str, dataset_json: dict[str, Any], raw: dict[str, RawCase]) -> Task:
    fingerprint = read_fingerprint(dataset)
    cases = tuple(sorted(raw)) or _preprocessed_only(dataset)
    again = f"nnUNetv2_extract_fingerprint -d {dataset_id(dataset)} --clean"
    # Without raw data the fingerprint may count cases that were never copied here.
    if raw and len(fingerprint["spacings"]) != len(cases):
        raise DatasetError(
            f"the fingerprint of {dataset} was made of {len(fingerprint['spacings'])} cases, now there are "
            f"{len(cases)}; run {again}"
        )
    if len(fingerprint["foreground_intensity_properties_per_channel"]) != len(channel_names(dataset_json)):
        raise DatasetError(
            f"the fingerprint of {dataset} has other channels than its dataset.json; correct channel_names, or run "
            f"{again}"
        )
    if not cases:
        raise DatasetError(f"{dataset} has neither raw images nor preprocessed cases; copy it to nnUNet_raw")
    return Task(dataset, dataset_json, fingerprint, raw, cases)


def _preprocessed_only(dataset: str) -> tuple[str, ...]:
    """Return the cases in the fullest preprocessed folder."""
    folders = (entry for entry in (preprocessed_folder() / dataset).iterdir() if entry.is_dir())
    return max((preprocessed_cases(folder) for folder in folders), key=len, default=())


def sample_cases(cases: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    """Draw at most ``count`` identifiers by ``seed``, sorted.

    An identifier's rank depends only on itself and the seed. So tasks with the same patients (equal
    identifiers) draw the same cases, and one more case in a dataset exchanges at most one drawn case.
    """
    # a hash per case instead of a random generator, which would depend on the other cases
    drawn = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).digest())
    return tuple(sorted(drawn[:count]))

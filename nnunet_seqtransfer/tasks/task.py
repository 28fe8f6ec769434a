"""Load tasks: a task is a registered dataset with the channels, labels and cases that nnU-Net sees in it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.nnunet import fingerprints
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder, dataset_id, preprocessed_folder
from nnunet_seqtransfer.nnunet.image_formats import is_planar_file, reader_writer
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import fullest_folder, preprocessed_cases
from nnunet_seqtransfer.parallel import results_of
from nnunet_seqtransfer.storage import checksum, file_stats, found_record, write_record

SAMPLE_KIND = "fingerprint-sample"
SAMPLE_FORMAT = 1
WHOLE_BYTES = 50e6
"""Size of a dataset, in bytes, up to which an affinity reads all cases: 10 s on one core."""


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
        """Return a case's index in the fingerprint's lists: the sampled cases, or all in nnU-Net's order."""
        # `cases` is sorted; nnU-Net keeps the order of dataset.json if that lists the cases
        return (self.fingerprint.get("cases") or list(self.raw) or list(self.cases)).index(case)


def load_target(name: str, plans_name: str, configuration: str) -> tuple[Task, dict[str, Any]]:
    """Load the target and the target's plans. Call it once per process and pass both on.

    Raises DatasetError or RecordError if the target is not planned and preprocessed for the configuration.
    """
    plans = read_plans(name, plans_name, configuration)
    folder = data_folder(name, plans, configuration)
    command = f"nnUNetv2_plan_and_preprocess -d {dataset_id(name)} -c {configuration}"
    if not fingerprints.has_fingerprint(name):
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


def load_tasks(datasets: Sequence[str], context: Context) -> list[Task]:
    """Load datasets, and extract missing fingerprints.

    Raises DatasetError, RecordError or Problems if datasets are incomplete or broken.
    """
    errors: list[SeqTransferError] = []
    for name in datasets:  # all checks come first: an extraction may take minutes
        with collecting(errors):
            _known_task(name)
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
    failed = fingerprints.extract_fingerprints(missing, context.processes)
    for name in missing:
        try:
            loaded[name] = failed.get(name) or load_task(name)
        except SeqTransferError as error:
            loaded[name] = error
    return [task for name in datasets if (task := loaded[name]) is not None]


def load_sampled(datasets: Sequence[str], count: int, seed: int, context: Context) -> list[Task | SeqTransferError]:
    """Load sources like `load_each`, but read only ``count`` sampled cases of large ones without a fingerprint.

    The fingerprint of such a task covers the sample. nnU-Net's own fingerprint is extracted before a training, for
    datasets that `is_read_whole`, and for those with a CT channel, because CT normalisation needs the statistics of
    all cases.
    """
    sampled: dict[str, Task | SeqTransferError] = {}
    jobs: list[tuple[str, str, RawCase, str]] = []
    for name in datasets:
        try:
            content, raw = _read_parts(name)
            if fingerprints.has_fingerprint(name) or not raw or is_read_whole(raw) or fingerprints.has_ct(content):
                continue
            cases = sample_cases(tuple(sorted(raw)), count, seed)
            kept = _kept_sample(name, content, raw, cases)
            if kept is not None:
                sampled[name] = kept
            else:
                reader = reader_writer(content, raw[cases[0]].images[0])
                jobs += [(name, case, raw[case], reader) for case in cases]
        except SeqTransferError as error:
            sampled[name] = error
    found: dict[str, dict[str, fingerprints.CaseAnalysis | DatasetError]] = {}
    work = [(name, files, reader, fingerprints.SAMPLES) for name, _, files, reader in jobs]
    size = sum(files.size for _, files, *_ in work)
    for index, analysis in results_of(fingerprints.analyse_case, work, context.processes, "Sampling cases", size):
        name, case, *_ = jobs[index]
        found.setdefault(name, {})[case] = analysis
        if len(found[name]) == sum(job[0] == name for job in jobs):
            sampled[name] = _sampled_task(name, dict(sorted(found[name].items())))
    others = [name for name in datasets if name not in sampled]
    loaded = dict(zip(others, load_each(others, context), strict=True)) | sampled
    return [loaded[name] for name in datasets]


def is_read_whole(cases: Mapping[str, RawCase]) -> bool:
    """Return True if an affinity reads all cases because they are small: all later commands then start at once."""
    return sum(case.size for case in cases.values()) <= WHOLE_BYTES


def is_planar_dataset(dataset: str) -> bool | None:
    """Return True for 2-D images and False for volumes, from fingerprint or one header; None if neither tells.

    Raises DatasetError or RecordError if the dataset is incomplete or broken.
    """
    if fingerprints.has_fingerprint(dataset):
        return all(shape[0] == 1 for shape in fingerprints.read_fingerprint(dataset)["shapes_after_crop"])
    cases = _read_parts(dataset)[1]
    return is_planar_file(next(iter(cases.values())).images[0]) if cases else None


def other_dimension(source: str, planar: bool, target: str) -> DatasetError:
    """Return the error for a source with 2-D images and a target with volumes, or the reverse."""
    kinds = {True: "2-D images", False: "volumes"}
    return DatasetError(
        f"{source} has {kinds[planar]}, the target {target} has {kinds[not planar]}; leave it out of -s"
    )


def _sampled_task(name: str, found: dict[str, fingerprints.CaseAnalysis | DatasetError]) -> Task | SeqTransferError:
    """Build a task from the analyses of the sampled cases and keep the fingerprint; or return the first error."""
    try:
        fingerprint = {"cases": list(found), **fingerprints.fingerprint_of([*found.values()], name)}
    except DatasetError as error:
        return error
    content, raw = _read_parts(name)
    kept = {"depends_on": _sample_key(content, raw, tuple(found)), "fingerprint": fingerprint}
    write_record(_sample_path(name), SAMPLE_KIND, SAMPLE_FORMAT, kept)
    return Task(name, content, fingerprint, raw, tuple(sorted(raw)))


def _kept_sample(name: str, content: dict[str, Any], raw: dict[str, RawCase], cases: tuple[str, ...]) -> Task | None:
    """Return the task from an earlier sample if the cases, their files and dataset.json are the same."""
    kept = found_record(_sample_path(name), SAMPLE_KIND, SAMPLE_FORMAT)
    if kept.get("depends_on") != _sample_key(content, raw, cases):
        return None
    return Task(name, content, kept["fingerprint"], raw, tuple(sorted(raw)))


def _sample_path(name: str) -> Path:
    return cache_folder(name) / "fingerprint_sample.json"


def _sample_key(content: dict[str, Any], raw: dict[str, RawCase], cases: tuple[str, ...]) -> str:
    return checksum([content, *file_stats(path for case in cases for path in raw[case].files)])


def _known_task(name: str) -> Task | None:
    """Load a dataset that has a fingerprint, or return None if it can be extracted. Raises as `load_tasks`."""
    parts = _read_parts(name)
    if fingerprints.has_fingerprint(name):
        return _task(name, *parts)
    if not parts[1]:
        raise DatasetError(f"{name} has neither raw images nor a fingerprint; copy it to nnUNet_raw")
    return None


def load_task(dataset: str) -> Task:
    """Load one dataset that has a fingerprint; see `load_tasks`."""
    return _task(dataset, *_read_parts(dataset))


def _read_parts(dataset: str) -> tuple[dict[str, Any], dict[str, RawCase]]:
    dataset_json = read_dataset_json(dataset)
    return dataset_json, raw_cases(dataset, dataset_json)


def _task(dataset: str, dataset_json: dict[str, Any], raw: dict[str, RawCase]) -> Task:
    fingerprint = fingerprints.read_fingerprint(dataset)
    cases = tuple(sorted(raw)) or fullest_folder(preprocessed_folder() / dataset)[1]
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


def sample_cases(cases: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    """Draw at most ``count`` identifiers by ``seed``, sorted.

    An identifier's rank depends only on itself and the seed. So tasks with the same patients (equal
    identifiers) draw the same cases, and one more case in a dataset exchanges at most one drawn case.
    """
    # a hash per case instead of a random generator, which would depend on the other cases
    drawn = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).digest())
    return tuple(sorted(drawn[:count]))

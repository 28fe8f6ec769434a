"""Derive datasets: keep some channels, labels or cases from a registered dataset and register the result.

Images are referenced, not copied. Label files are rewritten only if label values change.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, read_dataset_json, reference_from
from nnunet_seqtransfer.nnunet.folders import dataset_id, datasets_with_number, find_name, raw_folder
from nnunet_seqtransfer.nnunet.image_formats import LabelJob, reader_writer, rewrite_label_file
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import read_record, write_json, write_record
from nnunet_seqtransfer.tasks.case_table import TABLE_NAME, CaseTable, read_case_table, select_cases, write_case_table
from nnunet_seqtransfer.tasks.check import check_dataset
from nnunet_seqtransfer.tasks.label_choice import LabelChoice, choose_labels
from nnunet_seqtransfer.tasks.task import sample_cases

RECORD_NAME = "derived.json"
RECORD_KIND = "derivation"
RECORD_FORMAT = 1
LABELS = "labelsTr"
"""Folder for rewritten label files."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MAX_NUMBER = 999
_STALE_ENTRIES = ("modality", "regions_class_order", "training", "test", "numTest")
"""Original dataset.json entries that are rewritten, or that list cases which the derived dataset lacks."""


@dataclass(frozen=True)
class DeriveRequest:
    """Request for `derive_dataset`. An empty tuple keeps everything."""

    origin: str
    "Original dataset, full name."
    number: int
    "New dataset number, 1 to 999."
    name: str
    "New dataset name without the number: letters, digits, - and _."
    channels: tuple[str, ...] = ()
    "Channels to keep, in their new order."
    labels: tuple[str, ...] = ()
    'Labels or regions to keep, and merges such as "whole=necrosis+edema" or "whole=1+2".'
    conditions: tuple[str, ...] = ()
    'Conditions on the case table; a case must meet all: "site=01", "site=01,02".'
    cases: tuple[str, ...] = ()
    "Case identifiers to choose from."
    most: int | None = None
    "Draw at most this many cases by ``seed``."
    seed: int = 0
    "Seed for the draw, see `sample_cases`."
    table: Path | None = None
    "Case table; None for cases.csv next to the original dataset.json."
    table_key: str | None = None
    "Identifier column in the table; None for the column named case, or else the first."


@dataclass(frozen=True)
class Derivation:
    """A derived dataset, planned or registered; see `plan_derivation`."""

    dataset: str
    "Full name, such as Dataset501_X."
    origin: str
    "Original dataset, full name."
    channels: tuple[str, ...]
    "Channels in order."
    labels: LabelChoice
    "Labels, and how label values change."
    cases: dict[str, RawCase]
    "Identifier -> kept image files and the original label file."
    origin_cases: int
    "Case count in the original dataset."
    dataset_json: dict[str, Any]
    'New dataset.json; the entry "dataset" references the images.'
    table: CaseTable | None
    "Case table to write next to dataset.json."

    @property
    def folder(self) -> Path:
        """Return the dataset's folder in nnUNet_raw."""
        return raw_folder() / self.dataset


def derive_dataset(request: DeriveRequest, context: Context) -> Derivation:
    """Register a derived dataset in nnUNet_raw unless it exists.

    The dataset is built in the hidden folder ``.derive_DATASET`` and renamed last, so no one sees half a dataset.
    Raises as `plan_derivation` and `is_finished`, and DatasetError if a label file cannot be used; nothing is left
    behind then.
    """
    derivation = plan_derivation(request, context.notify)
    if is_finished(derivation):
        context.notify(f"{derivation.dataset} exists already, derived in the same way")
    else:
        check_dataset(derivation.origin, context, derivation.cases)
        _make(derivation, context.processes)
    return derivation


def plan_derivation(request: DeriveRequest, notify: Notify) -> Derivation:
    """Return the dataset that a request describes. Nothing is written and no image is read.

    Raises DatasetError or Problems if the original is incomplete or lacks what is requested, if nnU-Net does not allow
    the number or name, or if channels are left out although one file holds several.
    """
    origin_json = read_dataset_json(request.origin)
    raw = raw_cases(request.origin, origin_json)
    if not raw:
        raise DatasetError(f"{request.origin} has no raw images to reference; copy it to nnUNet_raw")
    names = channel_names(origin_json)
    errors: list[SeqTransferError] = []
    with collecting(errors):
        dataset = _dataset_name(request)
    with collecting(errors):
        labels = choose_labels(origin_json, request.labels, request.origin)
    with collecting(errors):
        kept = _kept_channels(request, names)
    with collecting(errors):
        table, chosen = _choose_cases(request, raw, notify)
    raise_collected(errors)
    cases = {case: RawCase(_images(raw[case], kept, names, request), raw[case].label) for case in chosen}
    channels = tuple(names[index] for index in kept)
    dataset_json = _dataset_json(dataset, origin_json, channels, labels, cases)
    return Derivation(dataset, request.origin, channels, labels, cases, len(raw), dataset_json, table)


def _dataset_name(request: DeriveRequest) -> str:
    if not _NAME.fullmatch(request.name) or not 1 <= request.number <= _MAX_NUMBER:
        raise DatasetError(
            f"no dataset can be named {request.name!r} with number {request.number}; use letters, digits, - and _, "
            f"100 at most, and a number from 1 to {_MAX_NUMBER}"
        )
    return f"Dataset{request.number:03d}_{request.name}"


def _kept_channels(request: DeriveRequest, names: tuple[str, ...]) -> list[int]:
    """Return the indices of the channels to keep, in their new order."""
    kept = [find_name(channel, names, f"channel of {request.origin}") for channel in request.channels]
    if len(set(kept)) < len(kept):
        raise DatasetError(f"-channels {' '.join(request.channels)} names a channel twice; name each once")
    return kept or list(range(len(names)))


def _choose_cases(
    request: DeriveRequest, raw: dict[str, RawCase], notify: Notify
) -> tuple[CaseTable | None, tuple[str, ...]]:
    """Return the table to write, and the chosen case identifiers, sorted."""
    unknown = [case for case in request.cases if case not in raw]
    if unknown:
        raise DatasetError(f"{request.origin} has no case {unknown[0]!r}; see {raw_folder() / request.origin}")
    chosen = tuple(sorted(set(request.cases or raw)))
    table = None
    default = raw_folder() / request.origin / TABLE_NAME
    if request.conditions:
        table = read_case_table(request.table or default, request.table_key)
        selected = select_cases(table, request.conditions, raw, notify)
        chosen = tuple(case for case in selected if case in chosen)
    elif request.table is not None or request.table_key is not None:
        raise DatasetError("-table and -table_key select cases only together with -where; add a condition")
    elif default.is_file():
        try:
            table = read_case_table(default)
        except DatasetError as error:  # no condition needs it
            notify(f"the table of cases is not copied: {error}")
    if not chosen:
        raise DatasetError("no case of -case_ids meets all conditions of -where; drop some conditions")
    return table, chosen if request.most is None else sample_cases(chosen, request.most, request.seed)


def _images(case: RawCase, kept: list[int], names: tuple[str, ...], request: DeriveRequest) -> tuple[Path, ...]:
    """Return the files for the channel indices ``kept``."""
    if len(case.images) == len(names):
        return tuple(case.images[index] for index in kept)
    if kept != list(range(len(names))):
        raise DatasetError(
            f"{request.origin} keeps its channels {', '.join(names)} in one file ({case.images[0]}), and a derived "
            "dataset only references files; leave -channels out, or split the files of the original first"
        )
    return case.images


def _dataset_json(
    dataset: str, origin_json: dict[str, Any], channels: tuple[str, ...], labels: LabelChoice, cases: dict[str, RawCase]
) -> dict[str, Any]:
    """Return the original dataset.json with the chosen channels, labels and cases."""
    entries = {}
    for identifier, case in cases.items():
        # the identifier becomes the name of a label file
        if Path(identifier).name != identifier:
            raise DatasetError(f"the case {identifier!r} cannot be the name of a file; rename it in the original")
        own_label = raw_folder() / dataset / LABELS / f"{identifier}{origin_json['file_ending']}"
        entries[identifier] = {
            "images": [reference_from(dataset, image) for image in case.images],
            "label": reference_from(dataset, own_label if labels.changes_files else case.label),
        }
    regions = {} if labels.regions_class_order is None else {"regions_class_order": list(labels.regions_class_order)}
    return {
        **{entry: value for entry, value in origin_json.items() if entry not in _STALE_ENTRIES},
        "name": dataset,
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels.labels,
        **regions,
        "numTraining": len(cases),
        "dataset": entries,
    }


def is_finished(derivation: Derivation) -> bool:
    """Return True if the same derivation is registered and complete.

    Raises DatasetError if something else has the number or name, or if files are missing.
    """
    folder, remedy = derivation.folder, "choose another -number, or remove it"
    same_number = datasets_with_number(dataset_id(derivation.dataset))
    # preprocessed data or results may remain after a dataset was deleted
    others = [name for name in same_number if name != derivation.dataset or not folder.exists()]
    if others:
        raise DatasetError(
            f"the number of {derivation.dataset} is taken by {others[0]} in one of nnU-Net's folders; {remedy}"
        )
    if not folder.exists():
        return False
    if not (folder / RECORD_NAME).is_file():
        raise DatasetError(f"{folder} exists and was not made by nnUNetv2_seq_derive; {remedy}")
    again = f"remove {folder} and derive it again"
    record = read_record(folder / RECORD_NAME, RECORD_KIND, RECORD_FORMAT, again)
    wanted = _record(derivation)
    differing = [entry.replace("_", " ") for entry in wanted if record.get(entry) != wanted[entry]]
    if differing:
        raise DatasetError(f"{folder} was derived with other {', '.join(differing)}; {remedy}")
    # raises if a file is missing
    raw_cases(derivation.dataset, read_dataset_json(derivation.dataset))
    return True


def _record(derivation: Derivation) -> dict[str, Any]:
    """Return the derived.json entries that identify a derivation."""
    return {
        "origin": derivation.origin,
        "channels": list(derivation.channels),
        "labels": derivation.labels.labels,
        "label_values": [list(pair) for pair in derivation.labels.values.items()],
        "cases": list(derivation.cases),
    }


def _make(derivation: Derivation, processes: int) -> None:
    """Build the dataset in the hidden folder and rename the folder."""
    aside = derivation.folder.with_name(f".derive_{derivation.dataset}")
    if aside.exists():
        shutil.rmtree(aside)  # left by an interrupted call
    aside.mkdir()
    write_record(aside / RECORD_NAME, RECORD_KIND, RECORD_FORMAT, {**_record(derivation), "version": __version__})
    try:
        if derivation.labels.changes_files:
            _rewrite_labels(derivation, aside, processes)
    except DatasetError:
        shutil.rmtree(aside)
        raise
    if derivation.table is not None:
        write_case_table(aside / TABLE_NAME, derivation.table, tuple(derivation.cases))
    write_json(aside / "dataset.json", derivation.dataset_json)
    # from here on the dataset is visible
    aside.rename(derivation.folder)


def _rewrite_labels(derivation: Derivation, aside: Path, processes: int) -> None:
    first = next(iter(derivation.cases.values()))
    reader = reader_writer(derivation.dataset_json, first.images[0])
    entries = derivation.dataset_json["dataset"]
    jobs = [
        LabelJob(case.label, aside / entries[identifier]["label"], derivation.labels.values, reader)
        for identifier, case in derivation.cases.items()
    ]
    run_in_processes(rewrite_label_file, jobs, processes, f"Rewriting labels of {derivation.dataset}")

"""Registers a derived dataset in nnUNet_raw: images referenced, labels rewritten where their values change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_id, find_name, raw_folder
from nnunet_seqtransfer.nnunet.label_files import (
    LabelJob,
    datasets_with_number,
    label_reader,
    reference_from,
    rewrite_label_file,
)
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import read_record, write_json, write_record
from nnunet_seqtransfer.tasks.case_table import TABLE_NAME, CaseTable, read_case_table, select_cases, write_case_table
from nnunet_seqtransfer.tasks.label_choice import LabelChoice, choose_labels
from nnunet_seqtransfer.tasks.task import sample_cases

RECORD_NAME = "derived.json"
RECORD_KIND = "derivation"
RECORD_FORMAT = 1


def derive_task(request: DeriveRequest, notify: Callable[[str], None]) -> Derivation:
    """Registers the derived dataset in nnUNet_raw, or finds it there; called again after a crash it goes on.

    It grows in a hidden folder, ``.derive_DATASET``, which gets its name last: a half-made dataset is never seen.

    Raises as `plan_derivation` and `is_finished`, and DatasetError where a label file cannot be used; nothing is left
    behind then.
    """
    derivation = plan_derivation(request, notify)
    if is_finished(derivation):
        notify(f"{derivation.dataset} is there already, derived in the same way")
    else:
        _make(derivation, request.processes)
    return derivation


def is_finished(derivation: Derivation) -> bool:
    """Whether this same derivation is there, complete.

    Raises DatasetError where its number or name is taken by anything else, or files of it are missing.
    """
    folder, remedy = derivation.folder, "choose another number after -o, or remove it"
    namesakes = datasets_with_number(dataset_id(derivation.dataset))
    others = [name for name in namesakes if name != derivation.dataset or not folder.exists()]
    if others:
        raise DatasetError(
            f"the number of {derivation.dataset} is taken by {others[0]} in one of nnU-Net's folders; {remedy}"
        )
    if not folder.exists():
        return False
    if not (folder / RECORD_NAME).is_file():
        raise DatasetError(f"{folder} is there and was not made by nnUNetv2_seq_derive; {remedy}")
    record, wanted = _read(folder), _record(derivation)
    differing = [entry.replace("_", " ") for entry in wanted if record.get(entry) != wanted[entry]]
    if differing:
        raise DatasetError(f"{folder} was derived with other {', '.join(differing)}; {remedy}")
    raw_cases(derivation.dataset, read_dataset_json(derivation.dataset))
    return True


def _record(derivation: Derivation) -> dict[str, Any]:
    """What tells two derivations apart, as it is kept in derived.json."""
    return {
        "origin": derivation.origin,
        "channels": list(derivation.channels),
        "labels": derivation.labels.labels,
        "label_values": [list(pair) for pair in derivation.labels.values.items()],
        "cases": list(derivation.cases),
    }


def _read(folder: Path) -> dict[str, Any]:
    return read_record(folder / RECORD_NAME, RECORD_KIND, RECORD_FORMAT, f"remove {folder} and derive it again")


def _make(derivation: Derivation, processes: int) -> None:
    """Writes everything aside, goes on with what an interrupted call has written there, and gives it its name."""
    aside = derivation.folder.with_name(f".derive_{derivation.dataset}")
    if aside.exists() and not _was_begun(aside, derivation):
        shutil.rmtree(aside)
    aside.mkdir(exist_ok=True)
    for half_written in (aside / LABELS).glob(".*"):
        half_written.unlink()
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
    aside.rename(derivation.folder)


def _was_begun(aside: Path, derivation: Derivation) -> bool:
    """Whether what an earlier call has left belongs to this derivation."""
    try:
        record = _read(aside)
    except RecordError:
        return False
    return {entry: record.get(entry) for entry in _record(derivation)} == _record(derivation)


def _rewrite_labels(derivation: Derivation, aside: Path, processes: int) -> None:
    first = next(iter(derivation.cases.values()))
    reader = label_reader(derivation.dataset_json, first.images[0])
    goals = {case: aside / derivation.dataset_json["dataset"][case]["label"] for case in derivation.cases}
    jobs = [
        LabelJob(case.label, goals[identifier], derivation.labels.values, reader)
        for identifier, case in derivation.cases.items()
        if not goals[identifier].is_file()  # an interrupted call wrote it, whole
    ]
    run_in_processes(rewrite_label_file, jobs, processes, f"Rewriting labels of {derivation.dataset}")


LABELS = "labelsTr"
"""The folder of rewritten label files."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MOST_NUMBER = 999
_STALE_ENTRIES = ("modality", "regions_class_order", "training", "test", "numTest")
"""Entries of the origin's dataset.json that the derived one has otherwise, or that list cases it does not have."""


@dataclass(frozen=True)
class DeriveRequest:
    """What `derive_task` is asked for. Empty tuples stand for everything that the origin has."""

    origin: str
    "Full name of the dataset to derive from, see host.folders.dataset_name."
    number: int
    "Number of the new dataset, 1 to 999."
    name: str
    "Name of the new dataset without its number: letters, digits, - and _."
    channels: tuple[str, ...] = ()
    "Names of the channels, in their new order."
    labels: tuple[str, ...] = ()
    'Labels or regions to keep, by name, and merges such as "whole=necrosis+edema" or "whole=1+2".'
    conditions: tuple[str, ...] = ()
    'Conditions on the table of cases, all to be fulfilled: "site=01", "site=01,02".'
    cases: tuple[str, ...] = ()
    "Identifiers of the cases to choose from."
    most: int | None = None
    "At most so many of the cases, drawn by ``seed``."
    seed: int = 0
    "Seed of the draw, see tasks.task.sample_cases."
    table: Path | None = None
    "The table of cases; None for cases.csv beside the origin's dataset.json."
    table_key: str | None = None
    "The table's column of identifiers; None for the one named case, or else the first."
    processes: int = 1
    "Worker processes."


@dataclass(frozen=True)
class Derivation:
    """A derived dataset as it is or will be; see `plan_derivation`."""

    dataset: str
    "Its full name, such as Dataset501_X."
    origin: str
    "Full name of the dataset that it is derived from."
    channels: tuple[str, ...]
    "Its channels, in order."
    labels: LabelChoice
    "Its labels."
    cases: dict[str, RawCase]
    "Identifier -> images of its channels, and the origin's label file."
    origin_cases: int
    "How many cases the origin has."
    dataset_json: dict[str, Any]
    "Its dataset.json, whose entry dataset references the images."
    table: CaseTable | None
    "The table of cases that goes along."

    @property
    def folder(self) -> Path:
        """Its folder in nnUNet_raw."""
        return raw_folder() / self.dataset


def plan_derivation(request: DeriveRequest, notify: Callable[[str], None]) -> Derivation:
    """The dataset that a request describes; writes nothing, reads no image.

    Raises DatasetError where the origin is incomplete or lacks what is asked for, where it keeps several channels in
    one file and not all are asked for, or where nnU-Net would not take the number or name.
    """
    if not _NAME.fullmatch(request.name) or not 1 <= request.number <= _MOST_NUMBER:
        raise DatasetError(
            f"no dataset can be named {request.name!r} with number {request.number}; use letters, digits, - and _, "
            f"100 at most, and a number from 1 to {_MOST_NUMBER}"
        )
    dataset = f"Dataset{request.number:03d}_{request.name}"
    origin_json = read_dataset_json(request.origin)
    raw = raw_cases(request.origin, origin_json)
    if not raw:
        raise DatasetError(f"{request.origin} has no raw images to reference; copy it to nnUNet_raw")
    labels = choose_labels(origin_json, request.labels, request.origin)
    table, chosen = _choose_cases(request, raw, notify)
    names = channel_names(origin_json)
    places = [find_name(channel, names, f"channel of {request.origin}") for channel in request.channels]
    places = places or list(range(len(names)))
    cases = {case: RawCase(_images(raw[case], places, names, request), raw[case].label) for case in chosen}
    channels = tuple(names[place] for place in places)
    dataset_json = _dataset_json(dataset, origin_json, channels, labels, cases)
    return Derivation(dataset, request.origin, channels, labels, cases, len(raw), dataset_json, table)


def _choose_cases(
    request: DeriveRequest, raw: dict[str, RawCase], notify: Callable[[str], None]
) -> tuple[CaseTable | None, tuple[str, ...]]:
    """The table that goes along, and the identifiers asked for, sorted."""
    unknown = [case for case in request.cases if case not in raw]
    if unknown:
        raise DatasetError(f"{request.origin} has no case {unknown[0]!r}; see {raw_folder() / request.origin}")
    chosen = tuple(sorted(set(request.cases or raw)))
    table = None
    beside = raw_folder() / request.origin / TABLE_NAME
    if request.conditions:
        table = read_case_table(request.table or beside, request.table_key)
        selected = select_cases(table, request.conditions, raw, notify)
        chosen = tuple(case for case in selected if case in chosen)
    elif request.table is not None or request.table_key is not None:
        raise DatasetError("-table and -table_key select cases only together with -cases-where; add a condition")
    elif beside.is_file():
        try:
            table = read_case_table(beside)
        except DatasetError as error:  # not needed: the cases are chosen without it
            notify(f"no table of cases goes along: {error}")
    if not chosen:
        raise DatasetError("no case of -cases fulfils all of -cases-where; ask for less")
    return table, chosen if request.most is None else sample_cases(chosen, request.most, request.seed)


def _images(case: RawCase, places: list[int], names: tuple[str, ...], request: DeriveRequest) -> tuple[Path, ...]:
    """The files of the channels at ``places``."""
    if len(set(places)) < len(places):
        raise DatasetError(f"-channels {' '.join(request.channels)} names a channel twice; name each once")
    if len(case.images) == len(names):
        return tuple(case.images[place] for place in places)
    if places != list(range(len(names))):
        raise DatasetError(
            f"{request.origin} keeps its channels {', '.join(names)} in one file ({case.images[0]}), and a derived "
            "dataset only references files; leave -channels out, or split the files of the original first"
        )
    return case.images


def _dataset_json(
    dataset: str, origin_json: dict[str, Any], channels: tuple[str, ...], labels: LabelChoice, cases: dict[str, RawCase]
) -> dict[str, Any]:
    """The derived dataset.json: format, licence and so on of the origin, with its own channels, labels and cases."""
    entries = {}
    for identifier, case in cases.items():
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
        "channel_names": {str(place): name for place, name in enumerate(channels)},
        "labels": labels.labels,
        **regions,
        "numTraining": len(cases),
        "dataset": entries,
    }

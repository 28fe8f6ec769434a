"""Registers a derived dataset in nnUNet_raw: images referenced, labels rewritten where their values change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.label_files import LabelJob, label_reader, rewrite_label_file
from nnunet_seqtransfer.nnunet.registration import datasets_with_number
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import read_record, write_json, write_record
from nnunet_seqtransfer.tasks.case_table import TABLE_NAME, write_case_table
from nnunet_seqtransfer.tasks.derivation import LABELS, Derivation, DeriveRequest, plan_derivation

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

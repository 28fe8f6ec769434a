"""Check a dataset before anything is preprocessed or trained: every case once, results kept by file size and time."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, RecordError, SeqTransferError, raise_collected
from nnunet_seqtransfer.memory import case_bytes
from nnunet_seqtransfer.nnunet.datasets import RawCase, lone_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder, raw_folder, shortened
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.integrity import Declared, judge_case
from nnunet_seqtransfer.nnunet.preprocessing import read_arrays, resampled_shapes
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum, read_dataclass, size_text, write_dataclass
from nnunet_seqtransfer.tasks.task import Task

CHECK_NAME, CHECK_KIND, CHECK_FORMAT = "check.json", "check", 1
MOST_LINES = 10
"""Problems of one dataset that are written out; the record holds all."""


@dataclass(frozen=True)
class CheckedCase:
    """Result for one case."""

    stamp: str
    "Checksum over names, sizes and times of the files that were checked."
    errors: tuple[str, ...] = ()
    "Reasons to refuse the case, one line each."
    warnings: tuple[str, ...] = ()
    "Warnings by nnU-Net, one line each."


@dataclass(frozen=True)
class CheckRecord:
    """Results for the cases of one dataset."""

    base: str
    "Checksum over the entries of dataset.json that the cases were compared with."
    cases: dict[str, CheckedCase] = field(default_factory=dict)
    "Identifier -> result."


def check_dataset(dataset: str, context: Context, cases: Collection[str] | None = None) -> None:
    """Check dataset.json, the list of files and the raw cases of a dataset; notify about what nnU-Net warns of.

    ``cases``: identifiers to check; None for all.

    Raises DatasetError, or Problems with all problems at once. Does nothing for a dataset without raw images.
    """
    content = read_dataset_json(dataset)
    raw = raw_cases(dataset, content)
    wanted = {case: files for case, files in raw.items() if cases is None or case in cases}
    if not wanted:
        return
    if lone := lone_labels(raw_folder() / dataset, content, raw):
        context.notify(f"{dataset}: {len(lone)} labels without image are ignored: {shortened(lone, 3)}")
    checked = _checked(dataset, content, wanted, context)
    warnings = [f"case {case}: {warning}" for case in wanted for warning in checked[case].warnings]
    if warnings:
        context.notify(f"{dataset}: nnU-Net warns of {len(warnings)} cases, the first is {warnings[0]}")
    lines = [error for case in wanted for error in checked[case].errors]
    if len(lines) > MOST_LINES:
        rest = f"{dataset} has {len(lines) - MOST_LINES} more problems; all are in {cache_folder(dataset) / CHECK_NAME}"
        lines = [*lines[:MOST_LINES], rest]
    raise_collected([DatasetError(line) for line in lines])


def _checked(
    dataset: str, content: dict[str, Any], cases: dict[str, RawCase], context: Context
) -> dict[str, CheckedCase]:
    """Return the result of each case, from the record if its files have not changed."""
    declared = Declared.by(dataset, content)
    reading = {key: content.get(key) for key in ("file_ending", "overwrite_image_reader_writer")}
    base = checksum([declared.channels, declared.highest, reading])
    path = cache_folder(dataset) / CHECK_NAME
    known = _read(path, base)
    stats = {case: _stats(files) for case, files in cases.items()}
    stamps = {case: checksum(stat)[:16] for case, stat in stats.items()}
    missing = [case for case in cases if case not in known or known[case].stamp != stamps[case]]
    if missing:
        reader = reader_writer(content, cases[missing[0]].images[0])
        jobs = [(case, cases[case], reader, declared, stamps[case]) for case in missing]
        size = sum(size for case in missing for _, size, _ in stats[case])
        checked = run_in_processes(_check_case, jobs, context.processes, f"Checking {dataset}", size)
        known |= dict(zip(missing, checked, strict=True))
        write_dataclass(path, CHECK_KIND, CHECK_FORMAT, CheckRecord(base, known), compact=True)
    return known


def _read(path: Path, base: str) -> dict[str, CheckedCase]:
    try:
        record = read_dataclass(path, CheckRecord, CHECK_KIND, CHECK_FORMAT, "delete it")
    except RecordError:  # missing or damaged: the cases are checked again
        return {}
    return dict(record.cases) if record.base == base else {}


def _stats(case: RawCase) -> list[tuple[str, int, int]]:
    stats = [(path, path.stat()) for path in case.files]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _check_case(job: tuple[str, RawCase, str, Declared, str]) -> CheckedCase:
    """Read and judge one case, in a worker process."""
    case, files, reader, declared, stamp = job
    try:
        faults, warnings = judge_case(files, read_arrays(case, files, reader), declared)
    except SeqTransferError as error:
        return CheckedCase(stamp, error.problems)
    errors = tuple(f"case {case} of {declared.dataset} has {fault}" for fault in faults)
    return CheckedCase(stamp, errors, tuple(warnings))


def size_problems(
    task: Task, plans: dict[str, Any], configuration: str, cases: Sequence[str], memory: float
) -> list[SeqTransferError]:
    """Return why cases cannot be resampled to the target's spacing: no voxel would be left, or they need too much.

    Sizes come from the fingerprint; nothing is read. ``memory``: bytes available to one process.
    """
    if not cases:
        return []
    before, after = task.fingerprint["shapes_after_crop"], resampled_shapes(task.fingerprint, plans, configuration)
    rows = {case: task.fingerprint_row(case) for case in cases}
    empty = [case for case, row in rows.items() if 0 in after[row]]
    needed = {
        case: case_bytes(max(math.prod(before[row]), math.prod(after[row])), len(task.channels))
        for case, row in rows.items()
    }
    large = [case for case in cases if needed[case] > memory]
    problems: list[SeqTransferError] = []
    for found, what in (
        (empty, "no voxel would be left"),
        (large, "{need} of memory would be needed, {have} are there"),
    ):
        if found:
            first = max(found, key=lambda case: needed[case])
            reason = what.format(need=size_text(int(needed[first])), have=size_text(int(min(memory, 1e18))))
            goal = " x ".join(f"{value:g}" for value in plans["configurations"][configuration]["spacing"])
            own = " x ".join(f"{value:g}" for value in task.fingerprint["spacings"][rows[first]])
            more = f" and {len(found) - 1} more cases" if len(found) > 1 else ""
            problems.append(
                DatasetError(
                    f"case {first}{more} of {task.dataset} cannot be resampled from a spacing of {own} to the target's "
                    f"{goal}: {reason}; correct the spacing in its files (is it in mm?), or leave {task.dataset} out"
                )
            )
    return problems

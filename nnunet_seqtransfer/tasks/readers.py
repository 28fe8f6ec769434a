"""Which of nnU-Net's readers a dataset needs: found by opening one of its images, and remembered.

nnU-Net opens an image to find out. For a metric that needs no image that would take most of its time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.nnunet.plans import reader_writer
from nnunet_seqtransfer.storage import read_record, write_record
from nnunet_seqtransfer.tasks.task import Task

FORMAT = 1
KIND = "reader"


def find_reader(task: Task) -> str:
    """Name of the nnU-Net class that reads the images of a task with raw data; nothing is written.

    Raises DatasetError where none of nnU-Net's can.
    """
    return _remembered(task) or reader_writer(task.dataset_json, _example(task))


def remember_reader(task: Task, reader: str) -> None:
    """Writes down the reader of a task, for as long as its first image and its dataset.json stay as they are."""
    if task.raw and _remembered(task) != reader:
        write_record(_path(task), KIND, FORMAT, {**_depends_on(task), "reader": reader})


def _remembered(task: Task) -> str | None:
    if not _path(task).is_file():
        return None
    try:
        content = read_record(_path(task), KIND, FORMAT, "delete it")
    except RecordError:  # found out again
        return None
    reader = content.pop("reader", None)
    return str(reader) if reader and content == _depends_on(task) else None


def _depends_on(task: Task) -> dict[str, Any]:
    image = _example(task)
    stat = image.stat()
    chosen = {key: task.dataset_json.get(key) for key in ("file_ending", "overwrite_image_reader_writer")}
    return {"image": image.name, "size": stat.st_size, "time": stat.st_mtime_ns, **chosen}


def _example(task: Task) -> Path:
    return next(iter(task.raw.values())).images[0]


def _path(task: Task) -> Path:
    return cache_folder(task.dataset) / "reader.json"

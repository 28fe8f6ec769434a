"""The reader of a dataset's images: found by nnU-Net once, remembered while nothing changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_seqtransfer.nnunet.plans import reader_writer
from nnunet_seqtransfer.tasks import alignment as readers
from nnunet_seqtransfer.tasks.alignment import find_reader, remember_reader
from nnunet_seqtransfer.tasks.task import Task, load_task
from support.world import FLAT_SOURCE, NEAR, World


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were opened to find a reader."""
    images: list[Path] = []

    def noting(dataset_json: dict[str, object], example: Path) -> str:
        images.append(example)
        return reader_writer(dataset_json, example)

    monkeypatch.setattr(readers, "reader_writer", noting)
    return images


def remembered(dataset: str) -> Task:
    task = load_task(dataset)
    remember_reader(task, find_reader(task))
    return load_task(dataset)


@pytest.mark.parametrize(("dataset", "reader"), [(NEAR, "SimpleITKIO"), (FLAT_SOURCE, "NaturalImage2DIO")])
def test_a_reader_is_found_once(world: World, opened: list[Path], dataset: str, reader: str) -> None:
    """Once remembered, the reader is known without opening an image; asking alone writes nothing."""
    before = world.snapshot()
    assert find_reader(load_task(dataset)) == reader
    assert world.snapshot() == before and len(opened) == 1
    task = remembered(dataset)
    opened.clear()
    assert find_reader(task) == reader
    assert opened == []


def test_a_changed_image_or_a_damaged_memory_is_found_out_again(world: World, opened: list[Path]) -> None:
    """The memory holds for the first image as it was, and a file that cannot be read is no obstacle."""
    task = remembered(NEAR)
    image = next(iter(task.raw.values())).images[0]
    os.utime(image, ns=(1, 1))
    opened.clear()
    assert find_reader(task) == "SimpleITKIO" and opened == [image]
    task = remembered(NEAR)
    memory = world.preprocessed / NEAR / "seqtransfer" / "reader.json"
    memory.write_text(memory.read_text()[:40])
    opened.clear()
    assert find_reader(task) == "SimpleITKIO" and opened == [image]

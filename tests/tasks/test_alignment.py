"""The target's plans made for a source, and what we read of datasets, against nnU-Net's own functions."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.tasks import alignment as readers
from nnunet_seqtransfer.tasks.alignment import align_plans, find_reader, remember_reader
from nnunet_seqtransfer.tasks.task import Task, load_task
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS, World

PAIRS = [(TARGET, NEAR, "3d_fullres"), (TARGET, TWO_CHANNELS, "3d_fullres"), (TARGET, FAR, "2d"),
         (FLAT_TARGET, FLAT_SOURCE, "2d")]  # fmt: skip

FROM_THE_SOURCE = {
    "dataset_name",
    "plans_name",
    "image_reader_writer",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
    "foreground_intensity_properties_per_channel",
}
"""Entries of the plans that become the source's."""

SOURCE_SETTINGS = {"data_identifier", "normalization_schemes", "use_mask_for_norm"}
"""And of each configuration."""


def aligned(target: str, source: str, configuration: str) -> tuple[dict[str, Any], dict[str, Any], Task]:
    plans = read_plans(target, "nnUNetPlans", configuration)
    task = load_task(source)
    return plans, align_plans(deepcopy(plans), load_task(target), task), task


@pytest.mark.parametrize(("target", "source", "configuration"), PAIRS)
def test_the_targets_geometry_and_network_stay(world, target: str, source: str, configuration: str) -> None:
    """All that is not the source's own is the target's, for every configuration, the order of all keys included."""
    plans, own, _ = aligned(target, source, configuration)
    assert list(own) == list(plans)
    assert {key for key in plans if own[key] != plans[key]} <= FROM_THE_SOURCE | {"configurations"}
    for name, settings in plans["configurations"].items():
        assert list(own["configurations"][name]) == list(settings)
        for key in set(settings) - SOURCE_SETTINGS:
            assert own["configurations"][name][key] == settings[key], key
    json.dumps(own, allow_nan=False)


@pytest.mark.parametrize(("target", "source", "configuration"), PAIRS)
def test_normalisation_is_the_sources(world, target: str, source: str, configuration: str) -> None:
    """Schemes, masks and intensities have one entry for each of the source's channels, whatever the target has."""
    plans, own, task = aligned(target, source, configuration)
    assert own["dataset_name"] == source
    assert own["plans_name"] == f"nnUNetPlans_for{int(target[7:10])}" != plans["plans_name"]
    intensities = task.fingerprint["foreground_intensity_properties_per_channel"]
    assert own["foreground_intensity_properties_per_channel"] == intensities
    assert len(intensities) == len(task.channels)
    for name, settings in own["configurations"].items():
        assert len(settings["normalization_schemes"]) == len(settings["use_mask_for_norm"]) == len(task.channels)
        assert settings["data_identifier"].startswith(f"{own['plans_name']}_{name}_")


def test_a_ct_channel_keeps_its_own_intensities(world) -> None:
    """A CT channel beside others gets CTNormalization and its own clip values; the target's are not taken over."""
    path = world.raw / TWO_CHANNELS / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": {"0": "T1", "1": "CT"}}))
    (world.preprocessed / TWO_CHANNELS / "dataset.json").unlink()
    plans, own, task = aligned(TARGET, TWO_CHANNELS, "3d_fullres")
    settings = own["configurations"]["3d_fullres"]
    assert settings["normalization_schemes"] == ["ZScoreNormalization", "CTNormalization"]
    properties = own["foreground_intensity_properties_per_channel"]["1"]
    assert properties == task.fingerprint["foreground_intensity_properties_per_channel"]["1"]
    assert properties != plans["foreground_intensity_properties_per_channel"]["0"]
    assert {"mean", "std", "percentile_00_5", "percentile_99_5"} <= set(properties)


@pytest.mark.parametrize(("target", "source", "configuration"), PAIRS)
def test_nnunet_reads_the_plans(world, target: str, source: str, configuration: str) -> None:
    """nnU-Net's PlansManager reads every configuration of them, and finds reader and preprocessor."""
    plans, own, _ = aligned(target, source, configuration)
    manager, original = PlansManager(own), PlansManager(plans)
    assert (manager.dataset_name, manager.plans_name) == (source, own["plans_name"])
    assert manager.image_reader_writer_class is not None
    for name in own["configurations"]:
        settings, before = manager.get_configuration(name), original.get_configuration(name)
        assert settings.preprocessor_class is before.preprocessor_class
        assert list(settings.patch_size) == list(before.patch_size)
        assert settings.network_arch_init_kwargs == before.network_arch_init_kwargs


def test_nothing_that_was_given_is_changed(world) -> None:
    """The target's plans are as they were; a second alignment gives the same."""
    plans = read_plans(TARGET, "nnUNetPlans", "3d_fullres")
    before, source = deepcopy(plans), load_task(TWO_CHANNELS)
    first = align_plans(plans, load_task(TARGET), source)
    first["configurations"]["3d_fullres"]["patch_size"] = [1]
    assert plans == before
    assert align_plans(plans, load_task(TARGET), source)["configurations"]["3d_fullres"]["patch_size"] != [1]


def test_a_target_planned_anew_gets_preprocessed_data_of_its_own(world) -> None:
    """Another spacing of the target, or another normalisation, never meets data preprocessed for the old plans."""
    plans, own, source = aligned(TARGET, NEAR, "3d_fullres")
    identifier = own["configurations"]["3d_fullres"]["data_identifier"]
    replanned = json.loads(json.dumps(plans))
    replanned["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]
    again = align_plans(replanned, load_task(TARGET), source)
    assert again["configurations"]["3d_fullres"]["data_identifier"] != identifier
    assert (
        align_plans(plans, load_task(TARGET), source)["configurations"]["3d_fullres"]["data_identifier"] == identifier
    )


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

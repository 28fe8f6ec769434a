"""The target's plans made for a source, and what we read of datasets, against nnU-Net's own functions."""

from __future__ import annotations

import itertools
import json
import os
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.plans import normalization, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import resampled_voxels
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.task import Task, load_task

TARGET, NEAR, FAR, TWO_CHANNELS = "Dataset901_Target", "Dataset902_Near", "Dataset903_Far", "Dataset904_TwoChannels"
FLAT_TARGET, FLAT_SOURCE = "Dataset911_FlatTarget", "Dataset912_FlatSource"
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


@pytest.mark.parametrize(("target", "source"), [(TARGET, FLAT_SOURCE), (FLAT_TARGET, NEAR)])
def test_flat_images_and_volumes_do_not_mix(world, target: str, source: str) -> None:
    """2-D images for a target of volumes, or the other way, are refused by name."""
    with pytest.raises(DatasetError, match=source):
        aligned(target, source, "2d")


def as_nnunet_lists(folder: Any) -> dict[str, tuple[list[str], str]]:
    listed = get_filenames_of_train_images_and_targets(str(folder))
    return {str(case): (list(files["images"]), files["label"]) for case, files in listed.items()}


def as_we_list(dataset: str) -> dict[str, tuple[list[str], str]]:
    cases = raw_cases(dataset, read_dataset_json(dataset))
    return {
        name: ([os.path.abspath(path) for path in case.images], os.path.abspath(case.label))  # noqa: PTH100 - nnU-Net's
        for name, case in cases.items()
    }


@pytest.mark.parametrize("dataset", [TARGET, NEAR, FAR, TWO_CHANNELS, FLAT_TARGET, FLAT_SOURCE])
def test_cases_are_those_that_nnunet_finds(world, dataset: str) -> None:
    """Identifiers and files of every registered dataset are nnU-Net's own, in their order."""
    ours, theirs = as_we_list(dataset), as_nnunet_lists(world.raw / dataset)
    assert ours == theirs
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("how", ["relative", "absolute", "variable", "up and down"])
def test_cases_that_dataset_json_lists(world, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Cases listed in dataset.json, by relative, absolute or variable paths, are those that nnU-Net finds."""
    folder = world.raw / TWO_CHANNELS
    monkeypatch.setenv("IMAGES", str(folder))
    prefix = {"relative": "", "absolute": f"{folder}/", "variable": "$IMAGES/", "up and down": f"../{NEAR}/../"}[how]
    prefix += f"{TWO_CHANNELS}/" if how == "up and down" else ""
    entry = {
        f"patient {number}": {
            "images": [f"{prefix}imagesTr/case{number}_{channel:04d}.nii.gz" for channel in range(2)],
            "label": f"{prefix}labelsTr/case{number}.nii.gz",
        }
        for number in (4, 0, 2)
    }
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": entry}))
    assert as_we_list(TWO_CHANNELS) == as_nnunet_lists(folder)


def test_stray_files_are_no_cases(world) -> None:
    """Hidden files, notes and other endings beside the images make no case."""
    folder = world.raw / NEAR
    for name in ("imagesTr/notes.txt", "imagesTr/case0_0000.json", "labelsTr/readme.md"):
        (folder / name).write_text("x")
    assert as_we_list(NEAR) == as_nnunet_lists(folder)


CHANNELS = ["T1", "CT", "ct", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "MRI", "anything"]


@pytest.mark.parametrize("relative_size", [0.1, 0.7499, 0.75, 1.0])
def test_normalisation_is_the_planners(relative_size: float) -> None:
    """For all pairs of channel names and any cropping, schemes and masks are those of nnU-Net's ExperimentPlanner."""
    planner = ExperimentPlanner.__new__(ExperimentPlanner)
    planner.dataset_fingerprint = {"median_relative_size_after_cropping": relative_size}
    for channels in itertools.product(CHANNELS, repeat=2):
        planner.dataset_json = {"channel_names": {str(index): name for index, name in enumerate(channels)}}
        expected = planner.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        assert normalization(channels, relative_size) == expected


def expected_voxels(fingerprint: dict[str, Any], spacing: list[float], forward: list[int]) -> list[int]:
    """Voxels of each case as nnU-Net's preprocessor computes them."""
    voxels = []
    for shape, original in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        moved_shape, moved = [shape[i] for i in forward], [original[i] for i in forward]
        goal = spacing if len(spacing) == 3 else [moved[0], *spacing]
        voxels.append(int(np.prod(compute_new_shape(moved_shape, moved, goal))))
    return voxels


@pytest.mark.parametrize("forward", list(itertools.permutations(range(3))))
def test_resampled_sizes_are_nnunets(forward: tuple[int, ...]) -> None:
    """The number of voxels after resampling equals nnU-Net's compute_new_shape, halves included, in 2-D and 3-D."""
    rng = np.random.default_rng(0)
    spacings = rng.choice([0.1, 0.5, 0.7, 1.0, 1.2, 2.5, 3.0, 5.0], (300, 3)).tolist()
    shapes = rng.integers(5, 300, (300, 3)).tolist()
    fingerprint = {"shapes_after_crop": shapes, "spacings": spacings}
    for spacing in ([1.0, 0.8, 2.0], [1.0, 1.0], [0.2, 0.4, 0.6]):
        plans = {"configurations": {"c": {"spacing": spacing}}, "transpose_forward": list(forward)}
        assert resampled_voxels(fingerprint, plans, "c") == expected_voxels(fingerprint, spacing, list(forward))


@pytest.mark.parametrize(("target", "source", "configuration"), PAIRS)
def test_resampled_sizes_of_real_plans(world, target: str, source: str, configuration: str) -> None:
    """So it is for the fingerprints and plans that nnU-Net made."""
    _, own, task = aligned(target, source, configuration)
    spacing = own["configurations"][configuration]["spacing"]
    expected = expected_voxels(task.fingerprint, spacing, own["transpose_forward"])
    assert resampled_voxels(task.fingerprint, own, configuration) == expected


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

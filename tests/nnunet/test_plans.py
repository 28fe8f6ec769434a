"""Tests of nnunet/plans.py: normalisation and reader are those that nnU-Net chooses."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.plans import normalization
from support.world import NEAR, make_dataset

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


def test_the_reader_is_nnunets(tmp_path: Path) -> None:
    """The reader of a dataset is the one that nnU-Net picks; a file that none reads is named."""
    make_dataset(tmp_path, NEAR, ("MRI",), ("organ",), 60, 1)
    image = tmp_path / NEAR / "imagesTr/case0_0000.nii.gz"
    assert reader_writer({"file_ending": ".nii.gz"}, image) == "SimpleITKIO"
    assert reader_writer({"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO"}, image) == "NibabelIO"
    with pytest.raises(DatasetError, match=r"nnU-Net cannot read .*case0_0000.nii.gz"):
        reader_writer({"file_ending": ".jpg"}, image)

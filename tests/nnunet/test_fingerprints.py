"""Fingerprints that are extracted here, against nnU-Net's extractor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet import fingerprints
from support.world import NEAR, TWO_CHANNELS, World


def both(world: World, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our fingerprint and nnU-Net's, which draws fewer voxels here, as a hundred million take seconds."""
    path: Path = world.preprocessed / name / "dataset_fingerprint.json"
    path.unlink(missing_ok=True)
    assert fingerprints.extract_fingerprints([name], 1) == {}
    ours = json.loads(path.read_text())
    extractor = DatasetFingerprintExtractor(name, 1)
    extractor.num_foreground_voxels_for_intensitystats = 1e5
    extractor.run(overwrite_existing=True)
    return ours, json.loads(path.read_text())


def test_a_ct_fingerprint_is_the_one_of_nnunet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value is equal."""
    path = world.raw / TWO_CHANNELS / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "channel_names": {"0": "CT", "1": "PET"}}))
    (world.preprocessed / TWO_CHANNELS / "dataset.json").unlink(missing_ok=True)
    monkeypatch.setattr(fingerprints, "ALL_SAMPLES", 1e5)
    ours, theirs = both(world, TWO_CHANNELS)
    assert ours == theirs


def test_other_fingerprints_differ_only_in_sampled_intensities(world: World) -> None:
    """Statistics that nothing uses are those of fewer voxels."""
    ours, theirs = both(world, NEAR)
    key = "foreground_intensity_properties_per_channel"
    for name, value in theirs.pop(key)["0"].items():
        assert ours[key]["0"][name] == pytest.approx(value, rel=0.02), name
    del ours[key]
    assert ours == theirs


def test_cases_with_different_channels_have_no_fingerprint() -> None:
    """Grey and colour images in one dataset are an error that names the dataset."""
    grey, colour = (
        fingerprints.CaseAnalysis((1, 4, 4), (1.0, 1.0, 1.0), [np.ones(3)] * channels, 1.0) for channels in (1, 3)
    )
    with pytest.raises(DatasetError, match="Dataset905_Mixed"):
        fingerprints.fingerprint_of([colour, grey], "Dataset905_Mixed")

"""Label files are written again: label values change, header and geometry stay."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnunet_seqtransfer.nnunet import image_formats
from nnunet_seqtransfer.nnunet.image_formats import LabelJob, rewrite_label_file


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def oblique(path: Path, dtype: type, version: type = nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """A label file with a header that no writer would make by itself."""
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(dtype)
    angle = 0.3
    affine = np.array(
        [
            [0.9 * np.cos(angle), -1.1 * np.sin(angle), 0, -7.1],
            [0.9 * np.sin(angle), 1.1 * np.cos(angle), 0.01, 3.3],
            [0, 0, -2.3, 11.7],
            [0, 0, 0, 1],
        ]
    )
    image = version(labels, affine)
    image.header.set_sform(affine, code=4)
    image.header.set_qform(np.diag([1.5, 1.5, 3, 1]), code=1, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made by a scanner"
    image.header["intent_name"] = b"labels"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    nibabel.save(image, path)
    return nibabel.load(path)


MAPPING = {0: 0, 1: 2, 2: 0, 3: 1}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_nifti_headers_stay_as_they_are(tmp_path: Path, ending: str, dtype: type) -> None:
    """Every entry of a NIfTI header but data type and scaling is the same bit for bit, extensions included."""
    old = oblique(tmp_path / f"old{ending}", dtype)
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"labels/new{ending}", MAPPING, "SimpleITKIO"))
    new = nibabel.load(tmp_path / f"labels/new{ending}")
    for entry in old.header:
        if entry not in ("datatype", "bitpix", "scl_slope", "scl_inter"):
            assert old.header[entry].tobytes() == new.header[entry].tobytes(), entry
    assert np.array_equal(old.affine, new.affine)
    assert [extension.get_content() for extension in new.header.extensions] == [b"kept"]
    assert new.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(new.dataobj), np.vectorize(MAPPING.get)(np.asarray(old.dataobj)))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".gipl"])
def test_other_volumes_keep_their_geometry(tmp_path: Path, ending: str) -> None:
    """Formats that go through nnU-Net's writer keep spacing, origin and direction to the last digit or two."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.1 + 0.2, 1 / 3, 2.3))
    image.SetOrigin((-7.123456789, 1e-3, 11.7))
    if ending != ".gipl":  # which stores no direction
        image.SetDirection((np.cos(0.3), -np.sin(0.3), 0, np.sin(0.3), np.cos(0.3), 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"old{ending}"))
    old = sitk.ReadImage(str(tmp_path / f"old{ending}"))
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"new{ending}", MAPPING, "SimpleITKIO"))
    new = sitk.ReadImage(str(tmp_path / f"new{ending}"))
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        # NRRD stores the product of spacing and direction.
        assert getattr(old, what)() == pytest.approx(getattr(new, what)(), rel=1e-15, abs=1e-15), what
    assert np.array_equal(read(tmp_path / f"new{ending}"), np.vectorize(MAPPING.get)(read(tmp_path / f"old{ending}")))


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_tiff_volumes_keep_their_spacing(tmp_path: Path, ending: str) -> None:
    """The file beside a TIFF volume that holds its spacing is written too, and nothing else is left there."""
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    tifffile.imwrite(tmp_path / f"old{ending}", labels)
    (tmp_path / "old.json").write_text(json.dumps({"spacing": [3.0, 0.5, 0.5]}))
    (tmp_path / "labels").mkdir()
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"labels/new{ending}", MAPPING, "Tiff3DIO"))
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["new.json", f"new{ending}"]
    assert json.loads((tmp_path / "labels/new.json").read_text()) == {"spacing": [3.0, 0.5, 0.5]}
    assert np.array_equal(tifffile.imread(tmp_path / f"labels/new{ending}"), np.vectorize(MAPPING.get)(labels))


def test_values_are_replaced_as_by_a_dictionary() -> None:
    """The replacement equals a look-up voxel by voxel; NaN, fractions and unknown values are refused."""
    rng = np.random.default_rng(2)
    for dtype in (np.uint8, np.int32, np.float64):
        labels = rng.choice([0, 3, 7, 40], (4, 5, 6)).astype(dtype)
        values = {0: 0, 3: 300, 7: 0, 40: 1}
        replaced = image_formats._with_values(labels, values)
        assert replaced.dtype == np.uint16
        assert replaced.tolist() == [[[values[int(v)] for v in row] for row in plane] for plane in labels]
    for strange in (np.nan, 0.5, -1, 41):
        with pytest.raises(ValueError, match=f"the value {strange:g}"):
            image_formats._with_values(np.array([0, 3, strange]), values)

"""Read nnU-Net's dataset fingerprints with checks, and extract missing ones."""

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, reason_of
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.plans import normalization
from nnunet_seqtransfer.parallel import results_of
from nnunet_seqtransfer.storage import read_json, write_json

FINGERPRINT = "dataset_fingerprint.json"
ALL_SAMPLES = 10e7
"""Foreground voxels that nnU-Net draws from a dataset for its intensity statistics."""
SAMPLES = 10_000
"""Foreground voxels to draw from a case if its intensity statistics decide nothing."""


def read_fingerprint(dataset: str) -> dict[str, Any]:
    """Read a dataset fingerprint. Raises RecordError if missing or broken, DatasetError if entries are invalid."""
    path = preprocessed_folder() / dataset / FINGERPRINT
    remedy = f"delete it and run nnUNetv2_extract_fingerprint -d {dataset_id(dataset)}"
    content = read_json(path, f"the dataset fingerprint of {dataset}", remedy)
    needed = ("spacings", "shapes_after_crop", "foreground_intensity_properties_per_channel")
    missing = [entry for entry in needed if not content.get(entry)]
    if missing:
        raise DatasetError(f"the dataset fingerprint of {dataset} lacks {', '.join(missing)}: {path}; {remedy}")
    for channel, properties in content["foreground_intensity_properties_per_channel"].items():
        # NaN in a single image spoils the statistics of the whole channel
        if not all(math.isfinite(value) for value in properties.values()):
            raise DatasetError(
                f"the dataset fingerprint of {dataset} holds NaN or infinity in channel {channel}: {path}; repair the "
                "images, then delete it"
            )
    if len(content["spacings"]) != len(content["shapes_after_crop"]):
        raise DatasetError(
            f"the dataset fingerprint of {dataset} has {len(content['spacings'])} spacings and "
            f"{len(content['shapes_after_crop'])} shapes: {path}; {remedy}"
        )
    return content


def has_fingerprint(dataset: str) -> bool:
    """Return True if the fingerprint of the dataset exists."""
    return (preprocessed_folder() / dataset / FINGERPRINT).is_file()


def extract_fingerprints(datasets: Sequence[str], processes: int) -> dict[str, DatasetError]:
    """Extract nnU-Net's fingerprints, which reads every case once. Each is written when its last case was read.

    Values are nnU-Net's. Only the intensity statistics rest on fewer voxels (`SAMPLES` for a case, nnU-Net 100 million
    for a dataset) if no channel is CT, because nothing uses them then.

    Returns dataset -> error for those with a case that cannot be read; the others are extracted.
    """
    failed: dict[str, DatasetError] = {}
    jobs: list[tuple[str, RawCase, str, int]] = []
    for dataset in datasets:
        content = read_dataset_json(dataset)
        cases = [*raw_cases(dataset, content).values()]
        try:
            reader = reader_writer(content, cases[0].images[0])
        except DatasetError as error:
            failed[dataset] = error
            continue
        samples = int(ALL_SAMPLES // len(cases)) if has_ct(content) else SAMPLES
        jobs += [(dataset, case, reader, samples) for case in cases]
    size = sum(case.size for _, case, *_ in jobs)
    found: dict[str, dict[int, CaseAnalysis | DatasetError]] = {}
    counts = Counter(dataset for dataset, *_ in jobs)
    for index, analysis in results_of(analyse_case, jobs, processes, "Extracting fingerprints", size):
        dataset = jobs[index][0]
        found.setdefault(dataset, {})[index] = analysis
        if len(found[dataset]) == counts[dataset]:
            try:
                fingerprint = fingerprint_of([result for _, result in sorted(found.pop(dataset).items())], dataset)
            except DatasetError as error:
                failed[dataset] = error
            else:
                write_json(preprocessed_folder() / dataset / FINGERPRINT, fingerprint)
    return failed


def has_ct(dataset_json: dict[str, Any]) -> bool:
    """Return True if nnU-Net normalises a channel by the statistics of all cases."""
    return "CTNormalization" in normalization(channel_names(dataset_json), 1.0)[0]


@dataclass(frozen=True)
class CaseAnalysis:
    """Measurements by nnU-Net's fingerprint extractor in one case, axes as nnU-Net's readers give them."""

    shape: tuple[int, ...]
    "Shape after cropping to non-zero voxels."
    spacing: tuple[float, ...]
    "Spacing in mm."
    intensities: list[NDArray[Any]]
    "Sampled foreground intensities of each channel; empty without foreground."
    relative_size: float
    "Voxels after cropping divided by voxels before."


def analyse_case(job: tuple[str, RawCase, str, int]) -> CaseAnalysis | DatasetError:
    """Measure one case, given dataset, files, name of the reader and voxels to draw; runs in a worker process."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415 - slow import
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415

    dataset, case, reader, samples = job
    try:
        with contextlib.redirect_stdout(sys.stderr):  # nnU-Net's readers print warnings
            shape, spacing, intensities, _, relative_size = DatasetFingerprintExtractor.analyze_case(
                [str(image) for image in case.images],
                str(case.label),
                recursive_find_reader_writer_by_name(reader),
                samples,
            )
    except Exception as error:  # image readers raise all kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, a permission
            raise
        return DatasetError(
            f"the fingerprint of {dataset} cannot be extracted ({reason_of(error)}); check the dataset with "
            f"nnUNetv2_plan_and_preprocess -d {dataset_id(dataset)} --verify_dataset_integrity"
        )
    arrays = [np.asarray(values) for values in intensities]
    return CaseAnalysis(tuple(map(int, shape)), tuple(map(float, spacing)), arrays, float(relative_size))


def fingerprint_of(results: Sequence[CaseAnalysis | DatasetError], dataset: str) -> dict[str, Any]:
    """Return the fingerprint of analysed cases in nnU-Net's layout. Raises the first error among them."""
    analyses = []
    for result in results:
        if isinstance(result, DatasetError):
            raise result
        analyses.append(result)
    if len({len(analysis.intensities) for analysis in analyses}) > 1:
        raise DatasetError(f"the cases of {dataset} have different numbers of channels; correct its images")
    properties = {}
    for channel in range(len(analyses[0].intensities)):
        values = np.concatenate([analysis.intensities[channel] for analysis in analyses])
        values = values if len(values) else np.zeros(1)  # a missing foreground is reported with the labels
        low, median, high = np.percentile(values, [0.5, 50, 99.5])
        statistics = (values.mean(), median, values.std(), values.min(), values.max(), high, low)
        names = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
        properties[str(channel)] = dict(zip(names, map(float, statistics), strict=True))
        if not all(map(math.isfinite, properties[str(channel)].values())):
            raise DatasetError(f"{dataset} holds infinite intensities in channel {channel}; repair the images")
    return {
        "spacings": [list(analysis.spacing) for analysis in analyses],
        "shapes_after_crop": [list(analysis.shape) for analysis in analyses],
        "foreground_intensity_properties_per_channel": properties,
        "median_relative_size_after_cropping": float(np.median([analysis.relative_size for analysis in analyses])),
    }

"""Read nnU-Net's dataset fingerprints with checks, and have nnU-Net extract missing ones."""

import contextlib
import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_seqtransfer.errors import DatasetError, reason_of
from nnunet_seqtransfer.nnunet.datasets import RawCase, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, read_json

FINGERPRINT = "dataset_fingerprint.json"


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
    """Have nnU-Net extract fingerprints, which reads every case once.

    Each fingerprint is moved into place when complete: nnU-Net writes in place, and a killed run would leave half a
    file. Several datasets run at once, because nnU-Net spends most of the time on starting worker processes.

    Returns dataset -> error for those with a case that cannot be read; the others are extracted.
    """
    failed = _unreadable(datasets)
    datasets = [dataset for dataset in datasets if dataset not in failed]
    if not datasets:
        return failed
    home = preprocessed_folder()
    staging = home / f".seqtransfer_fingerprints_{os.getpid()}"
    at_once = max(1, min(processes, len(datasets)))
    with disk_errors_as_user_errors(home):
        staging.mkdir(exist_ok=True)  # a killed process may have had the same process id
        try:
            with (
                _redirected_nnunet(staging),
                ThreadPoolExecutor(at_once) as pool,
                tqdm(total=len(datasets), desc="Extracting fingerprints", unit="dataset") as bar,
            ):
                # each extractor starts a process pool of its own
                workers = max(1, processes // at_once)
                jobs = {pool.submit(_extract, name, workers, len(datasets) == 1): name for name in datasets}
                for job in as_completed(jobs):
                    bar.update()
                    try:
                        job.result()
                    except DatasetError as error:
                        failed[jobs[job]] = error
                        continue
                    (home / jobs[job]).mkdir(exist_ok=True)
                    (staging / jobs[job] / FINGERPRINT).replace(home / jobs[job] / FINGERPRINT)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return failed


@contextlib.contextmanager
def _redirected_nnunet(staging: Path) -> Iterator[None]:
    """Let nnU-Net write to ``staging``, silently, and list file names with threads.

    nnU-Net lists file names in a forking pool; a fork may hang, because this process has threads.
    """
    from nnunetv2.utilities import utils  # noqa: PLC0415 - slow import

    pool, folder = utils.Pool, os.environ["nnUNet_preprocessed"]
    # nnU-Net looks the variable up at every use.
    utils.Pool, os.environ["nnUNet_preprocessed"] = ThreadPool, str(staging)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        utils.Pool, os.environ["nnUNet_preprocessed"] = pool, folder


def _unreadable(datasets: Sequence[str]) -> dict[str, DatasetError]:
    """Return an error per dataset whose first image has no reader; nnU-Net would print a traceback for each."""
    failed: dict[str, DatasetError] = {}
    for dataset in datasets:
        content = read_dataset_json(dataset)
        example = next(iter(raw_cases(dataset, content).values())).images[0]
        try:
            reader_writer(content, example)
        except DatasetError as error:
            failed[dataset] = error
    return failed


def _extract(dataset: str, workers: int, show_progress: bool) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415 - slow import
        DatasetFingerprintExtractor,
    )

    try:
        extractor = DatasetFingerprintExtractor(dataset, workers)
        extractor.show_progress_bar = show_progress
        extractor.run(overwrite_existing=True)
    except Exception as error:  # image readers raise all kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, a permission
            raise
        raise _not_extracted(dataset, error) from error


@dataclass(frozen=True)
class CaseAnalysis:
    """What nnU-Net's fingerprint extractor measures in one case, axes as nnU-Net's readers give them."""

    shape: tuple[int, ...]
    "Shape after cropping to non-zero voxels."
    spacing: tuple[float, ...]
    "Spacing in mm."
    intensities: list[NDArray[Any]]
    "Sampled foreground intensities of each channel; empty without foreground."
    relative_size: float
    "Voxels after cropping divided by voxels before."


def analyse_case(job: tuple[str, RawCase, str]) -> CaseAnalysis | DatasetError:
    """Measure one case, given dataset, files and name of the reader; runs in a worker process."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415 - slow import
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415

    dataset, case, reader = job
    try:
        shape, spacing, intensities, _, relative_size = DatasetFingerprintExtractor.analyze_case(
            [str(image) for image in case.images], str(case.label), recursive_find_reader_writer_by_name(reader)
        )
    except Exception as error:  # image readers raise all kinds for a damaged file
        return _not_extracted(dataset, error)
    arrays = [np.asarray(values, dtype=np.float64) for values in intensities]
    return CaseAnalysis(tuple(map(int, shape)), tuple(map(float, spacing)), arrays, float(relative_size))


def sample_fingerprint(cases: Sequence[str], analyses: Sequence[CaseAnalysis]) -> dict[str, Any]:
    """Return a fingerprint of sampled cases in nnU-Net's layout, with the identifiers of the cases added."""
    properties = {}
    for channel in range(len(analyses[0].intensities)):
        values = np.concatenate([analysis.intensities[channel] for analysis in analyses])
        values = values if len(values) else np.zeros(1)  # a missing foreground is reported with the labels
        low, median, high = np.percentile(values, [0.5, 50, 99.5])
        statistics = (values.mean(), median, values.std(), values.min(), values.max(), high, low)
        names = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
        properties[str(channel)] = dict(zip(names, map(float, statistics), strict=True))
    return {
        "cases": list(cases),
        "spacings": [list(analysis.spacing) for analysis in analyses],
        "shapes_after_crop": [list(analysis.shape) for analysis in analyses],
        "foreground_intensity_properties_per_channel": properties,
        "median_relative_size_after_cropping": float(np.median([analysis.relative_size for analysis in analyses])),
    }


def _not_extracted(dataset: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"the fingerprint of {dataset} cannot be extracted ({reason_of(error)}); check the dataset with "
        f"nnUNetv2_plan_and_preprocess -d {dataset_id(dataset)} --verify_dataset_integrity"
    )

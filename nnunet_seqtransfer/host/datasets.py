"""What nnU-Net says about a dataset: dataset.json, the files of its cases, its fingerprint and its splits."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.host.folders import preprocessed_folder, raw_folder
from nnunet_seqtransfer.storage import naming_full_and_read_only_disks, read_json

FINGERPRINT = "dataset_fingerprint.json"


@dataclass(frozen=True)
class RawCase:
    """The files of one labelled case."""

    images: tuple[Path, ...]
    "One file per channel, in the order of the channels."
    label: Path
    "The reference segmentation."


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """dataset.json, from nnUNet_raw or else from nnUNet_preprocessed, checked for what nnU-Net needs.

    Raises RecordError where it is missing or broken, DatasetError where a needed entry is missing or senseless.
    """
    candidates = [folder / dataset / "dataset.json" for folder in (raw_folder(), preprocessed_folder())]
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    content = read_json(path, "dataset.json", "restore it from the dataset's origin")
    problems = []
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels:
        problems.append("no channel_names")
    labels = content.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        problems.append("labels without background 0")
    elif not set(labels) - {"background", "ignore"}:
        problems.append("no label but background")
    if not isinstance(content.get("file_ending"), str):
        problems.append("no file_ending")
    if problems:
        raise DatasetError(f"dataset.json of {dataset} has {' and '.join(problems)}; correct {path}")
    return content


def channel_names(dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """The names of the input channels in their order ("modality" is the key of older datasets)."""
    names: dict[str, Any] = dataset_json.get("channel_names", dataset_json.get("modality"))
    return tuple(str(names[key]) for key in sorted(names, key=int))


def foreground_labels(dataset_json: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Label (or region) name -> the label values it consists of; background and the ignore label left out."""
    return {
        name: tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
        for name, value in dataset_json["labels"].items()
        if name not in ("background", "ignore")
    }


def raw_cases(dataset: str, dataset_json: dict[str, Any]) -> dict[str, RawCase]:
    """Identifier -> files of all labelled cases in nnUNet_raw, as nnU-Net lists them; empty where there is no raw data.

    Raises DatasetError where a channel or a label file of a case is missing, naming the first such file.
    """
    folder = raw_folder() / dataset
    if not folder.is_dir():
        return {}
    cases = dict(
        _listed_cases(folder, dataset_json) if "dataset" in dataset_json else _found_cases(folder, dataset_json)
    )
    missing = [path for case in cases.values() for path in (*case.images, case.label) if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{dataset} is incomplete: {len(missing)} of its files are missing, the first is {missing[0]}; "
            "download or copy the dataset again"
        )
    if not cases:
        raise DatasetError(f"{dataset} has no labelled cases in {folder / 'imagesTr'}; copy its images there")
    return cases


def _listed_cases(folder: Path, dataset_json: dict[str, Any]) -> Iterator[tuple[str, RawCase]]:
    """Cases that dataset.json lists itself, with paths relative to the dataset's folder and variables expanded."""
    for identifier, entry in dataset_json["dataset"].items():
        images = tuple((folder / os.path.expandvars(image)).absolute() for image in entry["images"])
        yield identifier, RawCase(images, (folder / os.path.expandvars(entry["label"])).absolute())


def _found_cases(folder: Path, dataset_json: dict[str, Any]) -> Iterator[tuple[str, RawCase]]:
    """Cases found by their file names: imagesTr/CASE_0000.EXT ... and labelsTr/CASE.EXT."""
    ending = dataset_json["file_ending"]
    pattern = re.compile(r"(?P<case>.+)_\d{4}" + re.escape(ending))
    images, labels = folder / "imagesTr", folder / "labelsTr"
    found = [match for name in _names(images) if (match := pattern.fullmatch(name))]
    labelled = {name.removesuffix(ending) for name in _names(labels) if name.endswith(ending)}
    channels = range(len(channel_names(dataset_json)))
    for identifier in sorted({match["case"] for match in found} | labelled):
        files = tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in channels)
        yield identifier, RawCase(files, labels / f"{identifier}{ending}")


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def read_fingerprint(dataset: str) -> dict[str, Any]:
    """nnU-Net's dataset fingerprint. Raises RecordError (missing, broken) or DatasetError (entries missing)."""
    path = preprocessed_folder() / dataset / FINGERPRINT
    remedy = f"delete it and run nnUNetv2_extract_fingerprint -d {dataset.split('_', maxsplit=1)[0].removeprefix('Dataset')}"
    content = read_json(path, "the dataset fingerprint", remedy)
    needed = {"spacings", "shapes_after_crop", "foreground_intensity_properties_per_channel"}
    if not needed <= set(content) or not content["spacings"]:
        raise DatasetError(f"the dataset fingerprint of {dataset} lacks entries: {path}; {remedy}")
    return content


def has_fingerprint(dataset: str) -> bool:
    """Whether nnU-Net's fingerprint of this dataset exists."""
    return (preprocessed_folder() / dataset / FINGERPRINT).is_file()


def extract_fingerprints(datasets: Sequence[str], processes: int) -> None:
    """Has nnU-Net extract fingerprints (reads every case once), each put in place only when it is complete.

    nnU-Net's own extractor writes in place, so that a run killed in that moment leaves half a file behind; it is
    therefore pointed at a folder of its own, and the results are moved. Most of its time on a small dataset is the
    start of its worker processes, so that several datasets go side by side.

    Raises DatasetError where a case cannot be read.
    """
    for dataset in datasets:
        raw_cases(dataset, read_dataset_json(dataset))
    staging = preprocessed_folder() / f".seqtransfer_fingerprints_{os.getpid()}"
    side_by_side = max(1, min(processes, len(datasets)))
    with naming_full_and_read_only_disks(preprocessed_folder()):
        staging.mkdir()
        try:
            with (
                _preprocessed_at(staging),
                contextlib.redirect_stdout(io.StringIO()),
                ThreadPoolExecutor(side_by_side) as pool,
                tqdm(total=len(datasets), desc="Extracting fingerprints", unit="dataset") as bar,
            ):
                workers = max(1, processes // side_by_side)
                jobs = {pool.submit(_extract, name, workers, len(datasets) == 1): name for name in datasets}
                for job in as_completed(jobs):
                    job.result()
                    bar.update()
            for dataset in datasets:
                (preprocessed_folder() / dataset).mkdir(exist_ok=True)
                (staging / dataset / FINGERPRINT).replace(preprocessed_folder() / dataset / FINGERPRINT)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _extract(dataset: str, workers: int, show_progress: bool) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415 - slow import
        DatasetFingerprintExtractor,
    )

    try:
        extractor = DatasetFingerprintExtractor(dataset, workers)
        extractor.show_progress_bar = show_progress
        extractor.run(overwrite_existing=True)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DatasetError(
            f"the fingerprint of {dataset} cannot be extracted ({reason}); check the dataset with "
            f"nnUNetv2_plan_and_preprocess --verify_dataset_integrity"
        ) from error


@contextlib.contextmanager
def _preprocessed_at(folder: Path) -> Iterator[None]:
    """Lets nnU-Net see ``folder`` as nnUNet_preprocessed (it looks the variable up whenever it needs it)."""
    before = os.environ["nnUNet_preprocessed"]
    os.environ["nnUNet_preprocessed"] = str(folder)
    try:
        yield
    finally:
        os.environ["nnUNet_preprocessed"] = before


def fold_count(dataset: str, cases: int) -> int:
    """How many folds the dataset's splits have: those of splits_final.json, or the five that nnU-Net would make.

    Raises DatasetError where nnU-Net could not make its five folds of ``cases`` cases.
    """
    path = preprocessed_folder() / dataset / "splits_final.json"
    if path.is_file():
        import json  # noqa: PLC0415

        try:
            return len(json.loads(path.read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"the splits of {dataset} are broken ({error}): {path}; delete or restore them"
            ) from None
    if cases < 5:
        raise DatasetError(
            f"{dataset} has {cases} cases, too few for nnU-Net's five folds; train fold all, or write {path}"
        )
    return 5

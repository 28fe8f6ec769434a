"""What nnU-Net says about a dataset: dataset.json, the files of its cases, and its splits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, raw_folder
from nnunet_seqtransfer.storage import read_json, write_json

COLOUR_FORMATS = (".png", ".bmp", ".tif")
"""Endings of the files from which nnU-Net reads three channels where they hold colours."""


@dataclass(frozen=True)
class RawCase:
    """The files of one labelled case."""

    images: tuple[Path, ...]
    "One file per channel, in the order of the channels; one file alone where it holds colours."
    label: Path
    "The reference segmentation."


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """dataset.json, from nnUNet_raw or else from nnUNet_preprocessed, checked for what nnU-Net needs.

    Raises RecordError where it is missing or broken, DatasetError where a needed entry is missing or senseless.
    """
    candidates = [folder / dataset / "dataset.json" for folder in (raw_folder(), preprocessed_folder())]
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    content = read_json(path, f"dataset.json of {dataset}", "restore it from the dataset's origin")
    problems = _problems(content)
    if problems:
        raise DatasetError(f"dataset.json of {dataset} has {' and '.join(problems)}; correct {path}")
    if path != candidates[1] and candidates[1].is_file():
        _require_same_meaning(content, candidates[1])
    return content


def _require_same_meaning(raw: dict[str, Any], copy: Path) -> None:
    """Raises DatasetError where the copy that nnU-Net trains with has other channels or labels than the raw dataset."""
    copied = read_json(copy, "the copy of dataset.json", "delete it and preprocess the dataset again")
    for entry in ("channel_names", "modality", "labels", "regions_class_order"):
        if raw.get(entry) != copied.get(entry):
            raise DatasetError(
                f"{entry} of dataset.json differ between nnUNet_raw and the copy that nnU-Net trains with: {copy}; "
                "delete the copy and preprocess the dataset again"
            )


def _problems(content: dict[str, Any]) -> list[str]:
    """What is wrong with the content of a dataset.json, in words that follow "it has"."""
    problems = []
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels:
        problems.append("no channel_names")
    elif not all(str(key).isdecimal() for key in channels):
        problems.append("channel_names whose keys are no numbers")
    labels = content.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        problems.append("labels without background 0")
    elif not set(labels) - {"background", "ignore"}:
        problems.append("no label but background")
    elif not all(_is_label(value) for value in labels.values()):
        problems.append("labels that are no whole numbers")
    elif any(isinstance(value, list) for value in labels.values()) and "regions_class_order" not in content:
        problems.append("regions, but no regions_class_order")
    if not isinstance(content.get("file_ending"), str):
        problems.append("no file_ending")
    return problems


def _is_label(value: Any) -> bool:
    return all(str(part).isdecimal() for part in value) if isinstance(value, list) else str(value).isdecimal()


def channel_names(dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """The names of the input channels in their order ("modality" is the key of older datasets)."""
    names: dict[str, Any] = dataset_json.get("channel_names") or dataset_json["modality"]
    return tuple(str(names[key]) for key in sorted(names, key=int))


def foreground_labels(dataset_json: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Label (or region) name -> the label values it consists of; background and the ignore label left out."""
    return {
        name: tuple(int(part) for part in value) if isinstance(value, list) else (int(value),)
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
        try:
            images = tuple(_listed_path(folder, image) for image in entry["images"])
            label = _listed_path(folder, entry["label"])
        except (KeyError, TypeError):
            raise DatasetError(
                f"dataset.json of {folder.name} lists the case {identifier} without images or label; correct "
                f"{folder / 'dataset.json'}"
            ) from None
        yield identifier, RawCase(images, label)


def _listed_path(folder: Path, text: str) -> Path:
    # As nnU-Net does: ".." is taken away from the text, which matters where the dataset's folder is a symbolic link.
    return Path(os.path.abspath(folder / os.path.expandvars(text)))  # noqa: PTH100


def raw_test_cases(dataset: str, dataset_json: dict[str, Any]) -> dict[str, RawCase]:
    """Identifier -> files of the cases in imagesTs and labelsTs of nnUNet_raw.

    Raises DatasetError where there are none, or a channel or a label file of one is missing.
    """
    folder = raw_folder() / dataset
    cases = dict(_found_cases(folder, dataset_json, "Ts"))
    missing = [path for case in cases.values() for path in (*case.images, case.label) if not path.is_file()]
    if missing or not cases:
        what = f"{missing[0]} is missing" if missing else f"there are none in {folder / 'imagesTs'}"
        raise DatasetError(f"{dataset} has no labelled test cases: {what}; copy imagesTs and labelsTs there")
    return cases


def _found_cases(folder: Path, dataset_json: dict[str, Any], part: str = "Tr") -> Iterator[tuple[str, RawCase]]:
    """Cases found by their file names: imagesTr/CASE_0000.EXT ... and labelsTr/CASE.EXT."""
    ending = dataset_json["file_ending"]
    pattern = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})" + re.escape(ending))
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    found = [match for name in _names(images) if (match := pattern.fullmatch(name))]
    labelled = {name.removesuffix(ending) for name in _names(labels) if name.endswith(ending)}
    stored = range(len(channel_names(dataset_json)))
    if ending in COLOUR_FORMATS:  # one file may hold several channels
        stored = range(1 + max((int(match["channel"]) for match in found), default=0))
    for identifier in sorted({match["case"] for match in found} | labelled):
        files = tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in stored)
        yield identifier, RawCase(files, labels / f"{identifier}{ending}")


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def write_missing_splits(dataset: str, identifiers: Iterable[str]) -> None:
    """Writes splits_final.json as nnU-Net would at the start of a training, but aside: two folds may start at once.

    ``identifiers``: of all preprocessed cases. A file that is there is left as it is.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split  # noqa: PLC0415 - slow import

    path = preprocessed_folder() / dataset / "splits_final.json"
    if not path.is_file():
        write_json(path, generate_crossval_split(sorted(identifiers), seed=12345, n_splits=5))


def fold_count(dataset: str, cases: int) -> int:
    """How many folds the dataset's splits have: those of splits_final.json, or the five that nnU-Net would make.

    Raises DatasetError where the splits are broken, or nnU-Net could not make its five folds of ``cases`` cases.
    """
    path = preprocessed_folder() / dataset / "splits_final.json"
    if path.is_file():
        return len(_read_splits(dataset, path))
    if cases < 5:
        raise DatasetError(
            f"{dataset} has {cases} cases, too few for nnU-Net's five folds; train fold all, or write {path}"
        )
    return 5


def require_folds(dataset: str, folds: Iterable[str], cases: Collection[str]) -> None:
    """Raises DatasetError where the dataset has no such fold, or its splits name cases that it does not have."""
    numbered = [fold for fold in folds if fold != "all"]
    if not numbered:
        return
    count = fold_count(dataset, len(cases))
    wrong = [fold for fold in numbered if fold not in {str(number) for number in range(count)}]
    if wrong:
        raise DatasetError(f"{dataset} has no fold {wrong[0]}; choose from 0 to {count - 1}, or all")
    path = preprocessed_folder() / dataset / "splits_final.json"
    splits = _read_splits(dataset, path) if path.is_file() else []
    unknown = sorted({case for split in splits for part in split.values() for case in part} - set(cases))
    if unknown:
        raise DatasetError(
            f"the splits of {dataset} name cases that it does not have, the first is {unknown[0]}: {path}; "
            "delete or correct them"
        )


def validation_cases(dataset: str, cases: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Fold -> the cases it holds out for validation, by splits_final.json or else nnU-Net's own seeded five folds.

    Args:
        dataset: full name.
        cases: identifiers of its preprocessed cases, which nnU-Net would split; fewer than five have no folds.

    Raises DatasetError where the splits are broken.
    """
    return {fold: split["val"] for fold, split in split_cases(dataset, cases).items()}


def split_cases(dataset: str, cases: Collection[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Fold -> "train" and "val" -> its cases; arguments and errors as `validation_cases`."""
    path = preprocessed_folder() / dataset / "splits_final.json"
    if path.is_file():
        splits = _read_splits(dataset, path)
    elif len(cases) < 5:
        return {}
    else:
        from nnunetv2.utilities.crossval_split import generate_crossval_split  # noqa: PLC0415 - imports scikit-learn

        splits = generate_crossval_split(sorted(cases))
    return {
        str(fold): {part: tuple(str(case) for case in split[part]) for part in ("train", "val")}
        for fold, split in enumerate(splits)
    }


def _read_splits(dataset: str, path: Path) -> list[dict[str, list[str]]]:
    remedy = "restore it, or delete it: nnU-Net then makes new ones"
    try:
        splits = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"the splits of {dataset} are broken ({error}): {path}; {remedy}") from None
    if not isinstance(splits, list) or not all(
        isinstance(split, dict) and isinstance(split.get(part), list) for split in splits for part in ("train", "val")
    ):
        raise DatasetError(f"the splits of {dataset} are no list of folds with train and val: {path}; {remedy}")
    return splits

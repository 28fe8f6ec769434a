"""Read what nnU-Net knows about a dataset: dataset.json, the files of each case, and the folds."""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError, raise_collected
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, raw_folder
from nnunet_seqtransfer.nnunet.image_formats import COLOUR_FORMATS
from nnunet_seqtransfer.storage import read_json, write_json

Splits = dict[str, dict[str, tuple[str, ...]]]
"""Fold -> "train" and "val" -> case identifiers."""


@dataclass(frozen=True)
class RawCase:
    """The files of one labelled case."""

    images: tuple[Path, ...]
    "One file per channel in channel order; a colour image is a single file."
    label: Path
    "Reference segmentation."

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files, the label last."""
        return (*self.images, self.label)

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.files)


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """Read dataset.json from nnUNet_raw, otherwise from nnUNet_preprocessed, and check the entries.

    Raises RecordError if the file is missing or broken, DatasetError if an entry that nnU-Net needs is missing or
    invalid, or if both copies disagree.
    """
    candidates = [folder / dataset / "dataset.json" for folder in (raw_folder(), preprocessed_folder())]
    # if both are missing, the error names the raw file
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    content = read_json(path, f"dataset.json of {dataset}", "restore it from the source of the dataset")
    problems = list(dataset_json_problems(content))
    if problems:
        raise DatasetError(f"dataset.json of {dataset} has {' and '.join(problems)}; correct {path}")
    # nnU-Net trains with the copy in nnUNet_preprocessed
    if path != candidates[1] and candidates[1].is_file():
        _require_same_meaning(content, candidates[1])
    return content


def _require_same_meaning(raw: dict[str, Any], copy: Path) -> None:
    copied = read_json(copy, "the copy of dataset.json", "delete it and preprocess the dataset again")
    for entry in ("channel_names", "modality", "labels", "regions_class_order"):
        if raw.get(entry) != copied.get(entry):
            raise DatasetError(
                f"{entry} of dataset.json differ between nnUNet_raw and the copy that nnU-Net trains with: {copy}; "
                "delete the copy and preprocess the dataset again"
            )


def channel_names(dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """Return the input channels in order. Older datasets name them under "modality"."""
    names: dict[str, Any] = dataset_json.get("channel_names") or dataset_json["modality"]
    # keys are text: "10" would sort before "2"
    return tuple(str(names[key]) for key in sorted(names, key=int))


def foreground_labels(dataset_json: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return label or region name -> label values, without background and the ignore label."""
    values = {
        name: tuple(map(int, value)) if isinstance(value, list) else (int(value),)
        for name, value in dataset_json["labels"].items()
        if name != "ignore"
    }
    # nnU-Net takes every label of value 0 for background
    return {name: numbers for name, numbers in values.items() if set(numbers) != {0}}


def raw_cases(dataset: str, dataset_json: dict[str, Any]) -> dict[str, RawCase]:
    """Return identifier -> files for all labelled cases in nnUNet_raw, listed as nnU-Net lists them.

    The result is empty if the dataset has no raw folder. Raises DatasetError, naming the first missing file, if an
    image or label file is missing.
    """
    folder = raw_folder() / dataset
    if not folder.is_dir():
        return {}
    # nnU-Net ignores imagesTr if dataset.json lists the cases
    listed = "dataset" in dataset_json
    cases = dict(_listed_cases(folder, dataset_json) if listed else _cases_by_file_name(folder, dataset_json))
    raise_collected([DatasetError(problem) for problem in _listing_problems(folder, dataset_json, cases)])
    return cases


def _listing_problems(folder: Path, dataset_json: dict[str, Any], cases: dict[str, RawCase]) -> Iterator[str]:
    """Yield what is wrong with the files of a dataset before any is opened."""
    name, expected = folder.name, dataset_json["numTraining"]
    lost = [] if len(cases) >= expected else lone_labels(folder, dataset_json, cases)
    missing = [*_missing_files(cases), *(_image_path(folder / "imagesTr", case, 0, dataset_json) for case in lost)]
    if missing:
        yield (
            f"{name} is incomplete: {len(missing)} of its files are missing, the first is {min(missing)}; "
            "download or copy the dataset again"
        )
    if not cases:
        ending, others = dataset_json["file_ending"], _names(folder / "imagesTr")
        found = f", but {others[0]}; correct file_ending {ending} in dataset.json" if others else ""
        yield f"{name} has no labelled cases in {folder / 'imagesTr'}{found or '; copy its images there'}"
    elif len(cases) != expected and not missing:
        yield (
            f"{name} has {len(cases)} cases, but numTraining in its dataset.json is {expected}; restore the missing "
            f"images, or correct {folder / 'dataset.json'}"
        )
    lost_names = [case for case in cases if case.endswith("_seg") or Path(case).name != case]
    if lost_names:
        yield (
            f"nnU-Net would not find the preprocessed case {lost_names[0]} of {name}: identifiers must not end in _seg "
            f"or hold a slash; rename the files of {len(lost_names)} cases"
        )
    strays = [] if "dataset" in dataset_json else _stray_images(folder, dataset_json, cases)
    if strays:
        yield (
            f"nnU-Net takes {strays[0]} in {folder / 'imagesTr'} for a case, although its name does not end in a "
            f"channel of four digits (_0000); rename or remove {len(strays)} such files"
        )


def lone_labels(folder: Path, dataset_json: dict[str, Any], cases: Collection[str]) -> list[str]:
    """Return identifiers with a file in labelsTr but no image, sorted. nnU-Net ignores them."""
    if "dataset" in dataset_json:
        return []
    return sorted(_labelled(folder / "labelsTr", dataset_json["file_ending"]) - set(cases))


def _labelled(folder: Path, ending: str) -> set[str]:
    return {name.removesuffix(ending) for name in _names(folder) if name.endswith(ending)}


def _stray_images(folder: Path, dataset_json: dict[str, Any], cases: Collection[str]) -> list[str]:
    ending = dataset_json["file_ending"]
    names = [name for name in _names(folder / "imagesTr") if name.endswith(ending)]
    # nnU-Net cuts off five characters, whatever they are
    return [name for name in names if name[: -len(ending) - 5] not in cases]


def raw_test_cases(dataset: str, dataset_json: dict[str, Any]) -> dict[str, RawCase]:
    """Return identifier -> files for the cases in imagesTs and labelsTs of nnUNet_raw.

    Raises DatasetError if there are none, or if an image or label file is missing.
    """
    folder = raw_folder() / dataset
    cases = dict(_cases_by_file_name(folder, dataset_json, "Ts"))
    missing = _missing_files(cases)
    if missing or not cases:
        reason = f"{missing[0]} is missing" if missing else f"there are none in {folder / 'imagesTs'}"
        raise DatasetError(f"{dataset} has no labelled test cases: {reason}; copy imagesTs and labelsTs there")
    return cases


def _missing_files(cases: dict[str, RawCase]) -> list[Path]:
    return [path for case in cases.values() for path in case.files if not path.is_file()]


def _listed_cases(folder: Path, dataset_json: dict[str, Any]) -> Iterator[tuple[str, RawCase]]:
    """Yield the cases that dataset.json lists in the entry "dataset"."""
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
    # nnU-Net removes ".." from the text before it looks at the disk; this matters if the folder is a symbolic link.
    return Path(os.path.abspath(folder / os.path.expandvars(text)))  # noqa: PTH100


def reference_from(dataset: str, path: Path) -> str:
    """Return the text that refers to ``path`` in the entry "dataset" of the dataset.json of ``dataset``.

    The text is relative if the file lies in nnUNet_raw, so that nnUNet_raw can be moved as a whole, else absolute.
    Raises DatasetError if nnU-Net would read a part of the path as an environment variable.
    """
    # As in `_listed_path`: text only, symbolic links are not resolved.
    raw, absolute = Path(os.path.abspath(raw_folder())), Path(os.path.abspath(path))  # noqa: PTH100
    inside = absolute.is_relative_to(raw)
    reference = Path(os.path.relpath(absolute, raw / dataset)).as_posix() if inside else str(absolute)
    if os.path.expandvars(reference) != reference:
        raise DatasetError(f"nnU-Net would replace the environment variable in the name of {path}; rename this file")
    return reference


def _cases_by_file_name(folder: Path, dataset_json: dict[str, Any], part: str = "Tr") -> Iterator[tuple[str, RawCase]]:
    """Yield the cases found by file name: imagesTr/CASE_0000.EXT ... and labelsTr/CASE.EXT."""
    ending, channels = dataset_json["file_ending"], len(channel_names(dataset_json))
    pattern = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})" + re.escape(ending))
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    stored: dict[str, list[Path]] = {}
    for name in _names(images):
        if match := pattern.fullmatch(name):
            stored.setdefault(match["case"], []).append(images / name)
    if part == "Ts":  # a test case that was not predicted must be reported
        stored = {case: stored.get(case, []) for case in {*stored, *_labelled(labels, ending)}}
    if ending in COLOUR_FORMATS:  # one file may hold several channels
        channels = max((len(files) for files in stored.values()), default=0)
    for identifier, files in sorted(stored.items()):
        expected = [_image_path(images, identifier, channel, dataset_json) for channel in range(channels)]
        # nnU-Net takes whatever numbers there are, if they are enough
        chosen = files if len(files) >= channels else expected
        yield identifier, RawCase(tuple(chosen), labels / f"{identifier}{ending}")


def _image_path(folder: Path, case: str, channel: int, dataset_json: dict[str, Any]) -> Path:
    return folder / f"{case}_{channel:04d}{dataset_json['file_ending']}"


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def write_missing_splits(dataset: str, identifiers: Iterable[str]) -> None:
    """Write splits_final.json with nnU-Net's seeded five folds if the file is missing.

    nnU-Net writes it in place when a training starts; two folds that start at once would collide.
    ``identifiers`` names all preprocessed cases.
    """
    path = _splits_path(dataset)
    if not path.is_file():
        write_json(path, _five_folds(identifiers))


def split_cases(dataset: str, cases: Collection[str]) -> Splits:
    """Return the folds in splits_final.json, or otherwise nnU-Net's seeded five folds.

    ``cases`` names all preprocessed cases. The result is empty if there is no file and fewer than five cases.
    Raises DatasetError if the file is broken.
    """
    path = _splits_path(dataset)
    splits: list[dict[str, list[str]]] = []
    if path.is_file():
        splits = _read_splits(dataset, path)
    elif len(cases) >= 5:
        splits = _five_folds(cases)
    return {
        str(fold): {part: tuple(str(case) for case in split[part]) for part in ("train", "val")}
        for fold, split in enumerate(splits)
    }


def validation_cases(dataset: str, cases: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return fold -> validation cases, see `split_cases`."""
    return {fold: split["val"] for fold, split in split_cases(dataset, cases).items()}


def require_folds(dataset: str, folds: Iterable[str], cases: Collection[str]) -> None:
    """Raise DatasetError if a fold does not exist, or if the splits name cases that the dataset does not have."""
    numbered = [fold for fold in folds if fold != "all"]
    if not numbered:
        return
    path, splits = _splits_path(dataset), split_cases(dataset, cases)
    if not splits and not path.is_file():
        raise DatasetError(
            f"{dataset} has {len(cases)} cases, too few for nnU-Net's five folds; train fold all, or write {path}"
        )
    wrong = [fold for fold in numbered if fold not in splits]
    if wrong:
        raise DatasetError(f"{dataset} has no fold {wrong[0]}; choose from 0 to {len(splits) - 1}, or all")
    # nnU-Net would fail in the middle of the training, when it loads such a case
    unknown = sorted({case for split in splits.values() for part in split.values() for case in part} - set(cases))
    if unknown:
        raise DatasetError(
            f"the splits of {dataset} name cases that it does not have, the first is {unknown[0]}: {path}; "
            "delete or correct them"
        )


def _splits_path(dataset: str) -> Path:
    return preprocessed_folder() / dataset / "splits_final.json"


def _five_folds(cases: Iterable[str]) -> list[dict[str, list[str]]]:
    from nnunetv2.utilities.crossval_split import generate_crossval_split  # noqa: PLC0415 - imports scikit-learn

    folds: list[dict[str, list[str]]] = generate_crossval_split(sorted(cases), seed=12345, n_splits=5)
    return folds


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


def dataset_json_problems(content: dict[str, Any]) -> Iterator[str]:
    """Yield each problem as words that follow "it has"."""
    yield from _channel_problems(content.get("channel_names", content.get("modality")))
    yield from _label_problems(content)
    if not isinstance(content.get("file_ending"), str):
        yield "no file_ending"
    if not isinstance(content.get("numTraining"), int):
        yield "no numTraining"


def _channel_problems(channels: Any) -> Iterator[str]:
    if not isinstance(channels, dict) or not channels:
        yield "no channel_names"
    elif not all(str(key).isdecimal() for key in channels):
        yield "channel_names whose keys are no numbers"
    elif not all(isinstance(name, str) for name in channels.values()):
        yield "channel_names that are no text"


def _label_problems(content: dict[str, Any]) -> Iterator[str]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or _whole(labels.get("background")) != 0:
        yield "labels without background 0"
        return
    values = {name: _values(value) for name, value in labels.items() if name != "ignore"}
    wrong = [name for name, numbers in values.items() if not numbers]
    if wrong:
        yield f"labels that are no whole numbers ({', '.join(f'{name}: {labels[name]!r}' for name in wrong)})"
        return
    used = sorted({number for numbers in values.values() for number in numbers})
    if used == [0]:
        yield "no label but background"
        return
    lacking = sorted(set(range(used[-1])) - set(used))
    if lacking:
        yield (
            f"labels that are not consecutive (values {', '.join(map(str, used))} without "
            f"{', '.join(map(str, lacking))}; the label files must be renumbered too)"
        )
    ignore, highest = labels.get("ignore"), used[-1] + 1
    # nnU-Net converts the other labels with int(), this one must be a number already
    if ignore is not None and (not isinstance(ignore, int) or ignore != highest):
        yield f"the ignore label {ignore!r} instead of {highest}, one above the highest label"
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        yield from _region_problems(labels, values, content.get("regions_class_order"))


def _region_problems(labels: dict[str, Any], values: dict[str, tuple[int, ...]], order: Any) -> Iterator[str]:
    parts = [part for value in labels.values() for part in (value if isinstance(value, list) else [value])]
    if any(isinstance(part, str) for part in parts):
        yield "regions with values as text, which nnU-Net's training does not find in label files"
    regions = [name for name, numbers in values.items() if set(numbers) != {0}]
    if not isinstance(order, list):
        yield "regions, but no regions_class_order"
    elif len(order) != len(regions):
        yield f"a regions_class_order of length {len(order)} for {len(regions)} regions ({', '.join(regions)})"


def _values(value: Any) -> tuple[int, ...]:
    """Return the label values of one label or region, or nothing if any is no whole number from 0."""
    numbers = [_whole(part) for part in (value if isinstance(value, list) else [value])]
    return tuple(number for number in numbers if number is not None) if None not in numbers else ()


def _whole(value: Any) -> int | None:
    """Return a label value as nnU-Net's int() does, or None if it is negative or int() would change it."""
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else None
    is_whole = isinstance(value, int | float) and value >= 0 and float(value).is_integer()
    return int(value) if is_whole else None

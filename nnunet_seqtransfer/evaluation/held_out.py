"""A test set apart from the folds: its cases, and the predictions of each model by nnU-Net's own command."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import DatasetError, RecordError, StageError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, raw_test_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import installed_command
from nnunet_seqtransfer.overlap.cache import SketchedDataset, sketch_cases, sketch_dataset
from nnunet_seqtransfer.storage import read_record, sha256, write_record
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import TRAINER, Stage
from nnunet_seqtransfer.training.supervise import run_job

MARK = "seq_compare.json"
KIND = "predictions"
FORMAT = 1


@dataclass(frozen=True)
class HeldOutSet:
    """Cases that are predicted and evaluated, and trained on by nobody."""

    dataset: str
    "Full name of the dataset that they belong to."
    name: str
    "For messages: that name, or NAME/imagesTs."
    cases: Mapping[str, RawCase]
    "Identifier -> files."

    def sketched(self, processes: int, *, write: bool) -> SketchedDataset:
        """Their sketches; those of a whole dataset are kept (``write``). Raises DatasetError for an unreadable case."""
        if self.name == self.dataset:
            return sketch_dataset(self.dataset, processes, write=write)
        return sketch_cases(self.name, self.cases, read_dataset_json(self.dataset), processes)


def load_held_out(dataset: str, target: Task) -> HeldOutSet:
    """The test set that a dataset holds: its labelled cases, or imagesTs and labelsTs where it is the target itself.

    Raises DatasetError where it has other channels, labels or files than the target.
    """
    own = read_dataset_json(dataset)
    if dataset == target.dataset:
        return HeldOutSet(dataset, f"{dataset}/imagesTs", raw_test_cases(dataset, own))
    differing = [
        what
        for what, one, other in (
            ("channels", channel_names(own), target.channels),
            ("labels", own["labels"], target.dataset_json["labels"]),
            ("file_ending", own["file_ending"], target.dataset_json["file_ending"]),
        )
        if one != other
    ]
    if differing:
        raise DatasetError(
            f"the test set {dataset} has other {' and '.join(differing)} than {target.dataset}; "
            "derive one that fits with nnUNetv2_seq_derive"
        )
    cases = raw_cases(dataset, own)
    if not cases:
        raise DatasetError(f"the test set {dataset} has no raw images here; copy it to nnUNet_raw")
    return HeldOutSet(dataset, dataset, cases)


def predict(
    test: HeldOutSet, stage: Stage, folder: Path, device: str, notify: Callable[[str], None], *, mirroring: bool
) -> Path:
    """Predicts all cases with one model, unless that was done; returns the folder of the predictions.

    The folder gets its name when all are there, and remembers the checkpoint: predictions of another are made anew.
    Where another process is at the same ones, this waits and takes them.

    Args:
        test: the cases.
        stage: the target's stage whose final checkpoint predicts.
        folder: of the comparison.
        device: cuda, cpu or mps.
        notify: is told, once, whom this waits for.
        mirroring: nnU-Net's test time augmentation.
    """
    name = f"{stage.plans_name}_fold_{stage.fold}"
    final = folder / "predictions" / f"{test.dataset}_{name}"
    with locked_in_turn(final.with_name(f".{final.name}.lock"), f"the predictions {final}", notify):
        made_by = {"checkpoint": sha256(stage.output / FINAL), "cases": sorted(test.cases), "mirroring": mirroring}
        if not _is_made_by(final, made_by):
            _predict(test, stage, folder, final, made_by, device, mirroring=mirroring)
    return final


def _predict(
    test: HeldOutSet,
    stage: Stage,
    folder: Path,
    final: Path,
    made_by: dict[str, object],
    device: str,
    *,
    mirroring: bool,
) -> None:
    name = f"{stage.plans_name}_fold_{stage.fold}"
    shutil.rmtree(final, ignore_errors=True)
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    images = _linked_images(test, folder / "test_images" / test.dataset)
    command = [
        *(_predict_command(), "-d", stage.dataset, "-i", str(images), "-o", str(aside)),
        *("-tr", TRAINER, "-p", stage.plans_name, "-c", stage.configuration, "-f", stage.fold, "-device", device),
        *("-npp", "1", "-nps", "1"),
        *([] if mirroring else ["--disable_tta"]),
    ]
    environment = {"PYTHONUNBUFFERED": "1"}
    run_job(Job(f"predicting {test.name}", tuple(command), environment, folder / "logs" / f"predict_{name}.log", 1))
    missing = [case for case in test.cases if not list(aside.glob(f"{case}.*"))]
    if missing:
        raise StageError(f"nnUNetv2_predict left out case {missing[0]}; see {folder / 'logs' / f'predict_{name}.log'}")
    write_record(aside / MARK, KIND, FORMAT, made_by)
    aside.rename(final)


def _is_made_by(folder: Path, made_by: dict[str, object]) -> bool:
    try:
        found = read_record(folder / MARK, KIND, FORMAT, "")
    except RecordError:
        return False
    return found == made_by and all(any(folder.glob(f"{case}.*")) for case in found["cases"])


def _linked_images(test: HeldOutSet, folder: Path) -> Path:
    """A folder with the images under nnU-Net's names for prediction: links, or copies where there are no links.

    Images of cases that the test set does not hold any more go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place in folder.iterdir():
        if place.name.rpartition("_")[0] not in test.cases:
            place.unlink(missing_ok=True)
    for case, files in test.cases.items():
        for channel, image in enumerate(files.images):
            ending = "".join(image.suffixes[-2:]) if image.name.endswith(".gz") else image.suffix
            place = folder / f"{case}_{channel:04d}{ending}"
            if place.exists():
                continue
            place.unlink(missing_ok=True)  # a link to a file that is gone
            try:
                place.symlink_to(image.resolve())
            except FileExistsError:  # another comparison of the same target was faster
                continue
            except OSError:
                shutil.copyfile(image, place)
    return folder


def _predict_command() -> str:
    return installed_command("nnUNetv2_predict")

"""Held-out cases: the test set, the guard against leaks, and predictions by nnU-Net's own command."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, StageError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, raw_test_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import installed_command
from nnunet_seqtransfer.overlap.cache import SketchedDataset, sketch_cases, sketch_dataset
from nnunet_seqtransfer.overlap.matching import SharedCase, announced_sketches, match_datasets
from nnunet_seqtransfer.storage import checksum, file_stats, found_record, sha256, write_record
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import TRAINER, Stage
from nnunet_seqtransfer.training.supervise import run_job

MARK, KIND, FORMAT = "seq_compare.json", "predictions", 1


@dataclass(frozen=True)
class HeldOutSet:
    """Cases that every model predicts and none is trained on."""

    dataset: str
    "Full name of the dataset with these cases."
    name: str
    "Name for messages: the dataset, or DATASET/imagesTs."
    cases: Mapping[str, RawCase]
    "Case identifier -> files."

    def sketched(self, processes: int) -> SketchedDataset:
        """Sketch the cases; keep the sketches if the cases are a whole dataset."""
        if self.name == self.dataset:
            return sketch_dataset(self.dataset, processes)
        # imagesTs is no dataset of its own, so its sketches have no place to be kept
        return sketch_cases(self.name, self.cases, read_dataset_json(self.dataset), processes)

    def stamp(self) -> str:
        """Return a checksum over names, sizes and times of all files; a changed file is evaluated again."""
        return checksum(file_stats(path for case in sorted(self.cases) for path in self.cases[case].files))


def load_held_out(dataset: str, target: Task) -> HeldOutSet:
    """Return the labelled cases of ``dataset``, or those in imagesTs and labelsTs if it is the target itself.

    Raises DatasetError if channels, labels or file ending differ from the target's, or there are no such cases.
    """
    own = read_dataset_json(dataset)
    if dataset == target.dataset:
        return HeldOutSet(dataset, f"{dataset}/imagesTs", raw_test_cases(dataset, own))
    pairs = {
        "channels": (channel_names(own), target.channels),
        "labels": (own["labels"], target.dataset_json["labels"]),
        "file_ending": (own["file_ending"], target.dataset_json["file_ending"]),
    }
    differing = [what for what, (one, other) in pairs.items() if one != other]
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
    test: HeldOutSet, stage: Stage, folder: Path, device: str, context: Context, *, mirroring: bool
) -> tuple[Path, Path]:
    """Predict all cases with one model unless that is done; return the folders with references and predictions.

    Predictions remember their checkpoint and files, and are replaced if these change. If another process predicts the
    same cases, wait for it. ``folder`` is the comparison's.
    """
    final = folder / "predictions" / f"{test.dataset}_{stage.plans_name}_fold_{stage.fold}"
    with locked_in_turn(final.with_name(f".{final.name}.lock"), f"the predictions {final}", context.notify):
        made_by = {
            "checkpoint": sha256(stage.output / FINAL),
            "cases": sorted(test.cases),
            "files": test.stamp(),
            "mirroring": mirroring,
        }
        if not _is_made_by(final, made_by):
            _predict(test, stage, folder, final, (device, context.processes), mirroring=mirroring)
            write_record(final / MARK, KIND, FORMAT, made_by)  # last: a folder without it is predicted again
        references = folder / "test_labels" / test.dataset
        _link(references, {f"{case}{_ending(files.label)}": files.label for case, files in test.cases.items()})
    return references, final


def _predict(
    test: HeldOutSet, stage: Stage, folder: Path, final: Path, resources: tuple[str, int], *, mirroring: bool
) -> None:
    device, processes = resources
    shutil.rmtree(final, ignore_errors=True)  # of another checkpoint, or of cases that have left
    images = folder / "test_images" / test.dataset
    _link(
        images,
        {
            f"{case}_{channel:04d}{_ending(image)}": image
            for case, files in test.cases.items()
            for channel, image in enumerate(files.images)
        },
    )
    # 0: nnU-Net reads and writes in the predicting process, which saves the start of two others
    workers = str(min(1, processes - 1))
    command = [
        *(installed_command("nnUNetv2_predict"), "-d", stage.dataset, "-i", str(images), "-o", str(final)),
        *("-tr", TRAINER, "-p", stage.plans_name, "-c", stage.configuration, "-f", stage.fold, "-device", device),
        *("-npp", workers, "-nps", workers, *([] if mirroring else ["--disable_tta"])),
    ]
    log = folder / "logs" / f"predict_{stage.plans_name}_fold_{stage.fold}.log"
    run_job(Job(f"predicting {test.name}", tuple(command), {"PYTHONUNBUFFERED": "1"}, log, 1))
    # a case without a prediction would silently change every mean
    missing = [case for case in test.cases if not any(final.glob(f"{case}.*"))]
    if missing:
        raise StageError(f"nnUNetv2_predict left out case {missing[0]}; see {log}")


def _is_made_by(folder: Path, made_by: dict[str, object]) -> bool:
    found = found_record(folder / MARK, KIND, FORMAT)
    return found == made_by and all(any(folder.glob(f"{case}.*")) for case in found["cases"])


def _link(folder: Path, files: Mapping[str, Path]) -> None:
    """Fill ``folder`` with links to the files under the given names, or with copies if links are not possible.

    Other files in the folder are removed: they belong to cases that have left the test set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        if path.name not in files or not path.exists():
            path.unlink(missing_ok=True)
    for name, file in files.items():
        link = folder / name
        if link.exists():
            continue
        try:
            link.symlink_to(file.resolve())
        except FileExistsError:  # another comparison of the same target was faster
            continue
        except OSError:
            shutil.copyfile(file, link)


def _ending(file: Path) -> str:
    return "".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix


Splits = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Fold -> "train" and "val" -> case identifiers."""


def require_unseen_folds(target: Task, folds: Sequence[str], splits: Splits, context: Context) -> None:
    """Check that no fold trains on a case that it validates on, under the same or another name.

    Cases in sources are found by `find_exclusions`.

    Raises StageError for fold "all", which holds no case out, and if a case is on both sides.
    """
    if "all" in folds:
        raise StageError(
            "fold all holds no case out, so nothing is left to evaluate; choose other folds with -f, or give -test"
        )
    own = announced_sketches(target.dataset, context)
    matches = match_datasets(own, own)
    pairs = [pair for pair in matches if pair.source_case != pair.target_case]
    # splits_final.json may list a case on both sides
    pairs += [SharedCase(target.dataset, case, case, same="case") for case in target.cases]
    for fold in folds:
        train, held_out = splits[fold]["train"], splits[fold]["val"]
        seen = [pair for pair in pairs if pair.source_case in train and pair.target_case in held_out]
        _refuse(seen, f"fold {fold}", "put such cases on one side of the folds in splits_final.json")


def require_unseen_test(
    test: HeldOutSet, target: Task, sources: Iterable[Task], folds: Sequence[str], splits: Splits, context: Context,
) -> None:  # fmt: skip
    """Check that no test case is trained on, in the target's folds or in any source.

    Cases are compared by file, by content and, in the target, by name.

    Raises StageError if one is.
    """
    own = test.sketched(context.processes)
    numbered = [fold for fold in folds if fold != "all"]
    in_target = set(target.cases) if "all" in folds else {case for fold in numbered for case in splits[fold]["train"]}
    for task in (target, *sources):
        trained = in_target if task is target else set(task.cases)
        pairs = list(same_files(task.dataset, task.raw, test.cases))
        other = announced_sketches(task.dataset, context)
        pairs += match_datasets(own, other) if other.sketches else []
        remedy = "leave that dataset out of the sources, or derive a test set without these cases"
        _refuse([pair for pair in pairs if pair.source_case in trained], test.name, remedy)


def same_files(dataset: str, raw: Mapping[str, RawCase], cases: Mapping[str, RawCase]) -> tuple[SharedCase, ...]:
    """Return pairs that read the same image file, one from ``dataset`` (files in ``raw``) and one from ``cases``.

    Derived datasets refer to the original files.
    """
    names = {image.resolve(): name for name, case in cases.items() for image in case.images}
    return tuple(
        SharedCase(dataset, name, names[image.resolve()], same="file")
        for name, case in raw.items()
        for image in case.images[:1]  # one channel is enough to tell
        if image.resolve() in names
    )


def _refuse(seen: Sequence[SharedCase], evaluated: str, remedy: str) -> None:
    if seen:
        first, count = seen[0], len({pair.target_case for pair in seen})
        raise StageError(
            f"{count} of the cases to evaluate ({evaluated}) would be trained on, such as {first.target_case}, which "
            f"is {first.source_case} of {first.source} ({first.evidence}); {remedy}"
        )

"""Probe sources with the models that exist: the Dice of each source's network on the target's labelled cases."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import CheckpointError, DatasetError, SeqTransferError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, FINAL_CHECKPOINT, cache_folder, results_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.preprocessing import read_raw_labels
from nnunet_seqtransfer.storage import found_json, read_dataclass, read_json, sha256, write_dataclass

KIND = "probe"
FORMAT = 1
DEFAULT_CASES = 6
"""Cases of the target that each model predicts, unless asked otherwise."""
MODEL_FOLDERS = ("*__*__*", "*/*__*__*")
"""Patterns for results folders in a folder of models, such as a copy of nnUNet_results."""


@dataclass(frozen=True)
class Model:
    """A finished model in nnUNet_results."""

    dataset: str
    "Full name of the dataset that it was trained on."
    folder: Path
    "Results folder DATASET/TRAINER__PLANS__CONFIGURATION."
    fold: str
    "Fold whose final checkpoint is used: all if there is one, otherwise the first."

    @property
    def configuration(self) -> str:
        """nnU-Net configuration that it was trained in."""
        return self.folder.name.split("__")[2]

    @property
    def checkpoint(self) -> Path:
        """Path of the final checkpoint."""
        return self.folder / f"fold_{self.fold}" / FINAL_CHECKPOINT

    @property
    def name(self) -> str:
        """DATASET/TRAINER__PLANS__CONFIGURATION/fold_K."""
        return f"{self.dataset}/{self.folder.name}/fold_{self.fold}"


@dataclass(frozen=True)
class Probe:
    """Result by a source's own network on the target's labelled cases, before any training on them."""

    source: str
    "Full name of the source dataset."
    model: str
    "The model: DATASET/TRAINER__PLANS__CONFIGURATION/fold_K."
    checkpoint_sha256: str
    "SHA-256 of the checkpoint."
    cases: tuple[str, ...]
    "Identifiers of the predicted cases."
    dice: float
    "Mean Dice over the target's labels, 0 to 1; a label without a counterpart counts 0."
    labels: dict[str, str]
    "Target label -> label of the model that it is compared with. Each model label is used once."
    seconds: float
    "Time that the predictions took."


@dataclass(frozen=True)
class Probes:
    """All probes of one target, in one file."""

    target: str
    "Full name of the target."
    probes: tuple[Probe, ...]
    "One per source, by name."


def probes_path(target: str) -> Path:
    """Return the path of the record with all probes of a target."""
    return cache_folder(target) / "probes.json"


def read_probes(target: str) -> dict[str, Probe]:
    """Return source -> probe of all that were made for a target; empty if there are none.

    Raises RecordError if the record is damaged.
    """
    path = probes_path(target)
    if not path.is_file():
        return {}
    record = read_dataclass(path, Probes, KIND, FORMAT, f"delete {path} and run nnUNetv2_seq_affinity --probe again")
    return {probe.source: probe for probe in record.probes}


def find_models(configuration: str, sources: Sequence[str] | None = None) -> dict[str, Model]:
    """Return dataset -> first of `every_model`, for the sources with these full names; None for all."""
    every = every_model(configuration)
    return {name: models[0] for name, models in every.items() if sources is None or name in sources}


def every_model(configuration: str) -> dict[str, list[Model]]:
    """Return dataset -> finished models for every dataset with one in nnUNet_results.

    Models of the same ``configuration`` come first, then those of nnU-Net's own trainer with its own plans, then the
    newest.
    """
    found: dict[str, list[Model]] = {}
    for dataset in sorted(path for path in results_folder().glob("Dataset*_*") if path.is_dir()):
        models = [model for folder in dataset.glob("*__*__*") for model in _models(dataset.name, folder)]
        if models:
            found[dataset.name] = sorted(models, key=lambda model: _preference(model, configuration), reverse=True)
    return found


def model_folders(path: Path) -> list[Path]:
    """Return the results folders in a folder of models; none if ``path`` is a model itself."""
    if not path.is_dir() or len(path.name.split("__")) == 3 or path.name.startswith("fold_"):
        return []
    return sorted(folder for pattern in MODEL_FOLDERS for folder in path.glob(pattern) if any(folder.glob("fold_*")))


def models_in(paths: Sequence[Path], configuration: str) -> dict[str, Model]:
    """Return dataset -> model of results folders, or of folders that hold such; ``configuration`` is preferred.

    Raises CheckpointError if a path has no finished model in nnU-Net's form.
    """
    found: dict[str, list[Model]] = {}
    for path in (path.resolve() for path in paths):
        models = [model for folder in model_folders(path) or [path] for model in _models(_trained_on(folder), folder)]
        models = [model for model in models if DATASET_NAME.fullmatch(model.dataset)]
        if not models:
            raise CheckpointError(
                f"{path} is no results folder TRAINER__PLANS__CONFIGURATION with plans.json and "
                f"fold_*/{FINAL_CHECKPOINT}, and holds none; correct -models"
            )
        for model in models:
            found.setdefault(model.dataset, []).append(model)
    return {name: max(models, key=lambda one: _preference(one, configuration)) for name, models in found.items()}


def _trained_on(folder: Path) -> str:
    """Return the dataset that a model's plans name; empty if they cannot be read."""
    return str((found_json(folder / "plans.json") or {}).get("dataset_name", ""))


def _models(dataset: str, folder: Path) -> Iterator[Model]:
    folds = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{FINAL_CHECKPOINT}"))
    if folds and len(folder.name.split("__")) == 3:
        yield Model(dataset, folder, "all" if "all" in folds else folds[0])


def _preference(model: Model, configuration: str) -> tuple[bool, bool, float]:
    stock = model.folder.name.startswith("nnUNetTrainer__nnUNetPlans__")
    return model.configuration == configuration, stock, model.checkpoint.stat().st_mtime


def probe_models(
    target: str,
    models: Mapping[str, Model],
    context: Context,
    *,
    cases: int = DEFAULT_CASES,
    device: str = "cpu",
) -> tuple[dict[str, Probe], dict[str, str]]:
    """Predict labelled cases of the target with each model, and keep the results.

    A model that was probed on these cases before is not run again. Models are loaded without running code that they
    may carry. So many labelled ``cases`` are predicted, the first by identifier.

    Returns probes by source, and source -> reason for each model that could not be used.

    Raises DatasetError if the target has no labelled cases in nnUNet_raw.
    """
    dataset_json = read_dataset_json(target)
    found = raw_cases(target, dataset_json)
    if not found:
        raise DatasetError(f"{target} has no raw images here; copy it to nnUNet_raw to probe models on it")
    chosen = dict(sorted(found.items())[:cases])
    known, left_out = read_probes(target), {}
    for number, (source, model) in enumerate(models.items(), start=1):
        digest = sha256(model.checkpoint)
        earlier = known.get(source)
        if earlier and (earlier.checkpoint_sha256, earlier.cases) == (digest, tuple(chosen)):
            continue
        context.notify(f"probing {model.name} on {len(chosen)} cases of {target} ({number} of {len(models)})")
        try:
            made = _probe(model, dataset_json, chosen, device)
        except SeqTransferError as error:
            left_out[source] = f"{model.name}: {error}"
            known.pop(source, None)
            continue
        known[source] = replace(made, checkpoint_sha256=digest)
        # after each model, since one takes minutes on a CPU
        write_dataclass(probes_path(target), KIND, FORMAT, Probes(target, tuple(known[name] for name in sorted(known))))
    return {source: known[source] for source in models if source in known}, left_out


def _probe(model: Model, dataset_json: dict[str, Any], cases: Mapping[str, RawCase], device: str) -> Probe:
    from nnunet_seqtransfer.nnunet.network import predict_cases  # noqa: PLC0415 - imports torch
    from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint  # noqa: PLC0415 - imports torch

    remedy = "train that model again"
    plans = read_json(model.folder / "plans.json", "the model's plans", remedy)
    own_json = read_json(model.folder / "dataset.json", "the model's dataset.json", remedy)
    order = _channel_order(channel_names(own_json), channel_names(dataset_json))
    images = [case.images for case in cases.values()]
    # one file may hold all colours of an image
    files = [tuple(one[index] for index in order) if len(one) > 1 else one for one in images]
    checkpoint = load_checkpoint(model.checkpoint)
    began = time.monotonic()
    reader = reader_writer(dataset_json, next(iter(cases.values())).images[0])
    ours, theirs = foreground_labels(dataset_json), foreground_labels(own_json)
    scores = []
    predictions = predict_cases(plans, model.configuration, own_json, checkpoint, files, device)
    for (identifier, case), predicted in zip(cases.items(), predictions, strict=True):
        reference = read_raw_labels(identifier, case.label, reader)
        scores.append(dice_table(reference, ours, predicted, theirs))
    dice, labels = match_labels(np.stack(scores), tuple(ours), tuple(theirs))
    seconds = round(time.monotonic() - began, 2)
    return Probe(model.dataset, model.name, "", tuple(cases), dice, labels, seconds)


def _channel_order(model: tuple[str, ...], target: tuple[str, ...]) -> tuple[int, ...]:
    """Return for each channel of the model the index of the target's channel that it reads."""
    if len(model) == len(target):
        matched = [target.index(name) for name in model if name in target]
        return tuple(matched) if len(set(matched)) == len(model) else tuple(range(len(model)))
    if set(model) <= set(target):
        return tuple(target.index(name) for name in model)
    raise CheckpointError(f"it reads {len(model)} channels ({', '.join(model)}), the target has {', '.join(target)}")


def dice_table(
    reference: NDArray[Any],
    ours: Mapping[str, tuple[int, ...]],
    predicted: NDArray[Any],
    theirs: Mapping[str, tuple[int, ...]],
) -> NDArray[np.float64]:
    """Return the Dice of each target label with each model label in one case, shape (target labels, model labels).

    2 TP / (2 TP + FP + FN) as in nnU-Net's compute_metrics; NaN if both masks are empty. Labels may be regions, given
    as several values.

    Raises DatasetError if the shapes of both segmentations differ.
    """
    if reference.shape != predicted.shape:
        raise DatasetError(f"the prediction has shape {predicted.shape}, the reference {reference.shape}")
    table = np.full((len(ours), len(theirs)), np.nan)
    masks = [np.isin(predicted, values) for values in theirs.values()]
    for i, values in enumerate(ours.values()):
        mask = np.isin(reference, values)
        for j, other in enumerate(masks):
            total = int(mask.sum()) + int(other.sum())
            if total:
                table[i, j] = 2 * int((mask & other).sum()) / total
    return table


def match_labels(
    tables: NDArray[np.float64], ours: Sequence[str], theirs: Sequence[str]
) -> tuple[float, dict[str, str]]:
    """Match labels one to one so that the mean Dice is highest (Hungarian method).

    ``tables``: shape (cases, target labels, model labels), from `dice_table`. ``ours``, ``theirs``: label names.

    Returns the mean Dice over the target's labels, and target label -> model label.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow import

    counted = ~np.isnan(tables)
    means = np.where(counted, tables, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    rows, columns = linear_sum_assignment(means, maximize=True)
    matched = {ours[int(i)]: theirs[int(j)] for i, j in zip(rows, columns, strict=True)}
    return float(means[rows, columns].sum() / len(ours)), matched

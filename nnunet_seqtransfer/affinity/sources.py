"""The target and the sources of an affinity: registered datasets, and signatures from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.folders import registered_datasets
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import preprocessing_for
from nnunet_seqtransfer.tasks.signature import Signature, read_signature
from nnunet_seqtransfer.tasks.task import Task, load_each, named_sources

ALL_SOURCES = "all"
SIGNATURE_ENDING = ".npz"


@dataclass(frozen=True)
class Named:
    """A registered task and the plans under which its voxels are looked at."""

    task: Task
    "The dataset."
    plans: dict[str, Any]
    "Aligned to the target; of the target its own."
    configuration: str
    "nnU-Net configuration."

    @property
    def name(self) -> str:
        """Full name of the dataset."""
        return self.task.dataset


@dataclass(frozen=True)
class Sources:
    """What is compared with a target."""

    order: tuple[str, ...]
    "Names of all that are left: registered datasets, then signatures, in the order given."
    tasks: tuple[Named, ...]
    "Those of them that are registered."
    files: Mapping[str, Signature]
    "By name, those that came as signatures."
    left_out: Mapping[str, SeqTransferError]
    "By name (or file), why they are not compared."

    def without(self, failed: Mapping[str, SeqTransferError], notify: Callable[[str], None]) -> Sources:
        """The same without some of them. Raises the first error where none is left."""
        left_out = {**self.left_out, **failed}
        order = tuple(name for name in self.order if name not in left_out)
        if not order:
            raise next(iter(left_out.values()))
        for name, error in failed.items():
            notify(f"leaving out {name}: {error}")
        return replace(
            self, order=order, tasks=tuple(t for t in self.tasks if t.name not in left_out), left_out=left_out
        )


def load_sources(
    target: Named, asked: Sequence[str], metric: AffinityMetric, processes: int, notify: Callable[[str], None]
) -> Sources:
    """The sources that fit the target; those that do not, or that cannot be read, are left out with their reason.

    Raises DatasetError or SequenceError where the list makes no sense, or the first source's error where none is left.
    """
    paths = [name for name in asked if name.endswith(SIGNATURE_ENDING)]
    others = [name for name in asked if name not in paths]
    names = _registered_but(target.name) if others == [ALL_SOURCES] else named_sources(target.name, others)
    failed: dict[str, SeqTransferError] = {}
    tasks: list[Named] = []
    for name, task in zip(names, load_each(names, Context(notify, processes)), strict=True):
        try:
            if isinstance(task, SeqTransferError):
                raise task
            plans = align_plans(target.plans, target.task, task)
            tasks.append(Named(task, plans, target.configuration))
        except SeqTransferError as error:
            failed[name] = error
    files: dict[str, Signature] = {}
    for path in paths:
        try:
            signature = _fitting_signature(Path(path), target, metric, {target.name, *names, *files})
            files[signature.dataset] = signature
        except SeqTransferError as error:
            failed[path] = error
    return Sources((*names, *files), tuple(tasks), files, {}).without(failed, notify)


def _registered_but(target: str) -> tuple[str, ...]:
    others = tuple(name for name in registered_datasets() if name != target)
    if not others:
        raise DatasetError(f"no dataset but the target {target} is registered; copy sources to nnUNet_raw")
    return others


def _fitting_signature(path: Path, target: Named, metric: AffinityMetric, taken: set[str]) -> Signature:
    """A signature from elsewhere. Raises RecordError or SequenceError where it cannot be compared with the target."""
    signature = read_signature(path)
    make = "have it made again with nnUNetv2_seq_signature"
    if (signature.metric, signature.version) != (metric.name, metric.version):
        raise SequenceError(
            f"the signature is of metric {signature.metric} version {signature.version}, wanted is {metric.name} "
            f"version {metric.version}: {path}; {make} -m {metric.name} by the same version of nnunet-seqtransfer"
        )
    if signature.dataset in taken:
        raise SequenceError(
            f"the signature is of {signature.dataset}, which is among the tasks already: {path}; leave it out of -s"
        )
    if signature.preprocessing != preprocessing_for(metric.view, target.plans, target.configuration):
        raise SequenceError(
            f"the signature was made with another preprocessing than the target's: {path}; {make} -plans and the plans "
            f"file of {target.name} -c {target.configuration}"
        )
    if signature.is_planar != target.task.is_planar:
        raise SequenceError(
            f"one of the signature of {signature.dataset} and the target {target.name} has 2-D images, the other "
            f"volumes: {path}; leave it out of -s"
        )
    return signature

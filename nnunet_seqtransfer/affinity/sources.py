"""Choose and load the sources of an affinity. Whether one fits the target is decided before its cases are read."""

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.name_match import Names, match_names
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.fingerprints import has_ct, has_fingerprint
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, cache_folder, dataset_id, dataset_name, registered_datasets
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.overlap.cache import sketch_dataset
from nnunet_seqtransfer.overlap.matching import sharing_sources
from nnunet_seqtransfer.parallel import SECONDS_PER_MB, expect_work, expected_seconds
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.path_syntax import named_path
from nnunet_seqtransfer.tasks.profiling import PROFILE, preprocessing_for
from nnunet_seqtransfer.tasks.signature import Signature, read_signature
from nnunet_seqtransfer.tasks.task import Task, is_planar_dataset, is_read_whole, load_each, load_sampled

WORTH_TELLING = 10
"""Seconds of reading from which on an affinity announces how long it will take."""
ALL_SOURCES = "all"
"""Name that stands for every registered dataset that fits the target."""
SIGNATURE_ENDING = ".npz"
AUTO_CASES = 0
"""Value of `AffinityRequest.cases` that means: sample more cases until the order of the nearest sources is certain."""
FIRST_CASES = 10
"""Cases to sample per task, or to begin with if the number is `AUTO_CASES` (10 in arXiv 2410.06892)."""


@dataclass(frozen=True)
class AffinityRequest:
    """Tasks to compare, and the way to compare them."""

    target: str
    "Name or number of the target dataset."
    sources: tuple[str, ...] = (ALL_SOURCES,)
    """Names or numbers of source datasets, or signature files (.npz) of datasets elsewhere.

    "all" stands for every registered dataset that fits the target.
    """
    plans: str = DEFAULT_PLANS
    "Name of the target's plans."
    configuration: str = DEFAULT_CONFIGURATION
    "nnU-Net configuration."
    metric: str = DEFAULT_METRIC
    "Name of the metric."
    cases: int = FIRST_CASES
    "Cases to sample per task, or `AUTO_CASES`."
    seed: int = 0
    "Seed of the case sample and of the resamples."
    exclude: tuple[str, ...] = ()
    "Names or numbers of datasets that are no sources."
    same_modality: bool = False
    "True to leave out sources whose channel names tell of another modality."
    allow_overlap: bool = False
    "True to compare sources that are known to share cases with the target; otherwise they are left out."

    def names(self, source: str) -> bool:
        """Return True if the request names the source, instead of comparing with all."""
        return ALL_SOURCES not in self.sources or source in self.sources


@dataclass(frozen=True)
class Registered:
    """A registered dataset, and the plans that its voxels are prepared with."""

    task: Task
    plans: dict[str, Any]
    "Plans aligned to the target; for the target, its own plans."

    @property
    def name(self) -> str:
        """Return the full name."""
        return self.task.dataset


@dataclass(frozen=True)
class Sources:
    """The sources that are compared with a target."""

    order: tuple[str, ...]
    "Names of all sources: registered datasets, then signatures, each in the order requested."
    registered: tuple[Registered, ...]
    "Sources that are registered datasets."
    files: Mapping[str, Signature]
    "Sources that came as signature files, by name."
    left_out: Mapping[str, SeqTransferError]
    "Error of each source that is not compared, by name or file."

    def without(self, failed: Mapping[str, SeqTransferError], request: AffinityRequest, context: Context) -> "Sources":
        """Leave out the sources that failed. Raises SequenceError if no source is left."""
        left_out = {**self.left_out, **failed}
        order = tuple(name for name in self.order if name not in left_out)
        if not order:
            raise SequenceError(f"no source is left; left out: {left_out_text(left_out)}")
        unnamed = {name: error for name, error in failed.items() if not request.names(name)}
        if unnamed:  # the others are an error of the command
            context.notify(f"left out: {left_out_text(unnamed)}")
        registered = tuple(entry for entry in self.registered if entry.name not in left_out)
        return replace(self, order=order, registered=registered, left_out=left_out)


def left_out_text(left_out: Mapping[str, object]) -> str:
    """Return sources by number, grouped by their reason: "111, 112 (2-D images); 51 (other modality, CT/MR)"."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in left_out.items():
        groups[str(reason)].append(str(dataset_id(name)) if DATASET_NAME.fullmatch(name) else name)
    ordered = {reason: sorted(names, key=lambda name: (len(name), name)) for reason, names in groups.items()}
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in ordered.items())


def load_sources(target: Registered, request: AffinityRequest, metric: AffinityMetric, context: Context) -> Sources:
    """Load the sources that fit the target, small ones first, and leave out the others.

    Raises DatasetError or SequenceError if the list of sources makes no sense, or if none is left.
    """
    paths = [name for name in request.sources if name.endswith(SIGNATURE_ENDING)]
    others = [name for name in request.sources if name not in paths]
    names = _all_but(target.name) if others == [ALL_SOURCES] else named_path(target.name, others, joined=False)
    signatures, failed = _read_signatures(paths)
    known = sorted({*registered_datasets(), *(signature.dataset for signature in signatures.values())})
    excluded = {dataset_name(name, known) for name in request.exclude}
    names = tuple(name for name in names if name not in excluded)
    signatures = {path: signature for path, signature in signatures.items() if signature.dataset not in excluded}
    if not (names or signatures or failed):
        raise SequenceError("-exclude leaves no source; exclude fewer datasets")
    cases: dict[str, dict[str, RawCase]] = {}
    for name in names:
        try:
            _require_fitting(name, target.task, request)
            cases[name] = raw_cases(name, read_dataset_json(name))
        except SeqTransferError as error:
            failed[name] = error
    cases = dict(sorted(cases.items(), key=lambda item: sum(case.size for case in item[1].values())))
    if cases:
        _announce({**cases, target.name: target.task.raw}, request, metric, context)
        _sketch({target.name: target.task.raw, **cases}, context)
    # a distance to the target's own cases says nothing about transfer, and no path may go through them
    shared = () if request.allow_overlap else sharing_sources(target.name, [*cases])
    reason = "shared cases with the target; --allow_overlap compares it all the same"
    failed |= {name: DatasetError(reason) for name in shared}
    wanted = [name for name in cases if name not in failed]
    registered: list[Registered] = []
    # More cases may be added later, and a sample would not cover them.
    if request.cases == AUTO_CASES:
        tasks = load_each(wanted, context)
    else:
        tasks = load_sampled(wanted, request.cases, request.seed, context)
    for name, task in zip(wanted, tasks, strict=True):
        try:
            if isinstance(task, SeqTransferError):
                raise task
            registered.append(Registered(task, align_plans(target.plans, target.task, task)))
        except SeqTransferError as error:
            failed[name] = error
    files: dict[str, Signature] = {}
    for path, signature in signatures.items():
        try:
            _require_comparable(path, signature, target, request, metric, {target.name, *names, *files})
            files[signature.dataset] = signature
        except SeqTransferError as error:
            failed[path] = error
    return Sources((*names, *files), tuple(registered), files, {}).without(failed, request, context)


def _require_fitting(name: str, target: Task, request: AffinityRequest) -> None:
    """Raise DatasetError if dataset.json, fingerprint or one header tell that a source does not fit."""
    planar = is_planar_dataset(name)
    if planar not in (None, target.is_planar):
        raise DatasetError("2-D images" if planar else "volumes")
    if request.same_modality:
        _require_same_modality(channel_names(read_dataset_json(name)), target)


def _require_same_modality(channels: tuple[str, ...], target: Task) -> None:
    """Raise DatasetError if the channel names tell of another modality than the target's."""
    if clash := match_names(Names(channels, ()), Names(target.channels, ())).clash:
        raise DatasetError(f"other modality, {clash}")


def _announce(
    cases: Mapping[str, Mapping[str, RawCase]], request: AffinityRequest, metric: AffinityMetric, context: Context
) -> None:
    """Tell how many cases there are, how long reading what is new may take, and how to limit it."""
    work = sum(_work(name, found, request, metric) for name, found in cases.items())
    expect_work(work)
    seconds = expected_seconds(work, context.processes)
    if seconds >= WORTH_TELLING:
        time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        context.notify(
            f"{len(cases)} datasets, {sum(map(len, cases.values()))} cases: about {time}; limit it with -s, -exclude "
            "or --same_modality"
        )


def _work(name: str, cases: Mapping[str, RawCase], request: AffinityRequest, metric: AffinityMetric) -> float:
    """Estimate the seconds on one core until a dataset has a signature."""
    if not cases:
        return 0.0
    folder, whole = cache_folder(name), sum(case.size for case in cases.values())
    sample = whole * min(1.0, (request.cases or FIRST_CASES) / len(cases))
    small = is_read_whole(cases)
    size = 0.0
    if not has_fingerprint(name):
        all_needed = small or request.cases == AUTO_CASES or has_ct(read_dataset_json(name))
        size += whole if all_needed else sample
    if small and not any(folder.glob("sketches_*")):
        size += whole
    if not any(folder.glob(f"signature_{metric.name}_*")):
        size += PROFILE * sample
    return size / 1e6 * SECONDS_PER_MB


def _sketch(cases: Mapping[str, Mapping[str, RawCase]], context: Context) -> None:
    """Sketch the patients of small datasets: shared ones are found here, and the look ahead of a training is quick."""
    for name, found in cases.items():
        if found and is_read_whole(found):
            with contextlib.suppress(SeqTransferError):  # a broken case is reported when it is needed
                sketch_dataset(name, context.processes)


def _all_but(target: str) -> tuple[str, ...]:
    others = tuple(name for name in registered_datasets() if name != target)
    if not others:
        raise DatasetError(f"no dataset but the target {target} is registered; copy sources to nnUNet_raw")
    return others


def _read_signatures(paths: Sequence[str]) -> tuple[dict[str, Signature], dict[str, SeqTransferError]]:
    """Return the signatures that can be read and the errors of the others, both by path."""
    signatures: dict[str, Signature] = {}
    failed: dict[str, SeqTransferError] = {}
    for path in paths:
        try:
            signatures[path] = read_signature(Path(path))
        except SeqTransferError as error:
            failed[path] = error
    return signatures, failed


def _require_comparable(
    path: str,
    signature: Signature,
    target: Registered,
    request: AffinityRequest,
    metric: AffinityMetric,
    taken: set[str],
) -> None:
    """Raise DatasetError or SequenceError if a signature file cannot be compared with the target."""
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
    if signature.preprocessing != preprocessing_for(metric.view, target.plans, request.configuration):
        raise SequenceError(
            f"the signature was made with another preprocessing than the target's: {path}; {make} -plans and the plans "
            f"file of {target.name} -c {request.configuration}"
        )
    if signature.is_planar != target.task.is_planar:
        raise SequenceError(
            f"one of the signature of {signature.dataset} and the target {target.name} has 2-D images, the other "
            f"volumes: {path}; leave it out of -s"
        )
    if request.same_modality:
        _require_same_modality(signature.channels, target.task)

"""Measure an affinity: align plans, profile the cases, compare all pairs, resample, and write the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.bootstrap import Scatter, all_pairs, resample_pairs, scatter_to_target
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC, find_metric
from nnunet_seqtransfer.affinity.record import (
    Affinity,
    Resamples,
    TaskEntry,
    affinity_path,
    read_affinity,
    require_fitting,
    write_affinity,
    write_resamples,
)
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.folders import dataset_name, registered_datasets
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.overlap.shared_cases import sharing_sources
from nnunet_seqtransfer.tasks.alignment import align_plans, remember_reader
from nnunet_seqtransfer.tasks.profiling import preprocessing_for, profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, read_signature
from nnunet_seqtransfer.tasks.task import Task, load_each, load_sampled, load_target, named_sources

ALL_SOURCES = "all"
"""Name that stands for every registered dataset that fits the target."""
SIGNATURE_ENDING = ".npz"
AUTO_CASES = 0
"""Value of `AffinityRequest.cases` that means: sample more cases until the order of the nearest sources is certain."""
FIRST_CASES = 10
"""Cases to sample per task, or to begin with if the number is `AUTO_CASES` (10 in arXiv 2410.06892)."""
NEAREST = 3
"""Number of nearest sources that must be told apart by the cases."""
JOINT = 50
"""Number of nearest sources that are resampled with each other; n sources cost n^2 comparisons."""


@dataclass(frozen=True)
class AffinityRequest:
    """Which tasks to compare, and how."""

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
    allow_overlap: bool = False
    "True to compare sources that are known to share cases with the target; otherwise they are left out."


@dataclass(frozen=True)
class MeasuredAffinity:
    """An affinity, the file it was written to, and what could not be compared."""

    affinity: Affinity
    "Distances of the sources that could be compared."
    path: Path
    "File of the record, see `affinity_path`."
    left_out: dict[str, str]
    "Error message of each source that could not be compared, by name or signature file."
    stable: bool
    "True if the cases tell the nearest `NEAREST` sources apart from each other and from the next one."


def measure_affinity(request: AffinityRequest, context: Context) -> MeasuredAffinity:
    """Compute the distances between the sources and the target, and write record, CSV and resamples.

    A source that cannot be compared is reported and left out.

    Raises a SeqTransferError if the target is not planned and preprocessed, the request makes no sense, or no source
    is left (then the first error of a source).
    """
    metric = find_metric(request.metric)
    computed = compute_affinity(request, context, metric)
    path = affinity_path(computed.affinity.target, request.plans, request.configuration, request.metric)
    write_resamples(path, computed.affinity, computed.resamples)
    write_affinity(path, computed.affinity)  # last: an existing record means that the other files are complete
    return MeasuredAffinity(computed.affinity, path, computed.left_out, computed.stable)


def find_affinity(target: str, plans: str, configuration: str, metric: str, context: Context) -> tuple[Affinity, Path]:
    """Return the affinity of a target and its file; measure it over all registered datasets if there is none.

    Raises RecordError if the existing file is damaged or was made for another target.
    """
    path = affinity_path(target, plans, configuration, metric)
    if path.is_file():
        affinity = read_affinity(path)
        require_fitting(affinity, path, (target, plans, configuration), "nnUNetv2_seq_affinity")
        return affinity, path
    context.notify(f"no affinity of {target} yet; comparing it with all registered datasets")
    request = AffinityRequest(target, (ALL_SOURCES,), plans, configuration, metric)
    return measure_affinity(request, context).affinity, path


@dataclass(frozen=True)
class ComputedAffinity:
    """An affinity and its resamples, not written yet."""

    affinity: Affinity
    "Distances of the sources that could be compared."
    resamples: Resamples
    "Distances among the nearest sources and the target under resampled cases."
    left_out: dict[str, str]
    "Error message of each source that could not be compared, by name or signature file."
    stable: bool
    "True if the cases tell the nearest `NEAREST` sources apart from each other and from the next one."


def compute_affinity(request: AffinityRequest, context: Context, metric: AffinityMetric) -> ComputedAffinity:
    """Compute what `measure_affinity` writes, with any metric object; ``request.metric`` is not read.

    Signatures are cached. Raises as `measure_affinity`.
    """
    target = _Registered(*load_target(dataset_name(request.target), request.plans, request.configuration))
    sources = _load_sources(target, request, metric, context)
    counts = {entry.name: request.cases or FIRST_CASES for entry in (*sources.registered, target)}
    while True:
        sources, signatures = _profile(request, context, metric, target, sources, counts)
        scatter = scatter_to_target(metric, metric.combination, signatures, request.seed)
        grown = _grown(counts, target, sources, scatter) if request.cases == AUTO_CASES else counts
        if grown == counts:
            break
        counts = grown
        context.notify(f"the order of the nearest sources is not certain yet; sampling {max(counts.values())} cases")
    for entry in sources.registered:
        remember_reader(entry.task, entry.plans["image_reader_writer"])
    affinity = _record(request, metric, signatures, sources, scatter)
    nearest = (*affinity.ranking()[:JOINT], len(signatures) - 1)
    joint = resample_pairs(metric, [signatures[index] for index in nearest], request.seed)
    left_out = {name: str(error) for name, error in sources.left_out.items()}
    return ComputedAffinity(affinity, Resamples(nearest, joint), left_out, not any(scatter.indistinct[:NEAREST]))


@dataclass(frozen=True)
class _Registered:
    """A registered dataset, and the plans that its voxels are prepared with."""

    task: Task
    plans: dict[str, Any]
    "Plans aligned to the target; for the target, its own plans."

    @property
    def name(self) -> str:
        return self.task.dataset


@dataclass(frozen=True)
class _Sources:
    """The sources that are compared with a target."""

    order: tuple[str, ...]
    "Names of all sources: registered datasets, then signatures, each in the order requested."
    registered: tuple[_Registered, ...]
    "Sources that are registered datasets."
    files: Mapping[str, Signature]
    "Sources that came as signature files, by name."
    left_out: Mapping[str, SeqTransferError]
    "Error of each source that is not compared, by name or file."

    def without(self, failed: Mapping[str, SeqTransferError], context: Context) -> _Sources:
        """Leave out the sources that failed. Raises the first error if no source is left."""
        left_out = {**self.left_out, **failed}
        order = tuple(name for name in self.order if name not in left_out)
        if not order:
            raise next(iter(left_out.values()))
        for name, error in failed.items():
            context.notify(f"leaving out {name}: {error}")
        registered = tuple(entry for entry in self.registered if entry.name not in left_out)
        return replace(self, order=order, registered=registered, left_out=left_out)


def _load_sources(target: _Registered, request: AffinityRequest, metric: AffinityMetric, context: Context) -> _Sources:
    """Load the sources that fit the target and leave out the others.

    Raises DatasetError or SequenceError if the list of sources makes no sense, or the first error if none is left.
    """
    paths = [name for name in request.sources if name.endswith(SIGNATURE_ENDING)]
    others = [name for name in request.sources if name not in paths]
    names = _all_but(target.name) if others == [ALL_SOURCES] else named_sources(target.name, others)
    # a distance to the target's own cases says nothing about transfer, and no path may go through them
    shared = () if request.allow_overlap else sharing_sources(target.name, names)
    reason = "it shares cases with the target; --allow_overlap compares it all the same"
    failed: dict[str, SeqTransferError] = {name: DatasetError(reason) for name in shared}
    wanted = [name for name in names if name not in failed]
    registered: list[_Registered] = []
    # More cases may be added later, and a sample would not cover them.
    if request.cases == AUTO_CASES:
        tasks = load_each(wanted, context)
    else:
        tasks = load_sampled(wanted, target.task, request.cases, request.seed, context)
    for name, task in zip(wanted, tasks, strict=True):
        try:
            if isinstance(task, SeqTransferError):
                raise task
            registered.append(_Registered(task, align_plans(target.plans, target.task, task)))
        except SeqTransferError as error:
            failed[name] = error
    files: dict[str, Signature] = {}
    for path in paths:
        try:
            signature = _read_fitting(Path(path), target, request, metric, {target.name, *names, *files})
            files[signature.dataset] = signature
        except SeqTransferError as error:
            failed[path] = error
    return _Sources((*names, *files), tuple(registered), files, {}).without(failed, context)


def _all_but(target: str) -> tuple[str, ...]:
    others = tuple(name for name in registered_datasets() if name != target)
    if not others:
        raise DatasetError(f"no dataset but the target {target} is registered; copy sources to nnUNet_raw")
    return others


def _read_fitting(
    path: Path, target: _Registered, request: AffinityRequest, metric: AffinityMetric, taken: set[str]
) -> Signature:
    """Read a signature file. Raises RecordError or SequenceError if it cannot be compared with the target."""
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
    return signature


def _profile(
    request: AffinityRequest,
    context: Context,
    metric: AffinityMetric,
    target: _Registered,
    sources: _Sources,
    counts: dict[str, int],
) -> tuple[_Sources, tuple[Signature, ...]]:
    """Return the sources that have a signature, and their signatures followed by that of the target."""
    local = (*sources.registered, target)
    requests = [
        request_profile(entry.task, entry.plans, request.configuration, counts[entry.name], request.seed)
        for entry in local
    ]
    results = profile_tasks(requests, metric, context.processes)
    profiled = dict(zip((entry.name for entry in local), results, strict=True))
    own = profiled.pop(target.name)
    if isinstance(own, SeqTransferError):
        raise own
    found = {name: result for name, result in profiled.items() if isinstance(result, Signature)}
    failed = {name: result for name, result in profiled.items() if isinstance(result, SeqTransferError)}
    remaining = sources.without(failed, context)
    return remaining, (*(remaining.files.get(name) or found[name] for name in remaining.order), own)


def _grown(counts: dict[str, int], target: _Registered, sources: _Sources, scatter: Scatter) -> dict[str, int]:
    """Double the cases of the target and of neighbours in the ranking that are indistinct, as far as they have more."""
    sizes = {entry.name: len(entry.task.cases) for entry in (*sources.registered, target)}
    most = {**{name: len(signature.cases) for name, signature in sources.files.items()}, **sizes}
    names = [sources.order[index] for index in scatter.ranking[: NEAREST + 1]]
    wanted = set()
    for pair, indistinct in zip(pairwise(names), scatter.indistinct, strict=False):
        tasks = {*pair, target.name}
        # A task with a single case has no interval, however many cases the others have.
        if indistinct and min(most[name] for name in tasks) > 1:
            wanted |= tasks
    return {
        name: min(max(2 * count, FIRST_CASES), max(sizes[name], count)) if name in wanted and name in sizes else count
        for name, count in counts.items()
    }


def _record(
    request: AffinityRequest,
    metric: AffinityMetric,
    signatures: Sequence[Signature],
    sources: _Sources,
    scatter: Scatter,
) -> Affinity:
    components = all_pairs(metric, signatures)
    return Affinity(
        target=signatures[-1].dataset,
        plans=request.plans,
        configuration=request.configuration,
        metric=metric.name,
        combination=metric.combination,
        seed=request.seed,
        cases=request.cases,
        tasks=tuple(
            TaskEntry(
                s.dataset, s.channels, s.labels, s.labelled_cases, s.cases, s.digest, s.dataset not in sources.files
            )
            for s in signatures
        ),
        distances=_rows(metric.combination.distances(components)),
        components={name: _rows(values) for name, values in components.items()},
        counterparts=tuple(metric.compare(source, signatures[-1]).counterparts for source in signatures[:-1]),
        low=tuple(float(value) for value in scatter.low),
        high=tuple(float(value) for value in scatter.high),
        indistinct=scatter.indistinct,
    )


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)

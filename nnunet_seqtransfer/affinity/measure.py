"""Measure an affinity: align plans, profile the cases, compare all pairs, resample, and write the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.bootstrap import all_pairs, resample_pairs
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC, find_metric
from nnunet_seqtransfer.affinity.record import (
    Affinity,
    TaskEntry,
    affinity_path,
    read_affinity,
    require_fitting,
    write_affinity,
)
from nnunet_seqtransfer.affinity.resamples import Resamples, write_resamples
from nnunet_seqtransfer.affinity.sources import ALL_SOURCES, Named, Sources, load_sources
from nnunet_seqtransfer.affinity.uncertainty import Scatter, scatter_to_target
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.tasks.alignment import remember_reader
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import load_target

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
    weights: Combination | None = None
    "Weights of the components; None for the weights that the metric comes with."
    calibration: str | None = None
    "Name of the calibration that ``weights`` come from."
    cases: int = FIRST_CASES
    "Cases to sample per task, or `AUTO_CASES`."
    seed: int = 0
    "Seed of the case sample and of the resamples."


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
    "See `MeasuredAffinity`."
    stable: bool
    "See `MeasuredAffinity`."


def compute_affinity(request: AffinityRequest, context: Context, metric: AffinityMetric) -> ComputedAffinity:
    """Compute what `measure_affinity` writes, with any metric object; ``request.metric`` is not read.

    Signatures are cached. Raises as `measure_affinity`.
    """
    weights = request.weights or metric.combination
    loaded = load_target(dataset_name(request.target), request.plans, request.configuration)
    target = Named(*loaded, request.configuration)
    sources = load_sources(target, request.sources, metric, context.processes, context.notify)
    counts = {named.name: request.cases or FIRST_CASES for named in (*sources.tasks, target)}
    while True:
        sources, signatures = _profile(request, context, metric, target, sources, counts)
        scatter = scatter_to_target(metric, weights, signatures, request.seed)
        grown = _grown(counts, target, sources, scatter) if request.cases == AUTO_CASES else counts
        if grown == counts:
            break
        counts = grown
        context.notify(f"the cases do not tell the nearest sources apart yet; looking at {max(counts.values())}")
    for named in sources.tasks:
        remember_reader(named.task, named.plans["image_reader_writer"])
    affinity = _record(request, metric, weights, signatures, sources, scatter)
    nearest = (*affinity.ranking()[:JOINT], len(signatures) - 1)
    joint = resample_pairs(metric, [signatures[place] for place in nearest], request.seed)
    left_out = {name: str(error) for name, error in sources.left_out.items()}
    return ComputedAffinity(affinity, Resamples(nearest, joint), left_out, not any(scatter.indistinct[:NEAREST]))


def _profile(
    request: AffinityRequest,
    context: Context,
    metric: AffinityMetric,
    target: Named,
    sources: Sources,
    counts: dict[str, int],
) -> tuple[Sources, tuple[Signature, ...]]:
    """Signatures of the sources that have one, then of the target; the others are left out from now on."""
    local = [*sources.tasks, target]
    requests = [
        request_profile(named.task, named.plans, request.configuration, counts[named.name], request.seed)
        for named in local
    ]
    profiled = dict(
        zip((named.name for named in local), profile_tasks(requests, metric, context.processes), strict=True)
    )
    own = profiled.pop(target.name)
    if isinstance(own, SeqTransferError):
        raise own
    found = {name: result for name, result in profiled.items() if isinstance(result, Signature)}
    failed = {name: result for name, result in profiled.items() if isinstance(result, SeqTransferError)}
    remaining = sources.without(failed, context.notify)
    return remaining, (*(remaining.files.get(name) or found[name] for name in remaining.order), own)


def _grown(counts: dict[str, int], target: Named, sources: Sources, scatter: Scatter) -> dict[str, int]:
    """Twice the cases for the target and the sources that cannot be told apart, as far as they have more.

    What has a single case in all has no interval, and never will.
    """
    sizes = {named.name: len(named.task.cases) for named in (*sources.tasks, target)}
    most = {**{name: len(signature.cases) for name, signature in sources.files.items()}, **sizes}
    names = [sources.order[place] for place in scatter.ranking[: NEAREST + 1]]
    wanted = set()
    for pair, indistinct in zip(pairwise(names), scatter.indistinct, strict=False):
        tasks = {*pair, target.name}
        if indistinct and min(most[name] for name in tasks) > 1:
            wanted |= tasks
    return {
        name: min(max(2 * count, FIRST_CASES), max(sizes[name], count)) if name in wanted and name in sizes else count
        for name, count in counts.items()
    }


def _record(
    request: AffinityRequest,
    metric: AffinityMetric,
    combination: Combination,
    signatures: Sequence[Signature],
    sources: Sources,
    scatter: Scatter,
) -> Affinity:
    components = all_pairs(metric, signatures)
    return Affinity(
        target=signatures[-1].dataset,
        plans=request.plans,
        configuration=request.configuration,
        metric=metric.name,
        combination=combination,
        calibration=request.calibration,
        seed=request.seed,
        cases=request.cases,
        tasks=tuple(
            TaskEntry(
                s.dataset, s.channels, s.labels, s.labelled_cases, s.cases, s.digest, s.dataset not in sources.files
            )
            for s in signatures
        ),
        distances=_rows(combination.distances(components)),
        components={name: _rows(values) for name, values in components.items()},
        matches=tuple(metric.compare(source, signatures[-1]).match for source in signatures[:-1]),
        low=tuple(float(value) for value in scatter.low),
        high=tuple(float(value) for value in scatter.high),
        indistinct=scatter.indistinct,
    )


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)

"""Measure an affinity: align plans, profile the cases, compare all pairs, resample, and write the record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.bootstrap import Scatter, all_pairs, resample_pairs, scatter_to_target
from nnunet_seqtransfer.affinity.metrics import find_metric
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
from nnunet_seqtransfer.affinity.sources import (
    ALL_SOURCES,
    AUTO_CASES,
    FIRST_CASES,
    AffinityRequest,
    Registered,
    Sources,
    load_sources,
)
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.parallel import one_pool
from nnunet_seqtransfer.tasks.alignment import remember_reader
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import load_target

NEAREST = 3
"""Number of nearest sources that must be told apart by the cases."""
JOINT = 50
"""Number of nearest sources that are resampled with each other; n sources cost n^2 comparisons."""


@dataclass(frozen=True)
class MeasuredAffinity:
    """An affinity and its resamples, and what could not be compared."""

    affinity: Affinity
    "Distances of the sources that could be compared."
    resamples: Resamples = field(repr=False)
    "Distances among the nearest sources and the target under resampled cases."
    left_out: dict[str, str]
    "Error message of each source that could not be compared, by name or signature file."
    stable: bool
    "True if the cases tell the nearest `NEAREST` sources apart from each other and from the next one."

    @property
    def path(self) -> Path:
        """Return the file of the record."""
        affinity = self.affinity
        return affinity_path(affinity.target, affinity.plans, affinity.configuration, affinity.metric)


def measure_affinity(request: AffinityRequest, context: Context) -> MeasuredAffinity:
    """Compute the distances between the sources and the target, and write record, CSV and resamples.

    A source that cannot be compared is reported and left out.

    Raises a SeqTransferError if the target is not planned and preprocessed, the request makes no sense, or no source
    is left (then the first error of a source).
    """
    measured = compute_affinity(request, context, find_metric(request.metric))
    write_resamples(measured.path, measured.affinity, measured.resamples)
    # last: an existing record means that the other files are complete
    write_affinity(measured.path, measured.affinity)
    return measured


def find_affinity(
    key: tuple[str, str, str], metric: str, context: Context, given: Path | None = None
) -> tuple[Affinity, Path]:
    """Return the affinity of a target, plans and configuration and its file, the ``given`` one or the target's own.

    If the target has none, it is measured over all registered datasets.

    Raises RecordError if the existing file is damaged or was made for another target.
    """
    target, plans, configuration = key
    path = given or affinity_path(*key, metric)
    if given is not None or path.is_file():
        affinity = read_affinity(path)
        require_fitting(affinity, path, key, "nnUNetv2_seq_affinity")
        return affinity, path
    context.notify(f"no affinity of {target} yet; comparing it with all registered datasets")
    request = AffinityRequest(target, (ALL_SOURCES,), plans, configuration, metric)
    return measure_affinity(request, context).affinity, path


@one_pool()
def compute_affinity(request: AffinityRequest, context: Context, metric: AffinityMetric) -> MeasuredAffinity:
    """Compute what `measure_affinity` writes, with any metric object; ``request.metric`` is not read.

    Signatures are cached. Raises as `measure_affinity`.
    """
    target = Registered(*load_target(dataset_name(request.target), request.plans, request.configuration))
    sources = load_sources(target, request, metric, context)
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
    return MeasuredAffinity(affinity, Resamples(nearest, joint), left_out, not any(scatter.indistinct[:NEAREST]))


def _profile(
    request: AffinityRequest,
    context: Context,
    metric: AffinityMetric,
    target: Registered,
    sources: Sources,
    counts: dict[str, int],
) -> tuple[Sources, tuple[Signature, ...]]:
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
    remaining = sources.without(failed, request, context)
    return remaining, (*(remaining.files.get(name) or found[name] for name in remaining.order), own)


def _grown(counts: dict[str, int], target: Registered, sources: Sources, scatter: Scatter) -> dict[str, int]:
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
    sources: Sources,
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

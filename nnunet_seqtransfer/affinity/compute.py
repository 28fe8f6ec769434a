"""From a target and its sources to an Affinity: tasks, aligned plans, signatures, all pairs, and their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nnunet_seqtransfer.affinity.bootstrap import all_pairs, resample_pairs
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.metric import AffinityMetric
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry
from nnunet_seqtransfer.affinity.resamples import Resamples
from nnunet_seqtransfer.affinity.sources import Named, Sources, load_sources
from nnunet_seqtransfer.affinity.uncertainty import Scatter, scatter_to_target
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.tasks.alignment import remember_reader
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import load_target

AUTO_CASES = 0
"""Stands for: as many cases as the ranking of the nearest sources needs."""
FIRST_CASES = 10
"""Where that begins."""
NEAREST = 3
"""Places of the ranking that have to stand."""
JOINT = 50
"""Sources, the nearest, whose distances among each other are resampled as well: n of them cost n^2 comparisons."""


@dataclass(frozen=True)
class AffinityRequest:
    """What `compute_affinity` is asked for."""

    target: str
    "Name or number of the target."
    sources: tuple[str, ...]
    """Names or numbers of the sources, or signature files (.npz) of datasets elsewhere.

    Only "all" stands for every registered dataset that fits the target.
    """
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    cases: int = FIRST_CASES
    "Cases to look at per task (10 in arXiv 2410.06892); `AUTO_CASES` draws more until the ranking stands."
    seed: int = 0
    "Seed of the case sample and of the resamples."
    processes: int = 1
    "Worker processes."


@dataclass(frozen=True)
class AffinityResult:
    """An affinity, and what else came of computing it."""

    affinity: Affinity
    "Of the sources that could be compared."
    resamples: Resamples
    "The scatter of the distances among the nearest sources and the target."
    left_out: tuple[str, ...]
    "One line for each source that could not be compared: why, and what to do."
    stands: bool
    "Whether the cases tell the first `NEAREST` places of the ranking apart from each other and from the next."


def compute_affinity(
    request: AffinityRequest,
    metric: AffinityMetric,
    notify: Callable[[str], None],
    combination: Combination | None = None,
    calibration: str | None = None,
) -> AffinityResult:
    """Profiles what is not yet profiled, and compares all pairs.

    Args:
        request: which tasks.
        metric: how to compare them.
        notify: called with one line of text for each thing that takes time or is left out.
        combination: weights of the components; the metric's own where None.
        calibration: name of the calibration that ``combination`` comes from.

    A source that cannot be compared is left out, and the others still get their distance.

    Raises DatasetError, RecordError or SequenceError for what a user can mend: in the target, or where no source is
    left (then the first source's error).
    """
    weights = combination or metric.combination
    loaded = load_target(dataset_name(request.target), request.plans, request.configuration)
    target = Named(*loaded, request.configuration)
    sources = load_sources(target, request.sources, metric, request.processes, notify)
    counts = {named.name: request.cases or FIRST_CASES for named in (*sources.tasks, target)}
    while True:
        sources, signatures = _profile(request, metric, target, sources, counts, notify)
        scatter = scatter_to_target(metric, weights, signatures, request.seed)
        grown = _grown(counts, target, sources, scatter) if request.cases == AUTO_CASES else counts
        if grown == counts:
            break
        counts = grown
        notify(f"the cases do not tell the nearest sources apart yet; looking at {max(counts.values())}")
    for named in sources.tasks:
        remember_reader(named.task, named.plans["image_reader_writer"])
    affinity = _record(request, metric, weights, calibration, signatures, sources, scatter)
    nearest = (*affinity.ranking()[:JOINT], len(signatures) - 1)
    joint = resample_pairs(metric, [signatures[place] for place in nearest], request.seed)
    left_out = tuple(f"leaving out {name}: {error}" for name, error in sources.left_out.items())
    stands = not any(scatter.indistinct[:NEAREST])
    return AffinityResult(affinity, Resamples(nearest, joint), left_out, stands)


def _profile(
    request: AffinityRequest,
    metric: AffinityMetric,
    target: Named,
    sources: Sources,
    counts: dict[str, int],
    notify: Callable[[str], None],
) -> tuple[Sources, tuple[Signature, ...]]:
    """Signatures of the sources that have one, then of the target; the others are left out from now on."""
    local = [*sources.tasks, target]
    requests = [
        request_profile(named.task, named.plans, request.configuration, counts[named.name], request.seed)
        for named in local
    ]
    profiled = dict(
        zip((named.name for named in local), profile_tasks(requests, metric, request.processes), strict=True)
    )
    own = profiled.pop(target.name)
    if isinstance(own, SeqTransferError):
        raise own
    found = {name: result for name, result in profiled.items() if isinstance(result, Signature)}
    failed = {name: result for name, result in profiled.items() if isinstance(result, SeqTransferError)}
    remaining = sources.without(failed, notify)
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
    calibration: str | None,
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
        calibration=calibration,
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

"""Signatures made ahead of the distances, one dataset at a time: so that many machines can share the reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnunet_seqtransfer.affinity.compute import FIRST_CASES, AffinityRequest
from nnunet_seqtransfer.affinity.metric import AffinityMetric
from nnunet_seqtransfer.affinity.sources import ALL_SOURCES, SIGNATURE_ENDING
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.fingerprints import has_fingerprint
from nnunet_seqtransfer.nnunet.folders import dataset_name, registered_datasets
from nnunet_seqtransfer.tasks.alignment import align_plans, remember_reader
from nnunet_seqtransfer.tasks.profiling import ProfileRequest, has_signature, profile_tasks, request_profile
from nnunet_seqtransfer.tasks.task import Task, load_target, load_task, load_tasks


def missing_signatures(request: AffinityRequest, metric: AffinityMetric) -> tuple[str, ...]:
    """Full names of the sources, and the target, whose signature is not there yet; reads no image.

    What does not fit the target needs none: that is said where the distances are computed.

    Raises a SeqTransferError where the target is not planned and preprocessed, or a source is unknown.
    """
    target = dataset_name(request.target)
    load_target(target, request.plans, request.configuration)
    return tuple(name for name in (*_sources(request, target), target) if _is_missing(request, metric, name))


def make_signatures(request: AffinityRequest, metric: AffinityMetric, notify: Callable[[str], None]) -> tuple[str, ...]:
    """Makes the signatures of the sources, of which the target may be one; returns the full names of the datasets.

    Raises the first SeqTransferError where one cannot be made, after the others.
    """
    target = dataset_name(request.target)
    names = _sources(request, target)
    tasks = load_tasks([name for name in names if name != target], request.processes, notify)
    by_name = {task.dataset: task for task in tasks}
    requests = [_profile_request(request, name, by_name.get(name)) for name in names]
    made = profile_tasks(requests, metric, request.processes)
    for asked, signature in zip(requests, made, strict=True):
        if not isinstance(signature, SeqTransferError) and asked.task.dataset != target:
            remember_reader(asked.task, asked.plans["image_reader_writer"])
    errors = [signature for signature in made if isinstance(signature, SeqTransferError)]
    if errors:
        raise errors[0]
    return names


def _sources(request: AffinityRequest, target: str) -> tuple[str, ...]:
    """Full names of the registered datasets among the sources; signature files are made already."""
    asked: Sequence[str] = [name for name in request.sources if not name.endswith(SIGNATURE_ENDING)]
    if asked == [ALL_SOURCES]:
        return tuple(name for name in registered_datasets() if name != target)
    return tuple(dict.fromkeys(dataset_name(name) for name in asked))


def _is_missing(request: AffinityRequest, metric: AffinityMetric, name: str) -> bool:
    if not has_fingerprint(name):
        return True
    try:
        return not has_signature(_profile_request(request, name, None), metric)
    except SeqTransferError:
        return False


def _profile_request(request: AffinityRequest, name: str, task: Task | None) -> ProfileRequest:
    """As `compute_affinity` asks for the signature, under the plans of the target or aligned to them."""
    target, plans = load_target(dataset_name(request.target), request.plans, request.configuration)
    cases = request.cases or FIRST_CASES
    if name == target.dataset:
        return request_profile(target, plans, request.configuration, cases, request.seed)
    source = task or load_task(name)
    return request_profile(source, align_plans(plans, target, source), request.configuration, cases, request.seed)

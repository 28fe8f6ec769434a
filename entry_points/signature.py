"""nnUNetv2_seq_signature: write the signature of a dataset to a file that can travel without images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from nnunet_seqtransfer.affinity.metrics import find_metric
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_metric,
    add_plans_and_configuration,
    add_processes,
    add_seed,
    notify,
    positive_int,
    run_command,
)
from nnunet_seqtransfer.errors import SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name
from nnunet_seqtransfer.nnunet.plans import read_plans, read_plans_file
from nnunet_seqtransfer.tasks.alignment import plans_for
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import anonymous, write_signature
from nnunet_seqtransfer.tasks.task import Task, load_tasks

DEFAULT_CASES = 10


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Write the signature of a dataset to a file."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    metric = find_metric(options.m)
    if getattr(metric, "holds_images", False):
        raise SequenceError(
            f"signatures of the metric {metric.name} hold whole segmentations, which must not travel; use another -m"
        )
    path = Path(options.o)
    if path.suffix != ".npz":
        raise SequenceError(f"a signature file ends with .npz, not as {path}; give such a name to -o")
    if path.exists() and not options.overwrite:
        raise SequenceError(f"{path} exists; give another name to -o, or --overwrite")
    (task,) = load_tasks([dataset_name(options.d)], Context(notify, options.np))
    plans = _plans(options, task)
    (signature,) = profile_tasks(
        [request_profile(task, plans, options.c, options.n_cases, options.seed)], metric, options.np
    )
    if isinstance(signature, SeqTransferError):
        raise signature
    write_signature(path, anonymous(signature))
    print(
        f"signature of {task.dataset} ({metric.name}, {len(signature.cases)} of {signature.labelled_cases} cases): "
        f"{path}, {path.stat().st_size / 1e6:.2f} MB, no image, no identifier\n"
        f"use it where the target is: nnUNetv2_seq_affinity -t TARGET -s all {path.name}"
    )


def _plans(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Return plans for the task as a source: from a plans file, a registered target, or the dataset itself."""
    if options.plans is not None:
        plans = read_plans_file(Path(options.plans), options.c)
        return plans_for(plans, dataset_id(plans["dataset_name"]), task)
    if options.t is not None:
        target = dataset_name(options.t)
        return plans_for(read_plans(target, options.p, options.c), dataset_id(target), task)
    return read_plans(task.dataset, options.p, options.c)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Writes what affinity needs of a dataset, and no image, to a file of some 20 to 100 kB. On another machine "
        "nnUNetv2_seq_affinity takes that file as a source. Voxels are compared at the spacing of the target, so give "
        "its plans: -plans FILE (its nnUNetPlans.json, sent by those who have the target), or -t where it is here.",
        "nnUNetv2_seq_signature -d 21 -plans nnUNetPlans.json -c 3d_fullres -o Dataset021.npz",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="Name or number of the dataset")
    parser.add_argument("-o", required=True, metavar="FILE", help="File to write, ending with .npz")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-plans", metavar="FILE", help="Plans file of the target")
    target.add_argument(
        "-t",
        metavar="TARGET",
        help="Name or number of the target where it is registered here. Default: the dataset's own plans, "
        "which fit targets of the same spacing",
    )
    add_plans_and_configuration(parser)
    add_metric(parser)
    parser.add_argument(
        "-n_cases",
        type=positive_int,
        default=DEFAULT_CASES,
        metavar="N",
        help=f"Cases to sample. Default: {DEFAULT_CASES}",
    )
    add_seed(parser)
    parser.add_argument("--overwrite", action="store_true", help="Replace the file where it exists")
    add_processes(parser)
    return parser.parse(arguments)

"""nnUNetv2_seq_signature: write the signature of a dataset to a file that can travel without images."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.metrics import find_metric
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.errors import SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name
from nnunet_seqtransfer.nnunet.plans import read_plans, read_plans_file
from nnunet_seqtransfer.tasks.alignment import plans_for
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import anonymous, write_signature
from nnunet_seqtransfer.tasks.task import Task, load_tasks

DEFAULT_CASES = 10


def _run(options: argparse.Namespace) -> None:
    metric = find_metric(options.m)
    if getattr(metric, "holds_images", False):
        raise SequenceError(
            f"signatures of the metric {metric.name} hold whole segmentations, which must not travel; use another -m"
        )
    path = options.o
    if path.suffix != ".npz":
        raise SequenceError(f"a signature file ends with .npz, not as {path}; give such a name to -o")
    if path.exists() and not options.overwrite:
        raise SequenceError(f"{path} exists; give another name to -o, or --overwrite")
    (task,) = load_tasks([dataset_name(options.d)], Context(common.notify, options.np))
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
        plans = read_plans_file(options.plans, options.c)
        return plans_for(plans, dataset_id(plans["dataset_name"]), task)
    if options.t is not None:
        target = dataset_name(options.t)
        return plans_for(read_plans(target, options.p, options.c), dataset_id(target), task)
    return read_plans(task.dataset, options.p, options.c)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Writes what affinity needs of a dataset, and no image, to a file of some 20 to 100 kB. On another machine "
        "nnUNetv2_seq_affinity takes that file as a source. Voxels are compared at the spacing of the target, so give "
        "its plans: -plans FILE (its nnUNetPlans.json, sent by those who have the target), or -t where it is here.",
        "nnUNetv2_seq_signature -d 21 -plans nnUNetPlans.json -c 3d_fullres -o Dataset021.npz",
    )
    common.add(parser, "-d DATASET", "Name or number of the dataset", required=True)
    common.add(parser, "-o FILE", "File to write, ending with .npz", Path, required=True)
    target = parser.add_mutually_exclusive_group()
    common.add(target, "-plans FILE", "Plans file of the target", Path)
    text = "Name or number of the target where it is registered here. Default: the dataset's own plans, "
    text += "which fit targets of the same spacing"
    common.add(target, "-t TARGET", text)
    common.add_plans_and_configuration(parser)
    common.add_metric(parser)
    common.add(parser, "-n_cases N", "Cases to sample", common.positive_int, DEFAULT_CASES)
    common.add_seed(parser)
    common.add(parser, "--overwrite", "Replace the file where it exists")
    common.add_processes(parser)
    return parser.parse(arguments)


main = common.command(_parse, _run)

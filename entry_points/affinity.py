"""nnUNetv2_seq_affinity: how far each source lies from a target."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.affinity.affinity import Affinity, affinity_path, write_affinity
from nnunet_seqtransfer.affinity.compute import ALL_SOURCES, AffinityRequest, compute_affinity
from nnunet_seqtransfer.affinity.metric import find_metric, metrics
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_processes,
    notify,
    positive_int,
    run_command,
    seed,
)
from nnunet_seqtransfer.host.folders import dataset_name
from nnunet_seqtransfer.host.plans import DEFAULT_PLANS
from nnunet_seqtransfer.report.tables import affinity_table

DEFAULT_METRIC = "descriptors"
DEFAULT_CONFIGURATION = "3d_fullres"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Computes, writes and prints an affinity."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def run_affinity(request: AffinityRequest, metric: str) -> Affinity:
    """Computes an affinity and writes its JSON, CSV and heat map."""
    from nnunet_seqtransfer.report.heatmap import draw_heatmap  # noqa: PLC0415 - matplotlib is slow to import

    affinity = compute_affinity(request, find_metric(metric), notify)
    path = affinity_path(affinity.target, request.plans, request.configuration, metric)
    draw_heatmap(affinity, path.with_suffix(".png"))
    write_affinity(path, affinity)  # the record last: where it is, so are the others
    return affinity


def _run(options: argparse.Namespace) -> None:
    request = AffinityRequest(
        dataset_name(options.t), tuple(options.s), options.p, options.c, options.cases, options.seed, options.np
    )
    affinity = run_affinity(request, options.m)
    path = affinity_path(affinity.target, options.p, options.c, options.m)
    print(affinity_table(affinity))
    print(f"\nwritten: {path}\n         {path.with_suffix('.csv')}\n         {path.with_suffix('.png')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Computes how far each source dataset lies from a target dataset, from their data alone. The target must be "
        "preprocessed; sources need only be in nnUNet_raw.",
        "nnUNetv2_seq_affinity -t 4 -s 21 22 23 -c 3d_fullres",
    )
    parser.add_argument("-t", required=True, metavar="TARGET", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument(
        "-s",
        nargs="+",
        default=[ALL_SOURCES],
        metavar="SOURCE",
        help=f"[OPTIONAL] Names or numbers of the sources, or {ALL_SOURCES}: every registered dataset that fits the "
        f"target. Default: {ALL_SOURCES}",
    )
    add_plans_and_configuration(parser)
    parser.add_argument(
        "-m",
        type=metric_name,
        default=DEFAULT_METRIC,
        metavar="METRIC",
        help=f"[OPTIONAL] Metric, one of: {', '.join(metrics())}. Default: {DEFAULT_METRIC}",
    )
    parser.add_argument(
        "-cases", type=positive_int, default=10, metavar="N", help="[OPTIONAL] Cases to look at per task. Default: 10"
    )
    parser.add_argument(
        "-seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the sample of cases. Default: 0"
    )
    add_processes(parser)
    return parser.parse(arguments)


def metric_name(text: str) -> str:
    """An argparse type: the name of a metric."""
    if text not in metrics():
        raise argparse.ArgumentTypeError(f"there is no metric {text!r}; choose one of: {', '.join(metrics())}")
    return text


def add_plans_and_configuration(parser: argparse.ArgumentParser) -> None:
    """The options -p and -c."""
    parser.add_argument(
        "-p",
        default=DEFAULT_PLANS,
        metavar="PLANS",
        help=f"[OPTIONAL] Plans identifier of the target. Default: {DEFAULT_PLANS}",
    )
    parser.add_argument(
        "-c",
        default=DEFAULT_CONFIGURATION,
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres. Default: {DEFAULT_CONFIGURATION}",
    )

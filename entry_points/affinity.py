"""nnUNetv2_seq_affinity: how far each source lies from a target."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.compute import (
    AUTO_CASES,
    FIRST_CASES,
    NEAREST,
    AffinityRequest,
    AffinityResult,
    compute_affinity,
)
from nnunet_seqtransfer.affinity.filling import make_signatures, missing_signatures
from nnunet_seqtransfer.affinity.metric import find_metric, metrics
from nnunet_seqtransfer.affinity.record import affinity_path, write_affinity
from nnunet_seqtransfer.affinity.resamples import write_resamples
from nnunet_seqtransfer.affinity.sources import ALL_SOURCES
from nnunet_seqtransfer.calibration.record import read_calibration, require_metric
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_processes,
    notify,
    positive_int,
    run_command,
    seed,
)
from nnunet_seqtransfer.entry_points.executor_options import SLURM, add_executor, require_consistent, site_of
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.report.tables import affinity_table
from nnunet_seqtransfer.slurm.signatures import SlurmAffinity

DEFAULT_METRIC = "descriptors"
DEFAULT_CONFIGURATION = "3d_fullres"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Computes, writes and prints an affinity."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def run_affinity(request: AffinityRequest, metric: str, weights: Path | None = None) -> AffinityResult:
    """Computes an affinity and writes its JSON, CSV, heat map, ranking and resamples.

    ``weights`` is a calibration file; without it the components have the metric's own weights.
    """
    from nnunet_seqtransfer.report.heatmap import draw_heatmap  # noqa: PLC0415 - matplotlib is slow to import
    from nnunet_seqtransfer.report.ranking import draw_ranking  # noqa: PLC0415

    found = find_metric(metric)
    calibration = read_calibration(weights) if weights else None
    if calibration:
        require_metric(calibration, found.name, found.version)
    result = compute_affinity(
        request,
        found,
        notify,
        calibration.combination if calibration else None,
        calibration.name if calibration else None,
    )
    affinity = result.affinity
    path = affinity_path(affinity.target, request.plans, request.configuration, metric)
    draw_heatmap(affinity, path.with_suffix(".png"))
    draw_ranking(affinity, ranking_path(path))
    write_resamples(path, affinity, result.resamples)
    write_affinity(path, affinity)  # the record last: where it is, so are the others
    return result


def ranking_path(affinity_file: Path) -> Path:
    """Where the picture of the ranking of an affinity is."""
    return affinity_file.with_name(f"{affinity_file.stem}_ranking.png")


def _run(options: argparse.Namespace) -> None:
    request = AffinityRequest(
        dataset_name(options.t), tuple(options.s), options.p, options.c, options.cases, options.seed, options.np
    )
    if options.signatures_only:
        for name in make_signatures(request, find_metric(options.m), notify):
            print(f"signature of {name} ({options.m}): there")
    elif not _submitted(options, request):
        _compute(options, request)


def _submitted(options: argparse.Namespace, request: AffinityRequest) -> bool:
    """Has Slurm make signatures that are missing, if that is asked for and any are; whether it does."""
    if options.executor != SLURM:
        return False
    weights = None if options.weights is None else Path(options.weights)
    affinity = SlurmAffinity(site_of(options, "affinity"), request, options.m, weights)
    missing = missing_signatures(request, find_metric(options.m))
    if missing and options.dry_run:
        print("\n".join(affinity.describe(missing)))
    elif missing:
        affinity.submit(missing, notify)
    elif options.dry_run:
        print("all signatures are there: nothing would be submitted, the distances would be computed here")
    return bool(missing or options.dry_run)


def _compute(options: argparse.Namespace, request: AffinityRequest) -> None:
    result = run_affinity(request, options.m, None if options.weights is None else Path(options.weights))
    path = affinity_path(result.affinity.target, options.p, options.c, options.m)
    print(affinity_table(result.affinity))
    if not result.stands:
        print(f"\n{_unstable(result)}")
    print(f"\nwritten: {path}\n         {path.with_suffix('.csv')}\n         {path.with_suffix('.png')}")
    print(f"         {ranking_path(path)}")
    # What "all" stands for need not fit; what was named beside it, signature files, has to.
    called = tuple(f"leaving out {name}:" for name in options.s)
    named = [line for line in result.left_out if ALL_SOURCES not in options.s or line.startswith(called)]
    if named:
        raise SequenceError(f"{len(named)} of the sources named had to be left out, the others are above; {named[0]}")


def _unstable(result: AffinityResult) -> str:
    places = min(NEAREST, len(result.affinity.sources))
    looked = max(len(task.sampled_cases) for task in result.affinity.tasks)
    more = "there are no more cases" if result.affinity.cases == AUTO_CASES else "try -cases auto"
    return f"The order of the nearest {places} is not certain with up to {looked} cases a task; {more}."


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
        help="[OPTIONAL] Names or numbers of the sources, or signature files (.npz) of datasets elsewhere, or "
        f"{ALL_SOURCES}: every registered dataset that fits the target. Default: {ALL_SOURCES}",
    )
    add_plans_and_configuration(parser)
    add_metric(parser, DEFAULT_METRIC)
    parser.add_argument(
        "-cases",
        type=case_count,
        default=FIRST_CASES,
        metavar="N",
        help=f"[OPTIONAL] Cases to look at per task, or auto: more of them until the order of the nearest {NEAREST} "
        f"sources is certain. Default: {FIRST_CASES}",
    )
    parser.add_argument(
        "-weights",
        metavar="FILE",
        help="[OPTIONAL] Calibration by nnUNetv2_seq_calibrate, for the weights of the components. Default: the "
        "metric's own, which are guesses",
    )
    add_seed(parser)
    parser.add_argument(
        "--signatures_only",
        action="store_true",
        help="[OPTIONAL] Make the signatures of -s, the target's too if it is named there, and compare nothing: for "
        "schedulers",
    )
    add_processes(parser)
    add_executor(parser, of_stages=False)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="[OPTIONAL] With -executor slurm, print what would be submitted, and do nothing",
    )
    options = parser.parse(arguments)
    require_consistent(parser, options)
    if options.dry_run and options.executor != SLURM:
        parser.error("--dry_run needs -executor slurm")
    if options.signatures_only and options.executor == SLURM:
        parser.error("--signatures_only is what the jobs of -executor slurm do; leave it out")
    return options


def add_metric(parser: argparse.ArgumentParser, default: str | None) -> None:
    """The option -m."""
    parser.add_argument(
        "-m",
        type=metric_name,
        default=default,
        metavar="METRIC",
        help=f"[OPTIONAL] Metric, one of: {', '.join(metrics())}. Default: {DEFAULT_METRIC}",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The option -seed."""
    parser.add_argument(
        "-seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the sample of cases. Default: 0"
    )


def case_count(text: str) -> int:
    """An argparse type: a number of cases, or "auto"."""
    return AUTO_CASES if text == "auto" else positive_int(text)


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

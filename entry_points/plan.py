"""nnUNetv2_seq_plan: from the distances to a path, and why."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.affinity import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.affinity.compute import ALL_SOURCES, AffinityRequest
from nnunet_seqtransfer.affinity.metric import metrics
from nnunet_seqtransfer.entry_points.affinity import (
    DEFAULT_METRIC,
    add_plans_and_configuration,
    metric_name,
    run_affinity,
)
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_processes,
    natural,
    notify,
    positive_float,
    run_command,
)
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.host.folders import dataset_name, registered_datasets
from nnunet_seqtransfer.report.tables import plan_text
from nnunet_seqtransfer.sequence.cost import CostModel
from nnunet_seqtransfer.sequence.plan import SequencePlan, make_plan, plan_path, write_plan
from nnunet_seqtransfer.sequence.planner import PLANNERS, planner

DEFAULT_STRATEGY = next(iter(PLANNERS))
DEFAULT_MAX_SOURCES = 2


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Plans, writes and prints a sequence."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def run_plan(
    affinity: Affinity, affinity_file: Path, strategy: str, max_sources: int, costs: CostModel
) -> SequencePlan:
    """Plans on an affinity and writes the plan and its picture."""
    from nnunet_seqtransfer.report.pathmap import draw_path  # noqa: PLC0415 - matplotlib is slow to import

    plan = make_plan(affinity, affinity_file, planner(strategy, costs), strategy, max_sources, top=10)
    path = plan_path(plan.target, plan.plans, plan.configuration)
    write_plan(path, plan)
    draw_path(plan, affinity, path.with_suffix(".png"))
    return plan


def find_affinity(target: str, plans: str, configuration: str, metric: str, processes: int) -> tuple[Affinity, Path]:
    """The affinity of a target, computed over all registered datasets where there is none yet."""
    path = affinity_path(target, plans, configuration, metric)
    if path.is_file():
        affinity = read_affinity(path)
        require_fitting(affinity, path, (target, plans, configuration), "nnUNetv2_seq_affinity")
        return affinity, path
    notify(f"no affinity of {target} yet; comparing it with all registered datasets")
    request = AffinityRequest(target, (ALL_SOURCES,), plans, configuration, processes=processes)
    return run_affinity(request, metric), path


def require_fitting(record: Affinity | SequencePlan, path: Path, wanted: tuple[str, str, str], maker: str) -> None:
    """Raises RecordError where a record is not for the ``wanted`` target, plans and configuration, or names lost data.

    ``maker`` is the command that makes such a record.
    """
    remedy = f"run {maker} for this target"
    made_for = (record.target, record.plans, record.configuration)
    if made_for != wanted:
        raise RecordError(f"this file was made for {' '.join(made_for)}, not for {' '.join(wanted)}: {path}; {remedy}")
    lost = sorted(set(record.sources) - set(registered_datasets()))
    if lost:
        raise RecordError(
            f"this file names {lost[0]}, which is not registered any more: {path}; restore that dataset, or {remedy}"
        )


def _run(options: argparse.Namespace) -> None:
    target = dataset_name(options.t)
    if options.a is not None:
        path = Path(options.a)
        affinity = read_affinity(path)
        require_fitting(affinity, path, (target, options.p, options.c), "nnUNetv2_seq_affinity")
    else:
        affinity, path = find_affinity(target, options.p, options.c, options.m, options.np)
    costs = CostModel(options.start_scale, options.start_exponent, options.hop_exponent, affinity.unit)
    plan = run_plan(affinity, path, options.strategy, options.max_sources, costs)
    written = plan_path(plan.target, plan.plans, plan.configuration)
    print(plan_text(plan))
    print(f"\nwritten: {written}\n         {written.with_suffix('.png')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Plans which sources to train on, in which order, before the target. Scratch and direct transfer compete.",
        "nnUNetv2_seq_plan -t 4 -max_sources 2",
    )
    parser.add_argument("-t", required=True, metavar="TARGET", help="[REQUIRED] Name or number of the target dataset")
    add_plans_and_configuration(parser)
    parser.add_argument(
        "-m",
        type=metric_name,
        metavar="METRIC",
        help=f"[OPTIONAL] Metric of the affinity, one of: {', '.join(metrics())}. Default: {DEFAULT_METRIC}",
    )
    parser.add_argument(
        "-a",
        metavar="FILE",
        help="[OPTIONAL] Affinity file. Default: the one nnUNetv2_seq_affinity wrote for the target",
    )
    _add_strategy(parser)
    add_processes(parser)
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    options.m = options.m or DEFAULT_METRIC
    return options


def _add_strategy(parser: argparse.ArgumentParser) -> None:
    """The options that say how to plan."""
    defaults = CostModel()
    parser.add_argument(
        "-strategy",
        choices=list(PLANNERS),
        default=DEFAULT_STRATEGY,
        help="[OPTIONAL] exact: the cheapest of all paths; published: communities, landmark, one intermediate. "
        "Default: exact",
    )
    parser.add_argument(
        "-max_sources",
        type=natural,
        default=DEFAULT_MAX_SOURCES,
        metavar="N",
        help=f"[OPTIONAL] Most sources before the target. Default: {DEFAULT_MAX_SOURCES}",
    )
    for name, default, what in (
        ("-start_scale", defaults.start_scale, "cost of starting on a single labelled case"),
        ("-start_exponent", defaults.start_exponent, "how fast the start gets cheaper with more cases"),
        ("-hop_exponent", defaults.hop_exponent, "a hop costs (distance / unit) to this power"),
    ):
        parser.add_argument(
            name, type=positive_float, default=default, metavar="X", help=f"[OPTIONAL] {what}. Default: {default:g}"
        )

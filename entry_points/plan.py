"""nnUNetv2_seq_plan: from the distances to a path, and why."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.measure import find_affinity
from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC, find_metric
from nnunet_seqtransfer.affinity.record import Affinity, read_affinity, require_fitting
from nnunet_seqtransfer.calibration.record import Calibration, read_calibration, require_metric
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_metric,
    add_plans_and_configuration,
    add_processes,
    notify,
    run_command,
)
from nnunet_seqtransfer.entry_points.plan_options import (
    add_constraints,
    add_strategy,
    add_training,
    full_names,
    plan_options,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.planning.decide import Outcome, decide, make_plan
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.planning.record import SequencePlan, plan_path, write_plan
from nnunet_seqtransfer.planning.setting import Setting, prepare
from nnunet_seqtransfer.report.plan_text import plan_text
from nnunet_seqtransfer.training.history import find_epoch_time, find_finished


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Plans, writes and prints a sequence."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def run_plan(
    affinity: Affinity, affinity_file: Path, options: PlanOptions, calibration: Calibration | None = None
) -> SequencePlan:
    """Plans on an affinity and writes the plan and its pictures."""
    setting = _prepare(affinity, affinity_file, options, calibration)
    return _write(setting, decide(setting))


def _prepare(affinity: Affinity, affinity_file: Path, options: PlanOptions, calibration: Calibration | None) -> Setting:
    """What a plan depends on, nnUNet_results included."""
    stages = (affinity.target, affinity.plans, affinity.configuration)
    epoch, finished = find_epoch_time(options.training, *stages), find_finished(*stages, options.training)
    return prepare(affinity, affinity_file, options, calibration, epoch=epoch, finished=finished)


def _run(options: argparse.Namespace) -> None:
    target = dataset_name(options.t)
    asked = replace(options.asked, must=full_names(options.asked.must), avoid=full_names(options.asked.avoid))
    affinity, path, calibration = _affinity(options, target)
    plan = run_plan(affinity, path, asked, calibration)
    print(plan_text(plan))
    written = "\n         ".join(str(path) for path in _files(plan))
    print(f"\nwritten: {written}")


def _affinity(options: argparse.Namespace, target: str) -> tuple[Affinity, Path, Calibration | None]:
    """The affinity to plan on, where it is, and the calibration asked for, which has to fit it."""
    if options.a is not None:
        path = Path(options.a)
        affinity = read_affinity(path)
        require_fitting(affinity, path, (target, options.p, options.c), "nnUNetv2_seq_affinity")
    else:
        affinity, path = find_affinity(target, options.p, options.c, options.m, Context(notify, options.np))
    calibration = None if options.weights is None else read_calibration(Path(options.weights))
    if calibration:
        require_metric(calibration, affinity.metric, find_metric(affinity.metric).version)
    return affinity, path, calibration


def _write(setting: Setting, outcome: Outcome) -> SequencePlan:
    """Draws the pictures and writes the record, the record last: where it is, so are the others."""
    from nnunet_seqtransfer.report.cost_figures import draw_costs  # noqa: PLC0415 - matplotlib is slow to import
    from nnunet_seqtransfer.report.figures import save  # noqa: PLC0415
    from nnunet_seqtransfer.report.graph_figure import draw_graph  # noqa: PLC0415

    plan, decision = make_plan(setting, outcome), outcome.decision
    record, costs, graph = _files(plan)
    save(draw_costs(plan, (*plan.sources, plan.target)), costs)
    save(draw_graph(setting.problem, decision.chosen.path, decision.communities), graph)
    write_plan(record, plan)
    return plan


def _files(plan: SequencePlan) -> tuple[Path, ...]:
    """Return the record and its pictures, which are also there as SVG and PDF."""
    record = plan_path(plan.target, plan.plans, plan.configuration)
    return record, record.with_suffix(".png"), record.with_name(f"{record.stem}_graph.png")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Plans which sources to train on, in which order, before the target. Scratch and direct transfer compete.",
        "nnUNetv2_seq_plan -t 4 -max_sources 2",
    )
    parser.add_argument("-t", required=True, metavar="TARGET", help="[REQUIRED] Name or number of the target dataset")
    add_plans_and_configuration(parser)
    add_metric(parser, default=None)  # -a names another file, with a metric of its own
    parser.add_argument(
        "-a",
        metavar="FILE",
        help="[OPTIONAL] Affinity file. Default: the one nnUNetv2_seq_affinity wrote for it",
    )
    add_strategy(parser)
    add_constraints(parser)
    add_training(parser)
    add_processes(parser)
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    options.m = options.m or DEFAULT_METRIC
    options.asked = plan_options(options, parser)
    return options

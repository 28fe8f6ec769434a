"""nnUNetv2_seq_plan: choose the path to a target, and say what it is worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
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
from nnunet_seqtransfer.planning.decide import problem_of
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file
from nnunet_seqtransfer.report.plan_text import plan_text
from nnunet_seqtransfer.training.plan import PlanRequest, plan_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Plan, write and print a path."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    request = PlanRequest(
        dataset_name(options.t),
        options.p,
        options.c,
        options.m or DEFAULT_METRIC,
        None if options.a is None else Path(options.a),
        None if options.calibration is None else Path(options.calibration),
    )
    asked = replace(options.asked, must=full_names(options.asked.must), avoid=full_names(options.asked.avoid))
    plan = plan_path(request, asked, Context(notify, options.np))
    print(plan_text(plan))
    written = "\n         ".join(str(path) for path in (plan_file(*request.key), *_draw(plan, request)))
    print(f"\nwritten: {written}")


def _draw(plan: SequencePlan, request: PlanRequest) -> tuple[Path, ...]:
    """Draw the candidates and the source graph next to the plan, and return the PNGs."""
    from nnunet_seqtransfer.report.figures import save  # noqa: PLC0415 - matplotlib is slow to import
    from nnunet_seqtransfer.report.graph_figure import draw_graph  # noqa: PLC0415
    from nnunet_seqtransfer.report.result_figures import draw_gains  # noqa: PLC0415

    gains = plan_file(*request.key).with_suffix(".png")
    graph = gains.with_name(f"{gains.stem}_graph.png")
    affinity = read_affinity(request.affinity_file or affinity_path(*request.key, plan.metric))
    problem = problem_of(affinity, without={entry.dataset for entry in plan.left_out})
    places = {name: place for place, name in enumerate(problem.names)}
    communities = [[places[name] for name in members] for members in plan.communities]
    save(draw_gains(plan, plan.path), gains)
    save(draw_graph(problem, [places[name] for name in plan.path], communities), graph)
    return gains, graph


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Plans which sources to train on before the target. Scratch, every single source and pairs of near sources "
        "compete by their expected gain in Dice.",
        "nnUNetv2_seq_plan -t 4 -scratch_dice 0.62",
    )
    parser.add_argument("-t", required=True, metavar="TARGET", help="[REQUIRED] Name or number of the target dataset")
    add_plans_and_configuration(parser)
    add_metric(parser, default=None)  # -a names another file, with a metric of its own
    parser.add_argument(
        "-a", metavar="FILE", help="[OPTIONAL] Affinity file. Default: the one nnUNetv2_seq_affinity wrote for it"
    )
    add_strategy(parser)
    add_constraints(parser)
    add_training(parser)
    add_processes(parser)
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    options.asked = plan_options(options, parser)
    return options

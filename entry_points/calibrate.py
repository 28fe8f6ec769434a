"""nnUNetv2_seq_calibrate: predict gains from the user's own finished runs as well."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.calibration.calibrate import CalibrationRequest, calibrate
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_metric,
    add_plans_and_configuration,
    notify,
    run_command,
    seed,
)
from nnunet_seqtransfer.report.plan_text import calibration_text
from nnunet_seqtransfer.training.plan import own_table_file


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Collect measured transfers, write them and print what they add."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.figures import save
    from nnunet_seqtransfer.report.result_figures import draw_calibration

    output = own_table_file() if options.o is None else Path(options.o)
    request = CalibrationRequest(
        output=output,
        table=None if options.i is None else Path(options.i),
        results=options.results,
        affinities=tuple(Path(file) for file in options.a or ()),
        plans=options.p,
        configuration=options.c,
        metric=options.m or DEFAULT_METRIC,
        seed=options.seed,
        models=tuple(options.init),
    )
    calibration = calibrate(request, Context(notify))
    save(draw_calibration(calibration), output.with_suffix(".svg"))
    print(calibration_text(calibration))
    print(f"\nwritten: {output}\n         {output.with_suffix('.svg')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Adds your own measured transfers to those that gains are predicted from, and says how well targets are "
        "predicted with and without them. nnUNetv2_seq_plan uses the result.",
        "nnUNetv2_seq_calibrate --results",
    )
    parser.add_argument(
        "-i",
        metavar="TABLE",
        help="CSV with the columns path (such as 23 -> 21, or scratch), target, dice (0 to 1) and, if a "
        "path was run several times, seed. Default: none",
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="Use the finished chains in nnUNet_results, with the Dice of nnU-Net's validation",
    )
    parser.add_argument(
        "-o",
        metavar="FILE",
        help="File to write, .json; a picture is written next to it. Default: "
        "nnUNet_results/seqtransfer/measured.json, which nnUNetv2_seq_plan uses by itself",
    )
    add_metric(parser, default=None)  # -a names other files, with a metric of their own
    add_plans_and_configuration(parser)
    parser.add_argument(
        "-a",
        nargs="+",
        metavar="FILE",
        help="Affinity files of the targets. Default: those nnUNetv2_seq_affinity wrote",
    )
    parser.add_argument(
        "-init",
        nargs="+",
        type=Path,
        default=[],
        metavar="MODEL",
        help="With --results: models that chains started from. Such chains count as paths from the dataset "
        "that the model names; those that a plan started count without this. Default: none",
    )
    parser.add_argument(
        "-seed", type=seed, default=0, metavar="N", help="Seed of the bootstrap over targets. Default: 0"
    )
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    if options.i is None and not options.results:
        parser.error("there is nothing to calibrate on; give -i TABLE, --results, or both")
    return options

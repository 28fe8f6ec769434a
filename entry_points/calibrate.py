"""nnUNetv2_seq_calibrate: predict gains from the user's own finished runs as well."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.calibration.calibrate import CalibrationRequest, calibrate
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.report.plan_text import calibration_text
from nnunet_seqtransfer.training.plan import own_table_file


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.figures import save
    from nnunet_seqtransfer.report.result_figures import draw_calibration

    output = options.o or own_table_file()
    request = CalibrationRequest(
        output=output,
        table=options.i,
        results=options.results,
        affinities=tuple(options.a or ()),
        plans=options.p,
        configuration=options.c,
        metric=options.m or DEFAULT_METRIC,
        seed=options.seed,
        models=tuple(options.init),
    )
    calibration = calibrate(request, Context(common.notify))
    save(draw_calibration(calibration), output.with_suffix(".svg"))
    print(calibration_text(calibration))
    print(f"\nwritten: {output}\n         {output.with_suffix('.svg')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Adds your own measured transfers to those that gains are predicted from, and says how well targets are "
        "predicted with and without them. nnUNetv2_seq_plan uses the result.",
        "nnUNetv2_seq_calibrate --results",
    )
    text = "CSV with the columns path (such as 23 -> 21, or scratch), target, dice (0 to 1) and, if a "
    text += "path was run several times, seed. Default: none"
    common.add(parser, "-i TABLE", text, Path)
    common.add(parser, "--results", "Use the finished chains in nnUNet_results, with the Dice of nnU-Net's validation")
    text = "File to write, .json; a picture is written next to it. Default: "
    text += "nnUNet_results/seqtransfer/measured.json, which nnUNetv2_seq_plan uses by itself"
    common.add(parser, "-o FILE", text, Path)
    common.add_metric(parser, default=None)  # -a names other files, with a metric of their own
    common.add_plans_and_configuration(parser)
    common.add(parser, "-a FILE ...", "Affinity files of the targets. Default: those nnUNetv2_seq_affinity wrote", Path)
    text = "With --results: models that chains started from. Such chains count as paths from the dataset "
    text += "that the model names; those that a plan started count without this. Default: none"
    common.add(parser, "-init MODEL ...", text, Path, [])
    common.add_seed(parser, "bootstrap over targets")
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    if options.i is None and not options.results:
        parser.error("there is nothing to calibrate on; give -i TABLE, --results, or both")
    return options


main = common.command(_parse, _run)

"""nnUNetv2_seq_calibrate: fits the weights of a metric and the planner's constants to measured transfers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC, find_metric, metric_names
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.calibration.calibrate import MetricEntry, calibrate
from nnunet_seqtransfer.calibration.measurements import MeasuredRun, find_name, read_measurements
from nnunet_seqtransfer.calibration.record import Calibration, write_calibration
from nnunet_seqtransfer.calibration.trained import read_trained
from nnunet_seqtransfer.calibration.transfers import join
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_plans_and_configuration,
    metric_name,
    notify,
    run_command,
    seed,
)
from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.folders import registered_datasets
from nnunet_seqtransfer.report.calibration_text import calibration_text


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Calibrates, writes and prints."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def run_calibration(
    runs: Sequence[MeasuredRun], affinities: dict[str, Affinity], metric: MetricEntry, output: Path, seed: int
) -> Calibration:
    """Calibrates on measured runs; writes the picture and the record beside it."""
    from nnunet_seqtransfer.report.cost_figures import draw_calibration  # noqa: PLC0415 - matplotlib is slow to import
    from nnunet_seqtransfer.report.figures import save  # noqa: PLC0415

    targets = join(runs, affinities, tuple(metric.combination.weights), notify)
    calibration = calibrate(targets, metric, output.stem, seed)
    save(draw_calibration(calibration), output.with_suffix(".png"))
    write_calibration(output, calibration)  # the record last: where it is, so is the picture
    return calibration


def default_affinities(runs: Sequence[MeasuredRun], plans: str, configuration: str, metric: str) -> dict[str, Affinity]:
    """By full name, the affinity of each measured target that is registered and has one."""
    registered = registered_datasets()
    found = {}
    for given in dict.fromkeys(run.target for run in runs):
        try:
            target = find_name(given, registered)
        except DatasetError:
            continue  # its runs are named when they are left out
        path = affinity_path(target, plans, configuration, metric)
        if path.is_file():
            found[target] = read_affinity(path)
    return found


def given_affinities(files: Sequence[str]) -> dict[str, Affinity]:
    """By full name of the target; 2d and 3d ones may stand side by side, as targets are only compared with themselves.

    Raises RecordError where two are for one target, or their metrics differ.
    """
    found: dict[str, Affinity] = {}
    for file in files:
        affinity = read_affinity(Path(file))
        if affinity.target in found:
            raise RecordError(f"two affinity files are for {affinity.target}, the second is {file}; leave one out")
        first = next(iter(found.values()), affinity)
        if affinity.metric != first.metric:
            raise RecordError(
                f"{file} is of the metric {affinity.metric}, the affinities before it of {first.metric}; "
                "calibrate each metric alone"
            )
        found[affinity.target] = affinity
    configurations = sorted({affinity.configuration for affinity in found.values()})
    if len(configurations) > 1:
        notify(
            f"affinities of {' and '.join(configurations)} are calibrated together: a component is taken to mean the "
            "same in all of them"
        )
    return found


def _check_output(path: Path) -> None:
    """Raises RecordError where no calibration can be written there, before anything is computed."""
    if path.suffix != ".json" or path.is_dir():
        raise RecordError(f"the calibration is written to a file that ends with .json, not to {path}; correct -o")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise RecordError(f"the calibration cannot be written to {path}: {above} is no folder; correct -o")


def _run(options: argparse.Namespace) -> None:
    output = Path(options.o)
    _check_output(output)
    runs = read_measurements(Path(options.i)) if options.i is not None else ()
    if options.results:
        runs += read_trained(options.p, options.c, notify)
    if options.a is not None:
        affinities = given_affinities(options.a)
        name = next(iter(affinities.values())).metric
    else:
        name = options.m
        affinities = default_affinities(runs, options.p, options.c, name)
    metric = find_metric(name)
    entry = MetricEntry(metric.name, metric.version, metric.combination)
    calibration = run_calibration(runs, affinities, entry, output, options.seed)
    print(calibration_text(calibration))
    print(f"\nwritten: {output}\n         {output.with_suffix('.png')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Fits the weights of a metric's components and the constants of the planner's cost to measured transfers: how "
        "well targets did after paths that were trained. nnUNetv2_seq_affinity and nnUNetv2_seq_plan take the result "
        "with -weights.",
        "nnUNetv2_seq_calibrate -i measurements.csv -o calibration.json",
    )
    parser.add_argument(
        "-i",
        metavar="TABLE",
        help="[OPTIONAL] CSV with the columns path (such as 23 -> 21, or scratch), target, dice (0 to 1) and, where a "
        "path was run several times, seed. Default: none",
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="[OPTIONAL] Take the finished chains in nnUNet_results, their Dice from nnU-Net's validation",
    )
    parser.add_argument(
        "-o", required=True, metavar="FILE", help="[REQUIRED] File to write, .json; a picture is written beside it"
    )
    parser.add_argument(
        "-m",
        type=metric_name,
        metavar="METRIC",
        help=f"[OPTIONAL] Metric of the affinities, one of: {', '.join(metric_names())}. Default: {DEFAULT_METRIC}",
    )
    add_plans_and_configuration(parser)
    parser.add_argument(
        "-a",
        nargs="+",
        metavar="FILE",
        help="[OPTIONAL] Affinity files of the targets. Default: those nnUNetv2_seq_affinity wrote",
    )
    parser.add_argument("-seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the bootstrap. Default: 0")
    options = parser.parse(arguments)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    if options.i is None and not options.results:
        parser.error("there is nothing to calibrate on; give -i TABLE, --results, or both")
    options.m = options.m or DEFAULT_METRIC
    return options

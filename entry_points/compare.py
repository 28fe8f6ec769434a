"""nnUNetv2_seq_compare: train several paths to one target alike, and measure by how much they differ."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.calibration.runs import split_path
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_checkpoint_minutes,
    add_device,
    add_execution,
    add_processes,
    natural,
    notify,
    positive_float,
    positive_int,
    run_command,
    seed,
    tag_name,
)
from nnunet_seqtransfer.entry_points.recipe_options import add_fine_tuning, fine_tuned
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.arms import KINDS, CompareRequest
from nnunet_seqtransfer.evaluation.compare import run_comparison
from nnunet_seqtransfer.evaluation.trials import survey_comparison
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text, written_text
from nnunet_seqtransfer.training.executors import LocalExecutor
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe

DEFAULTS = CompareRequest("")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Compare paths."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    context = Context(notify, options.np)
    request = _request(options)
    executor = LocalExecutor(wait=options.wait, prefetch=options.np_ahead)
    if not options.dry_run:
        executor.check(request.devices)
    survey = survey_comparison(request, context, write=not options.dry_run)
    print(budget_text(survey.arms, survey.budget, request.seeds), flush=True)
    if options.dry_run:
        print("nothing was done (--dry_run)")
        return
    comparison = run_comparison(survey, context, executor)

    from nnunet_seqtransfer.report.result_figures import draw_comparison  # noqa: PLC0415 - matplotlib is slow

    pictures = draw_comparison(comparison, survey.path.parent)
    print(f"\n{comparison_text(comparison)}\n\n{written_text(survey.path, pictures)}")


def _request(options: argparse.Namespace) -> CompareRequest:
    recipe = fine_tuned(Recipe(options.epochs, options.iterations, options.initial_lr), options)
    return CompareRequest(
        target=options.dataset,
        configuration=options.configuration,
        folds=tuple(options.f),
        seeds=tuple(options.seeds),
        plans=options.p,
        affinity=options.a,
        kinds=tuple(options.arms),
        nearest=options.nearest,
        paths=tuple(path for text in options.paths for path in _read_paths(text)),
        recipe=recipe,
        source_epochs=options.source_epochs,
        warmup_epochs=options.warmup_epochs,
        keep_heads=not options.new_heads,
        replay=options.replay,
        exclude_overlap=options.exclude_overlap,
        test=options.test,
        mirroring=not options.disable_tta,
        tag=options.tag,
        devices=DeviceOptions(options.device, options.gpus, False, options.checkpoint_minutes),
        epoch_seconds=options.epoch_time,
    )


def _read_paths(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the path in ``text``, such as "21,24", or every line's path if ``text`` names a file.

    Empty lines and lines that start with # are skipped.
    """
    lines = [text]
    if text.endswith(".txt") or Path(text).is_file():  # a .txt that is missing is a typing error, not a dataset
        try:
            lines = Path(text).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"cannot read the file of paths {text} ({error}); correct -paths") from None
    for line in lines:
        if line.strip() and not line.strip().startswith("#"):
            yield split_path(line)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Trains several paths to one target with equal numbers of target iterations, evaluates them on cases that no "
        "stage was trained on, and reports how much they differ and how well the distances ranked them. Run it again "
        "after any interruption: it does what is left.",
        "nnUNetv2_seq_compare 4 3d_fullres -f 0 -seeds 0 1 2 -epochs 250",
    )
    parser.add_argument("dataset", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument("configuration", help="[REQUIRED] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres")
    parser.add_argument(
        "-f",
        nargs="+",
        default=list(DEFAULTS.folds),
        metavar="FOLD",
        help="[OPTIONAL] Folds of the target: 0 to 4; with -test also all. Default: 0",
    )
    parser.add_argument(
        "-seeds", nargs="+", type=seed, default=[0], metavar="N", help="[OPTIONAL] Seeds of the trainings. Default: 0"
    )
    parser.add_argument(
        "-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"[OPTIONAL] Plans of the target. Default: {DEFAULT_PLANS}"
    )
    parser.add_argument(
        "-a",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] Affinity file to choose the paths by. Default: the one of nnUNetv2_seq_affinity, made if "
        "there is none",
    )
    _add_arms(parser)
    _add_recipe(parser)
    _add_evaluation(parser)
    add_device(parser)
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] Print the paths and their cost; do nothing")
    add_processes(parser)
    add_execution(parser)
    add_checkpoint_minutes(parser)
    return parser.parse(arguments)


def _add_arms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-arms",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        metavar="KIND",
        help=f"[OPTIONAL] Kinds of paths: {', '.join(KINDS)} (long: scratch with as many iterations as all stages of "
        "the longest path). Default: all",
    )
    parser.add_argument(
        "-nearest",
        type=natural,
        default=DEFAULTS.nearest,
        metavar="N",
        help=f"[OPTIONAL] Number of nearest sources for direct transfer. Default: {DEFAULTS.nearest}",
    )
    parser.add_argument(
        "-paths",
        nargs="+",
        default=[],
        metavar="PATH",
        help="[OPTIONAL] Your own paths, sources in order, such as 21,24 21+22; or files with one path per line. "
        "Default: none",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    for name, kind, default, what in (
        ("-epochs", positive_int, DEFAULTS.recipe.epochs, "Epochs of the target's stage"),
        ("-source_epochs", positive_int, DEFAULTS.source_epochs, "Epochs of each source's stage"),
        ("-iterations", positive_int, DEFAULTS.recipe.iterations, "Iterations per epoch, all stages"),
        ("-initial_lr", positive_float, DEFAULTS.recipe.initial_lr, "Initial learning rate, all stages"),
    ):
        parser.add_argument(
            name, type=kind, default=default, metavar="X", help=f"[OPTIONAL] {what}. Default: {default:g}"
        )
    add_fine_tuning(parser)
    parser.add_argument(
        "-tag",
        type=tag_name,
        metavar="NAME",
        help="[OPTIONAL] Name that keeps comparisons with different recipes apart. Default: none",
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-test",
        metavar="DATASET",
        help="[OPTIONAL] Evaluate on the labelled cases of this dataset, which needs the target's channels and "
        "labels; the target itself means imagesTs and labelsTs. Default: the validation cases of each fold",
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="[OPTIONAL] Predict the cases of -test without mirroring"
    )
    parser.add_argument(
        "--exclude_overlap",
        action="store_true",
        help="[OPTIONAL] Exclude the fold's validation cases from the sources (default: error if they overlap)",
    )
    parser.add_argument(
        "-epoch_time",
        type=positive_float,
        metavar="SECONDS",
        help="[OPTIONAL] Time of an epoch, for the estimate. Default: a rough guess",
    )

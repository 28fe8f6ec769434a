"""nnUNetv2_seq_compare: train several paths to one target alike, and measure by how much they differ."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_seqtransfer.calibration.runs import split_path
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common, recipe_options
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.comparison import KINDS, CompareRequest
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.ready_models import find_named_model

DEFAULTS = CompareRequest("")


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.evaluation.compare import run_comparison
    from nnunet_seqtransfer.evaluation.trials import survey_comparison
    from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text, written_text
    from nnunet_seqtransfer.training.executors import LocalExecutor

    context = Context(common.notify, options.np)
    request = _request(options)
    executor = LocalExecutor(wait=options.wait, prefetch=options.np_ahead)
    if not options.dry_run:
        executor.check(request.devices)
    survey = survey_comparison(request, context, write=not options.dry_run)
    budget = budget_text(survey.arms, survey.budget, request.seeds)
    if options.dry_run:
        print(json_text([survey.arms, survey.budget]) if options.json else f"{budget}\nnothing was done (--dry_run)")
        return
    print(budget, file=sys.stderr if options.json else sys.stdout, flush=True)
    comparison = run_comparison(survey, context, executor)

    from nnunet_seqtransfer.report.result_figures import draw_comparison

    pictures = draw_comparison(comparison, survey.path.parent)
    if options.json:
        print(json_text(comparison))
        return
    print(f"\n{comparison_text(comparison)}\n\n{written_text(survey.path, pictures)}")


def _request(options: argparse.Namespace) -> CompareRequest:
    return CompareRequest(
        target=options.d,
        configuration=options.c,
        folds=tuple(options.f or DEFAULTS.folds),
        seeds=tuple(options.seeds),
        plans=options.p,
        affinity=options.a,
        kinds=tuple(options.arms),
        nearest=options.nearest,
        paths=tuple(path for text in options.paths for path in _read_paths(text)),
        recipe=recipe_options.target_recipe(options),
        source_epochs=options.source_epochs,
        warmup_epochs=options.warmup_epochs,
        keep_heads=not options.new_heads,
        replay=options.replay,
        exclude_overlap=options.exclude_overlap,
        test=options.test,
        mirroring=not options.disable_tta,
        tag=options.tag,
        devices=DeviceOptions(options.device, options.gpus, False, options.checkpoint_minutes),
        model=None if options.init is None else find_named_model(options.init, options.c),
        min_coverage=options.min_coverage,
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
    parser = common.SeqArgumentParser(
        "Trains several paths to one target for equally many iterations, evaluates them on cases that no stage was "
        "trained on, and compares them. Run it again after any interruption: it does what is left.",
        "nnUNetv2_seq_compare 4 3d_fullres 0 -seeds 0 1 2 -epochs 250",
        "TARGET [CONFIGURATION [FOLD ...]] ",
    )
    what = common.add_target(parser, folds=True)
    common.add(what, "-seeds N ...", "Seeds of the trainings. Default: 0", common.seed, [0])
    text = "Affinity file to choose the paths by. Default: the one of nnUNetv2_seq_affinity, made if there is none"
    common.add(parser.expert, "-a FILE", text, Path)
    _add_arms(what)
    recipe_options.add_coverage(parser.expert)
    recipe_options.add_recipe(parser, set(recipe_options.FIELDS) - {"seed", "patience"}, ("epochs",))
    _add_evaluation(parser)
    execution = parser.add_argument_group("execution")
    common.add_device(execution)
    common.add(execution, "--dry_run", "Print the paths and their cost; do nothing")
    common.add_json(parser.expert)
    common.add_processes(execution)
    common.add_execution(parser.expert)
    common.add_checkpoint_minutes(parser.expert)
    options = parser.parse(arguments)
    common.target_of(parser, options)
    recipe_options.settle_coverage(parser, options)
    return options


def _add_arms(parser: common.Options) -> None:
    text = f"Kinds of paths: {', '.join(KINDS)}; long is scratch for all iterations of the longest path. Default: all"
    common.add(parser, "-arms KIND ...", text, KINDS, list(KINDS))
    common.add(parser, "-nearest N", "Number of nearest sources for direct transfer", common.natural, DEFAULTS.nearest)
    text = "Your own paths, sources in order, such as 21,24 21+22; or files with one path per line"
    common.add(parser, "-paths PATH ...", text, default=[])
    text = "A model to compare too: the target is trained from its weights, as in nnUNetv2_seq_train"
    common.add(parser, "-init MODEL", text, Path)


def _add_evaluation(parser: common.SeqArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    text = "Evaluate on this dataset, with the target's channels and labels; the target itself means its imagesTs "
    text += "and labelsTs. Default: the validation cases of each fold"
    common.add(group, "-test DATASET", text)
    common.add(parser.expert, "--disable_tta", "Predict the cases of -test without mirroring")
    text = "Exclude the fold's validation cases from the sources. Default: an error if there are any"
    common.add(group, "--exclude_overlap", text)


main = common.command(_parse, _run)

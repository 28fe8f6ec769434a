"""nnUNetv2_seq_plan: choose the path to a target, and say what it is worth."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.entry_points.recipe_options import MAIN, add_recipe
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.planning.decide import strategies
from nnunet_seqtransfer.planning.options import MOST_SOURCES, PlanOptions, Training
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file
from nnunet_seqtransfer.report.plan_text import plan_text
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.training.plan import PlanRequest, plan_path

NO_MODELS = "none"


def _run(options: argparse.Namespace) -> None:
    request = PlanRequest(
        dataset_name(options.d),
        options.p,
        options.c,
        options.m or DEFAULT_METRIC,
        options.a,
        options.calibration,
        None if options.models == [NO_MODELS] else tuple(Path(file) for file in options.models),
        options.device,
    )
    must, avoid = (tuple(dict.fromkeys(map(dataset_name, names))) for names in (options.must, options.avoid))
    asked = replace(options.asked, must=must, avoid=avoid)
    plan = plan_path(request, asked, Context(common.notify, options.np))
    if options.json:
        print(json_text(plan))
        return
    print(plan_text(plan))
    print(f"\nwritten: {plan_file(*request.key)}\npage:    {_page(plan, request)}")


def _page(plan: SequencePlan, request: PlanRequest) -> Path:
    """Write the page with the plan and its distances."""
    from nnunet_seqtransfer.report.pages import write_choice

    file = request.affinity_file or affinity_path(*request.key, plan.metric)
    return write_choice(read_affinity(file), file)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Plans which sources to train on before the target. Scratch, every single source and pairs of near sources "
        "compete by their expected gain in Dice.",
        "nnUNetv2_seq_plan 4 -scratch_dice 0.62",
        "TARGET [CONFIGURATION] ",
    )
    what = common.add_target(parser)
    common.add_metric(what, default=None)  # -a names another file, with a metric of its own
    common.add(parser.expert, "-a FILE", "Affinity file. Default: the one nnUNetv2_seq_affinity wrote for it", Path)
    add_strategy(parser, what)
    add_constraints(parser)
    add_training(parser)
    common.add_json(parser.expert)
    common.add_processes(parser.expert)
    options = parser.parse(arguments)
    common.target_of(parser, options)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    options.asked = plan_options(options, parser)
    return options


DEFAULTS = PlanOptions()


def add_strategy(parser: common.SeqArgumentParser, what: common.Options) -> None:
    """Add the options that say what is chosen, from what, and by which measurements."""
    text = "gain: the path of the highest expected gain; published: communities, landmark, one intermediate"
    common.add(parser.expert, "-strategy", text, tuple(strategies()), DEFAULTS.strategy)
    text = "Communities of the published strategy. Default: half as many as sources, at most 9"
    common.add(parser.expert, "-communities N", text, common.positive_int)
    text = f"Most sources before the target, 0 to {MOST_SOURCES}"
    common.add(what, "-max_sources N", text, range(MOST_SOURCES + 1), DEFAULTS.max_sources)
    common.add(
        parser.expert, "-list N", "Number of paths in the plan, best first", common.positive_int, DEFAULTS.listed
    )
    text = "Dice of the target trained from scratch, 0 to 1. Default: that of a finished model in "
    text += "nnUNet_results, else unknown"
    common.add(what, "-scratch_dice X", text, common.share)
    text = "Your measured transfers by nnUNetv2_seq_calibrate. Default: the file that it wrote, if any"
    common.add(parser.expert, "-calibration FILE", text, Path)
    text = "Models to start from at no cost, besides those in nnUNet_results: checkpoints, exported ZIP files, "
    text += f"results folders, or folders of such; {NO_MODELS}: train every source"
    common.add(what, "-models MODEL ...", text, default=[])
    common.add(parser.expert, "--allow_overlap", "Plan with sources that hold cases of the target as well")


def add_constraints(parser: common.SeqArgumentParser) -> None:
    """Add the options that the path must obey."""
    group = parser.add_argument_group("constraints")
    for name, what in (("-must", "that the path goes through"), ("-avoid", "that it does not go through")):
        common.add(group, f"{name} SOURCE ...", f"Sources {what}", default=[])
    text = "Labelled cases that the first source needs"
    common.add(parser.expert, "-min_landmark_cases N", text, common.natural, DEFAULTS.landmark_cases)
    budget = group.add_mutually_exclusive_group()
    for name, what in (("-budget_epochs", "epochs"), ("-budget_gpu_hours", "GPU hours")):
        common.add(budget, f"{name} X", f"Most {what} to train; finished stages cost none", common.positive_float)


def add_training(parser: common.SeqArgumentParser) -> None:
    """Add the options that say how the stages will be trained, which decides what they cost."""
    add_recipe(parser, MAIN, MAIN)
    text = "Number of folds of the target that will be trained"
    common.add(parser.expert, "-n_folds N", text, common.positive_int, DEFAULTS.training.folds)
    text = "Time of one epoch. Default: that of the newest training of this network, or a guess from the plans"
    common.add(parser.expert, "-epoch_time SECONDS", text, common.positive_float)
    common.add(parser.expert, "-device", "Where to train, for the hours", common.DEVICES, "cuda")


def plan_options(options: argparse.Namespace, parser: common.SeqArgumentParser) -> PlanOptions:
    """Return the options as a record, with datasets as given. Exit with one line if two contradict each other."""
    if options.communities is not None and options.strategy != "published":
        parser.error("-communities is for -strategy published")
    if options.models not in ([], [NO_MODELS]) and options.strategy != DEFAULTS.strategy:
        parser.error(f"-models is for -strategy {DEFAULTS.strategy}")
    in_epochs = options.budget_epochs is not None
    return PlanOptions(
        strategy=options.strategy,
        max_sources=options.max_sources,
        listed=options.list,
        communities=options.communities,
        must=tuple(options.must),
        avoid=tuple(options.avoid),
        landmark_cases=options.min_landmark_cases,
        budget=options.budget_epochs if in_epochs else options.budget_gpu_hours,
        budget_unit="epochs" if in_epochs else "GPU hours",
        training=Training(
            epochs=options.epochs,
            source_epochs=options.source_epochs,
            iterations=options.iterations,
            folds=options.n_folds,
            tag=options.tag,
            epoch_time=options.epoch_time,
            source_iterations=options.source_iterations,
        ),
        scratch_dice=options.scratch_dice,
        allow_overlap=options.allow_overlap,
    )


main = common.command(_parse, _run)

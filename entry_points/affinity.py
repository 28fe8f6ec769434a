"""nnUNetv2_seq_affinity: measure how far each source lies from a target."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_seqtransfer import Context
from nnunet_seqtransfer.affinity import measure
from nnunet_seqtransfer.affinity.measure import MeasuredAffinity
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.affinity.sources import ALL_SOURCES, AUTO_CASES, FIRST_CASES, AffinityRequest, left_out_text
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.overlap.matching import sharing_sources
from nnunet_seqtransfer.report.plan_text import affinity_table
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.transfer.probe import DEFAULT_CASES, Model, find_models, models_in, probe_models, read_probes


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.pages import write_choice

    request = AffinityRequest(
        target=options.d,
        sources=tuple(options.s),
        plans=options.p,
        configuration=options.c,
        metric=options.m,
        cases=options.n_cases,
        seed=options.seed,
        exclude=tuple(options.exclude),
        same_modality=options.same_modality,
        allow_overlap=options.allow_overlap,
    )
    context = Context(common.notify, options.np)
    given = models_in(options.models, options.c)  # a wrong path is an error before anything is measured
    measured = measure.measure_affinity(request, context)
    here = [task.dataset for task in measured.affinity.tasks[:-1] if task.registered]
    shared = sharing_sources(measured.affinity.target, here) if options.allow_overlap else ()
    unwanted = (measured.affinity.target, *measured.left_out)
    given = {name: model for name, model in given.items() if name not in unwanted}
    probed = _probe(measured.affinity, here, given, options, context)
    page = write_choice(measured.affinity, measured.path)
    if options.json:
        print(json_text(measured.affinity))
    else:
        print(affinity_table(measured.affinity, probed, shared))
        if not measured.stable:
            print(f"\n{_unstable(measured)}")
        print(f"\nwritten: {measured.path}\npage:    {page}")
    # Sources that "all" stands for may be left out. Sources named by the user must not.
    named = {name: reason for name, reason in measured.left_out.items() if request.names(name)}
    if named:
        raise SequenceError(f"{len(named)} of the sources named had to be left out: {left_out_text(named)}")


def _probe(
    affinity: Affinity, sources: list[str], given: dict[str, Model], options: argparse.Namespace, context: Context
) -> dict[str, float]:
    """Return the zero-shot Dice of all sources with a finished model or a given one; without --probe, earlier ones."""
    known = read_probes(affinity.target)
    if options.probe:
        found = {**find_models(affinity.configuration, sources), **given}
        sources = [*sources, *given]
        if not found:
            context.notify("none of the sources has a finished model in nnUNet_results to probe; -models gives others")
        known, left_out = probe_models(
            affinity.target, found, context, cases=options.probe_cases, device=options.device
        )
        for reason in left_out.values():
            context.notify(f"not probed: {reason}")
        for name in sorted(given.keys() & known.keys() - {*affinity.names}):  # the table has sources alone
            context.notify(f"zero-shot Dice of {known[name].model}: {known[name].dice:.3f}")
    return {source: probe.dice for source, probe in known.items() if source in sources}


def _unstable(measured: MeasuredAffinity) -> str:
    places = min(measure.NEAREST, len(measured.affinity.sources))
    looked = max(len(task.sampled_cases) for task in measured.affinity.tasks)
    more = "there are no more cases" if measured.affinity.cases == AUTO_CASES else "try -n_cases auto"
    return f"The order of the nearest {places} is not certain with up to {looked} cases a task; {more}."


def _case_count(text: str) -> int:
    return AUTO_CASES if text == "auto" else common.positive_int(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Measures how far each source dataset lies from a target dataset, from their data alone. The target must be "
        "preprocessed. Sources need only be in nnUNet_raw.",
        "nnUNetv2_seq_affinity 4 3d_fullres -s 21 22 23",
        "TARGET [CONFIGURATION] ",
    )
    tasks = common.add_target(parser)
    text = "Names or numbers of the sources, or signature files (.npz) of datasets elsewhere, or "
    text += f"{ALL_SOURCES}: every registered dataset that fits the target. Default: {ALL_SOURCES}"
    common.add(tasks, "-s SOURCE ...", text, default=[ALL_SOURCES])
    common.add(tasks, "-exclude DATASET ...", "Names or numbers of datasets that are no sources", default=[])
    text = "Leave out sources of another modality (MR, CT, PET, RGB, ultrasound), told from the names of channels"
    common.add(tasks, "--same_modality", text)
    common.add_json(tasks)
    comparison = parser.add_argument_group("comparison")
    common.add_metric(comparison)
    text = (
        f"Cases to sample per task, or auto: sample more until the order of the nearest {measure.NEAREST} sources is "
    )
    common.add(comparison, "-n_cases N", text + "certain", _case_count, FIRST_CASES)
    common.add_seed(comparison)
    text = "Compare sources that share cases with the target too. Default: leave them out"
    common.add(comparison, "--allow_overlap", text)
    models = parser.add_argument_group("models of the sources")
    text = "Predict labelled cases of the target with each source's finished model in nnUNet_results; "
    common.add(models, "--probe", text + "nnUNetv2_seq_plan uses the Dice as evidence")
    text = "Models to probe besides: results folders of nnU-Net, or folders of such. Needs --probe"
    common.add(models, "-models FOLDER ...", text, Path, [])
    text = "Labelled cases of the target to predict"
    common.add(models, "-probe_cases N", text, common.positive_int, DEFAULT_CASES)
    common.add(models, "-device", "Where to predict with --probe", common.DEVICES, "cuda")
    common.add_processes(parser.add_argument_group("execution"))
    options = parser.parse(arguments)
    common.target_of(parser, options)
    if options.models and not options.probe:
        parser.error("-models names models to probe; add --probe, or give them to nnUNetv2_seq_plan")
    return options


main = common.command(_parse, _run)

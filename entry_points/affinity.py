"""nnUNetv2_seq_affinity: measure how far each source lies from a target."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer import Context
from nnunet_seqtransfer.affinity.measure import (
    ALL_SOURCES,
    AUTO_CASES,
    FIRST_CASES,
    NEAREST,
    AffinityRequest,
    MeasuredAffinity,
    measure_affinity,
)
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_json,
    add_metric,
    add_processes,
    add_seed,
    add_target,
    case_count,
    notify,
    positive_int,
    run_command,
    target_of,
)
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.overlap.shared_cases import sharing_sources
from nnunet_seqtransfer.report.plan_text import affinity_table
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.transfer.probe import DEFAULT_CASES, find_models, models_in, probe_models, read_probes


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Measure, write and print an affinity."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.choice_page import write_choice

    request = AffinityRequest(
        target=options.d,
        sources=tuple(options.s),
        plans=options.p,
        configuration=options.c,
        metric=options.m,
        cases=options.n_cases,
        seed=options.seed,
        allow_overlap=options.allow_overlap,
    )
    context = Context(notify, options.np)
    measured = measure_affinity(request, context)
    here = [task.dataset for task in measured.affinity.tasks[:-1] if task.registered]
    shared = sharing_sources(measured.affinity.target, here) if options.allow_overlap else ()
    probed = _probe(measured.affinity, here, options, context)
    page = write_choice(measured.affinity, measured.path)
    if options.json:
        print(json_text(measured.affinity))
    else:
        print(affinity_table(measured.affinity, probed, shared))
        if not measured.stable:
            print(f"\n{_unstable(measured)}")
        print(f"\nwritten: {measured.path}\npage:    {page}")
    # Sources that "all" stands for may be left out. Sources named by the user must not.
    named = [name for name in measured.left_out if ALL_SOURCES not in options.s or name in options.s]
    if named:
        raise SequenceError(
            f"{len(named)} of the sources named had to be left out, the others are above; leaving out {named[0]}: "
            f"{measured.left_out[named[0]]}"
        )


def _probe(affinity: Affinity, sources: list[str], options: argparse.Namespace, context: Context) -> dict[str, float]:
    """Return the zero-shot Dice of all sources that have a finished model, made now with --probe, else earlier."""
    known = read_probes(affinity.target)
    if options.probe:
        given = models_in(options.models, affinity.configuration)
        found = {**find_models(affinity.configuration, sources), **given}
        sources = [*sources, *given]
        if not found:
            notify("none of the sources has a finished model in nnUNet_results to probe; -models gives others")
        known, left_out = probe_models(
            affinity.target, found, context, cases=options.probe_cases, device=options.device
        )
        for reason in left_out.values():
            notify(f"not probed: {reason}")
    return {source: probe.dice for source, probe in known.items() if source in sources}


def _unstable(measured: MeasuredAffinity) -> str:
    places = min(NEAREST, len(measured.affinity.sources))
    looked = max(len(task.sampled_cases) for task in measured.affinity.tasks)
    more = "there are no more cases" if measured.affinity.cases == AUTO_CASES else "try -n_cases auto"
    return f"The order of the nearest {places} is not certain with up to {looked} cases a task; {more}."


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Measures how far each source dataset lies from a target dataset, from their data alone. The target must be "
        "preprocessed. Sources need only be in nnUNet_raw.",
        "nnUNetv2_seq_affinity 4 3d_fullres -s 21 22 23",
        "TARGET [CONFIGURATION] ",
    )
    tasks = add_target(parser)
    tasks.add_argument(
        "-s",
        nargs="+",
        default=[ALL_SOURCES],
        metavar="SOURCE",
        help="Names or numbers of the sources, or signature files (.npz) of datasets elsewhere, or "
        f"{ALL_SOURCES}: every registered dataset that fits the target. Default: {ALL_SOURCES}",
    )
    add_json(tasks)
    comparison = parser.add_argument_group("comparison")
    add_metric(comparison)
    comparison.add_argument(
        "-n_cases",
        type=case_count,
        default=FIRST_CASES,
        metavar="N",
        help=f"Cases to sample per task, or auto: sample more until the order of the nearest {NEAREST} "
        f"sources is certain. Default: {FIRST_CASES}",
    )
    add_seed(comparison)
    comparison.add_argument(
        "--allow_overlap",
        action="store_true",
        help="Compare sources that share cases with the target too. Default: leave them out",
    )
    models = parser.add_argument_group("models of the sources")
    models.add_argument(
        "--probe",
        action="store_true",
        help="Predict labelled cases of the target with each source's finished model in nnUNet_results; "
        "nnUNetv2_seq_plan uses the Dice as evidence",
    )
    models.add_argument(
        "-models",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="Models to probe besides: results folders of nnU-Net, or folders of such. Needs --probe",
    )
    models.add_argument(
        "-probe_cases",
        type=positive_int,
        default=DEFAULT_CASES,
        metavar="N",
        help=f"Labelled cases of the target to predict. Default: {DEFAULT_CASES}",
    )
    models.add_argument(
        "-device",
        choices=["cuda", "cpu", "mps"],
        default="cuda",
        help="Where to predict with --probe. Default: cuda",
    )
    add_processes(parser.add_argument_group("execution"))
    options = parser.parse(arguments)
    target_of(parser, options)
    if options.models and not options.probe:
        parser.error("-models names models to probe; add --probe, or give them to nnUNetv2_seq_plan")
    return options

"""nnUNetv2_seq_derive: registers a dataset with fewer channels, labels or cases of another one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_processes,
    natural,
    notify,
    positive_int,
    run_command,
    seed,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.tasks.derive import Derivation, DeriveRequest, derive_task, is_finished, plan_derivation

MOST_LISTED = 5


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Derives a dataset and prints what it consists of."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def describe(derivation: Derivation) -> str:
    """What a derived dataset consists of, for people: a few lines."""
    cases, choice = list(derivation.cases), derivation.labels
    more = f" and {len(cases) - MOST_LISTED} more" if len(cases) > MOST_LISTED else ""
    lines = [
        f"{derivation.dataset} out of {derivation.origin}",
        f"  cases     {len(cases)} of {derivation.origin_cases}: {', '.join(cases[:MOST_LISTED])}{more}",
        f"  channels  {', '.join(f'{place} {name}' for place, name in enumerate(derivation.channels))}",
        f"  labels    {', '.join(f'{_values(value)} {name}' for name, value in choice.labels.items())}",
    ]
    if choice.regions_class_order is not None:
        lines.append(f"  order     regions_class_order {', '.join(map(str, choice.regions_class_order))}")
    changed = ", ".join(f"{old} -> {new}" for old, new in choice.values.items() if old != new)
    lines.append(f"  files     images referenced; labels {f'rewritten ({changed})' if changed else 'referenced'}")
    if choice.indistinct:
        lines.append(
            f"  note      {', '.join(choice.indistinct)}: exported predictions cannot show where this overlaps other "
            "regions; name the overlap as a label of its own to keep it"
        )
    return "\n".join(lines)


def _values(value: int | list[int]) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _run(options: argparse.Namespace) -> None:
    request = DeriveRequest(
        origin=dataset_name(options.d),
        number=options.o,
        name=options.name,
        channels=tuple(options.channels),
        labels=tuple(options.labels),
        conditions=tuple(options.cases_where),
        cases=tuple(options.cases),
        most=options.most,
        seed=options.seed,
        table=options.table,
        table_key=options.table_key,
        processes=options.np,
    )
    if options.dry_run:
        derivation = plan_derivation(request, notify)
        state = "it is there already" if is_finished(derivation) else f"would write: {derivation.folder}"
        print(f"{describe(derivation)}\n\n{state}")
        return
    derivation = derive_task(request, notify)
    print(f"{describe(derivation)}\n\nregistered: {derivation.folder}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Registers a dataset that has some of the channels, labels or cases of another one. Images are referenced, "
        "not copied; label files are rewritten only where their values change. What is not asked for stays as it is.",
        "nnUNetv2_seq_derive -d 51 -channels FLAIR -labels edema -cases-where site=01 -o 501 -name EdemaSite01",
    )
    parser.add_argument(
        "-d", required=True, metavar="DATASET", help="[REQUIRED] Name or number of the original dataset"
    )
    parser.add_argument(
        "-o", required=True, type=natural, metavar="NUMBER", help="[REQUIRED] Number of the new dataset, 1 to 999"
    )
    parser.add_argument(
        "-name", required=True, metavar="NAME", help="[REQUIRED] Name of the new dataset: letters, digits, - and _"
    )
    parser.add_argument(
        "-channels",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="[OPTIONAL] Names of the channels to keep, in their new order. Default: all",
    )
    parser.add_argument(
        "-labels",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="[OPTIONAL] Labels or regions to keep, in their new order, and merges: whole=necrosis+edema or, by label "
        "value, whole=1+2. Default: all",
    )
    _add_selection(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="[OPTIONAL] Print what the dataset would consist of; write nothing"
    )
    add_processes(parser)
    return parser.parse(arguments)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that choose cases."""
    parser.add_argument(
        "-cases-where",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help="[OPTIONAL] Cases that fulfil all of these, by the table: site=01, or site=01,02 for either. Default: all",
    )
    parser.add_argument(
        "-cases", nargs="+", default=[], metavar="CASE", help="[OPTIONAL] Identifiers of the cases. Default: all"
    )
    parser.add_argument(
        "-most", type=positive_int, metavar="N", help="[OPTIONAL] At most so many of these cases, drawn. Default: all"
    )
    parser.add_argument("-seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the draw. Default: 0")
    parser.add_argument(
        "-table",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] Table of cases, a CSV. Default: cases.csv beside the dataset.json of the original",
    )
    parser.add_argument(
        "-table_key",
        metavar="COLUMN",
        help="[OPTIONAL] Its column of identifiers. Default: the one named case, else the first",
    )

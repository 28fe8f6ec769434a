"""The tasks of the published study (arXiv 2410.06892) out of FeTS 2022: 7 sites x 4 modalities x 3 labels = 84."""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, add_processes, natural, notify, run_command
from nnunet_seqtransfer.nnunet.datasets import channel_names, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.tasks.case_table import read_case_table
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_dataset, is_finished, plan_derivation

SITE, KEY = "Partition_ID", "Subject_ID"
"""Columns of the partitioning table that comes with FeTS 2022."""
SITES = 7
LABELS = ("WT=necrosis+edema+enhancing", "TC=necrosis+enhancing", "ET=enhancing")
"""Whole tumour, tumour core, enhancing tumour."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Register the tasks, each a dataset with one channel and one label; skip those that exist."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def largest_sites(table: Path, count: int) -> list[str]:
    """Return the sites with the most cases, largest first."""
    sites = Counter(row[SITE] for row in read_case_table(table, KEY).rows.values())
    return sorted(sites, key=lambda site: (-sites[site], site))[:count]


def requests(options: argparse.Namespace) -> list[DeriveRequest]:
    """Return one request per task, numbered by site, then modality, then label."""
    origin = dataset_name(options.d)
    channels = channel_names(read_dataset_json(origin))
    tasks = itertools.product(options.sites or largest_sites(options.table, SITES), channels, options.labels)
    return [
        DeriveRequest(
            origin=origin,
            number=number,
            name=re.sub(r"[^A-Za-z0-9]+", "-", f"Site{site}-{channel}-{label.partition('=')[0]}"),
            channels=(channel,),
            labels=(label,),
            conditions=(f"{SITE}={site}",),
            table=options.table,
            table_key=KEY,
        )
        for number, (site, channel, label) in enumerate(tasks, start=options.number)
    ]


def _run(options: argparse.Namespace) -> None:
    wanted = requests(options)
    notes: set[str] = set()  # all tasks read one table and repeat its notes
    planned = [plan_derivation(request, notes.add) for request in wanted]
    states = ["there already" if is_finished(derivation) else "to be made" for derivation in planned]
    for note in sorted(notes):
        notify(note)
    for derivation, state in zip(planned, states, strict=True):
        print(f"{derivation.dataset}: {len(derivation.cases)} cases, {state}")
    for request, state in zip(wanted, states, strict=True):
        if state == "to be made" and not options.dry_run:
            derive_dataset(request, Context(notes.add, options.np))
    print(f"{len(wanted)} tasks{', nothing written' if options.dry_run else ' registered'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Registers the tasks of the published study out of FeTS 2022: one site, one modality, one label each.",
        "python published_tasks.py -d 200 -table partitioning_1.csv -o 501",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="[REQUIRED] Name or number of FeTS 2022")
    parser.add_argument(
        "-table", required=True, type=Path, metavar="FILE", help=f"[REQUIRED] CSV with the columns {SITE} and {KEY}"
    )
    parser.add_argument("-number", required=True, type=natural, metavar="N", help="[REQUIRED] Number of the first task")
    parser.add_argument(
        "-sites", nargs="+", default=[], metavar="SITE", help=f"[OPTIONAL] Default: the {SITES} with the most cases"
    )
    parser.add_argument(
        "-labels", nargs="+", default=LABELS, metavar="LABEL", help=f"[OPTIONAL] Default: {' '.join(LABELS)}"
    )
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] Print the tasks; write nothing")
    add_processes(parser)
    return parser.parse(arguments)


if __name__ == "__main__":
    main()

"""nnUNetv2_seq_overlap: list the cases that a target shares with other datasets."""

import argparse
from collections.abc import Sequence

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.overlap.matching import SharedCase, SourceOverlap, find_overlap
from nnunet_seqtransfer.report.words import text_table
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.tasks.path_syntax import named_path

ALL = "all"


def _run(options: argparse.Namespace) -> None:
    target = dataset_name(options.d)
    sources = None if options.s == [ALL] else named_path(target, options.s, joined=False)
    overlaps = find_overlap(target, sources, Context(common.notify, options.np))
    print(json_text(overlaps) if options.json else overlap_text(target, overlaps, every_pair=options.all))


def overlap_text(target: str, overlaps: Sequence[SourceOverlap], *, every_pair: bool) -> str:
    """Return a table with one row per source; ``every_pair`` adds a line for each case pair."""
    rows = []
    for overlap in overlaps:
        cases, target_cases = {one.source_case for one in overlap.shared}, {one.target_case for one in overlap.shared}
        # images weigh more than labels
        strongest = max(overlap.shared, key=lambda one: (one.share, len(one.labels)), default=None)
        example = "" if strongest is None else _pair_text(strongest)
        rows.append([overlap.source, str(len(cases)), str(len(target_cases)), example])
    lines = [f"Cases that share image or labels with {target}", ""]
    lines.append(text_table(["source", "source cases", "target cases", "strongest example"], rows))
    for overlap in overlaps if every_pair else ():
        lines += ["", f"{overlap.source}:"] if overlap.shared else []
        lines += [f"  {_pair_text(one)}" for one in overlap.shared]
    return "\n".join(lines)


def _pair_text(shared: SharedCase) -> str:
    return f"{shared.source_case} and {shared.target_case}: {shared.evidence}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "List the cases that occur in a target dataset and in others: the same image or labels, also under another "
        "name, as a crop, rescaled or with inverted contrast. Each dataset is read once; preprocessing is not needed.",
        "nnUNetv2_seq_overlap 4 -s 21 22",
        "TARGET ",
    )
    text = f"Names or numbers of the other datasets, or {ALL}. Default: {ALL}"
    common.add(common.add_target(parser, configuration=False), "-s SOURCE ...", text, default=[ALL])
    common.add(parser, "--all", "List every pair of cases, not only the counts")
    common.add_json(parser)
    common.add_processes(parser)
    options = parser.parse(arguments)
    common.target_of(parser, options)
    return options


main = common.command(_parse, _run)

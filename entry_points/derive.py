"""nnUNetv2_seq_derive: register a dataset with fewer channels, labels or cases than another one."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.nnunet.folders import dataset_name, shortened
from nnunet_seqtransfer.tasks.derive import Derivation, DeriveRequest, derive_dataset, is_finished, plan_derivation


def _run(options: argparse.Namespace) -> None:
    request = DeriveRequest(
        origin=dataset_name(options.d),
        number=options.number,
        name=options.name,
        channels=tuple(options.channels),
        labels=tuple(options.labels),
        conditions=tuple(options.where),
        cases=tuple(options.case_ids),
        most=options.most,
        seed=options.seed,
        table=options.table,
        table_key=options.table_key,
    )
    if options.dry_run:
        derivation = plan_derivation(request, common.notify)
        state = "it exists already" if is_finished(derivation) else f"would write: {derivation.folder}"
    else:
        derivation = derive_dataset(request, Context(common.notify, options.np))
        state = f"registered: {derivation.folder}"
    print(f"{derivation_text(derivation)}\n\n{state}")


def derivation_text(derivation: Derivation) -> str:
    """Return a few lines that say what a derived dataset contains."""
    cases, choice = list(derivation.cases), derivation.labels
    lines = [
        f"{derivation.dataset} out of {derivation.origin}",
        f"  cases     {len(cases)} of {derivation.origin_cases}: {shortened(cases, 5)}",
        f"  channels  {', '.join(f'{index} {name}' for index, name in enumerate(derivation.channels))}",
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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Register a dataset with some of the channels, labels or cases of another one. Images are referenced, not "
        "copied; label files are rewritten only if label values change. By default everything is kept.",
        "nnUNetv2_seq_derive -d 51 -channels FLAIR -labels edema -where site=01 -number 501 -name EdemaSite01",
    )
    common.add(parser, "-d DATASET", "Name or number of the original dataset", required=True)
    common.add(parser, "-number N", "Number of the new dataset, 1 to 999", common.natural, required=True)
    common.add(parser, "-name NAME", "Name of the new dataset: letters, digits, - and _", required=True)
    common.add(parser, "-channels CHANNEL ...", "Channels to keep, in their new order. Default: all", default=[])
    text = "Labels or regions to keep, in their new order, and merges by name (whole=necrosis+edema) or "
    text += "by label value (whole=1+2). Default: all"
    common.add(parser, "-labels LABEL ...", text, default=[])
    _add_selection(parser)
    common.add(parser, "--dry_run", "Print what the dataset would contain; write nothing")
    common.add_processes(parser)
    return parser.parse(arguments)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose cases."""
    text = "Keep cases that meet all conditions on the table: site=01, or site=01,02 for either. Default: all"
    common.add(parser, "-where CONDITION ...", text, default=[])
    common.add(parser, "-case_ids CASE ...", "Identifiers of the cases. Default: all", default=[])
    common.add(parser, "-most N", "Draw at most this many of these cases. Default: all", common.positive_int)
    common.add_seed(parser, "draw")
    common.add(
        parser, "-table FILE", "Table of cases, a CSV. Default: cases.csv next to dataset.json of the original", Path
    )
    text = "Column of identifiers in the table. Default: the column named case, else the first"
    common.add(parser, "-table_key COLUMN", text)


main = common.command(_parse, _run)

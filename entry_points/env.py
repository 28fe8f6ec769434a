"""nnUNetv2_seq_env: print the line that lets a user's own shell find our trainers."""

import argparse
import shlex
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.nnunet.folders import external_trainers


def _run(_: argparse.Namespace) -> None:
    print(f"export nnUNet_extTrainer={shlex.quote(external_trainers())}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    return common.SeqArgumentParser(
        "Print the line that lets nnUNetv2_train find nnUNetTrainerSeqTransfer. The commands of this project set it "
        "themselves; a shell needs it only to call nnUNetv2_train with that trainer by hand.",
        'eval "$(nnUNetv2_seq_env)"',
    ).parse(arguments)


main = common.command(_parse, _run)

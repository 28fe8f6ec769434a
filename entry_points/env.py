"""nnUNetv2_seq_env: print the line that lets a user's own shell find our trainers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, run_command
from nnunet_seqtransfer.nnunet.folders import external_trainers


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Print ``export nnUNet_extTrainer=...``."""
    parser = SeqArgumentParser(
        "Print the line that lets nnUNetv2_train find nnUNetTrainerSeqTransfer. The commands of this project set it "
        "themselves; a shell needs it only to call nnUNetv2_train with that trainer by hand.",
        'eval "$(nnUNetv2_seq_env)"',
    )
    parser.parse(arguments)
    run_command(lambda: print(f"export nnUNet_extTrainer={shlex.quote(external_trainers())}"))

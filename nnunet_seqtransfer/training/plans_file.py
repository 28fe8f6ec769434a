"""The plans file of a stage, read back whatever happened to it."""

from __future__ import annotations

from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import found_json, read_json
from nnunet_seqtransfer.training.stages import Stage


def read_stage_plans(stage: Stage) -> dict[str, Any] | None:
    """The plans file of a stage, with its block; None where there is none.

    Where it is broken, the copy is read that nnU-Net puts beside its results at the start of every training.

    Raises RecordError where both are broken.
    """
    path = plans_path(stage.dataset, stage.plans_name)
    if not path.is_file():
        return None
    try:
        return read_json(path, f"the plans file {stage.plans_name}", "delete it and run nnUNetv2_seq_train again")
    except RecordError:
        copy = found_json(stage.base / "plans.json")
        if not isinstance(copy, dict) or copy.pop("plans_name", None) != stage.plans_name:
            raise
        copy.pop("continue_training", None)
        return {**copy, "plans_name": stage.plans_name}

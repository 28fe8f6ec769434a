"""Source stages that were planned for several targets together: trained for one of them, used by all."""

from __future__ import annotations

from typing import Any

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.tasks.alignment import differences
from nnunet_seqtransfer.tasks.task import Task, load_target
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions


def load_shared(
    request: ChainRequest, target_plans: dict[str, Any], exclusions: Exclusions
) -> tuple[dict[str, Any], Task]:
    """Plans and task of the other target whose source stages this chain uses.

    Raises StageError where its plans do not train sources alike any more, or where cases have to be left out of the
    sources for this target, so that the other's stages do not fit.
    """
    owner = str(request.sources_for)
    remedy = f"run nnUNetv2_seq_plan for {request.target} alone"
    task, plans = load_target(owner, request.plans, request.configuration)
    differing = differences(plans, target_plans, request.configuration)
    if differing:
        raise StageError(
            f"{request.target} was planned to share stages with {owner}, but their plans now differ in "
            f"{', '.join(differing)}; {remedy}"
        )
    if exclusions:
        raise StageError(
            f"{request.target} was planned to share stages with {owner}, but cases have to be left out of its sources "
            f"(--exclude_overlap); {remedy}"
        )
    return plans, task

"""Sources of the target's plan; a missing plan is made first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_seqtransfer.affinity.measure import find_affinity
from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import Affinity, read_affinity, require_fitting
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.datasets import require_folds
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.planning.prices import Training
from nnunet_seqtransfer.planning.record import SequencePlan, changed_affinity, read_plan
from nnunet_seqtransfer.planning.record import plan_path as plan_file
from nnunet_seqtransfer.tasks.task import load_target
from nnunet_seqtransfer.transfer.correspondence import Pairs


def planned_path(
    target: str,
    plans: str,
    configuration: str,
    folds: Sequence[str],
    training: Training,
    context: Context,
    make: Callable[[Affinity, Path, PlanOptions], SequencePlan],
    *,
    write: bool = True,
) -> tuple[tuple[str, ...], dict[str, Pairs]]:
    """Return the planned sources in order, and the channels of each that the plan's affinity compared.

    Args:
        target, plans, configuration: what the plan is for.
        folds: folds of the target to train; checked before a missing plan is made.
        training: recipe that a missing plan is priced with.
        context: progress and worker processes.
        make: plans on an affinity, and writes the plan.
        write: whether a missing plan is made; otherwise it is an error.

    Raises RecordError if the plan is missing, damaged or made for something else.
    """
    path, changed = plan_file(target, plans, configuration), None
    if path.is_file():
        plan = read_plan(path)
        require_fitting(plan, path, (target, plans, configuration), "nnUNetv2_seq_plan")
        changed = changed_affinity(plan)
        if changed:
            context.notify(changed)
    elif not write:
        raise RecordError(f"there is no plan yet: {path}; run nnUNetv2_seq_plan first, --dry_run writes nothing")
    else:
        require_folds(target, folds, load_target(target, plans, configuration)[0].cases)
        context.notify(f"no plan for {target} yet; making one")
        affinity, file = find_affinity(target, plans, configuration, DEFAULT_METRIC, context)
        plan = make(affinity, file, PlanOptions(training=training))
    context.notify(plan.explanation[0])
    affinity_file = path.with_name(plan.affinity_file)
    if changed or not affinity_file.is_file():
        return plan.sources, {}
    affinity = read_affinity(affinity_file)
    return plan.sources, {name: affinity.compared_channels(name) for name in plan.sources}

"""The request of a comparison, and a pure function that chooses the paths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.evaluation.comparison import Arm, arm_name
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.tasks.path_syntax import whole_path
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import WARMUP_EPOCHS, Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

KINDS = ("scratch", "long", "direct", "planned", "runner-up")
"""Kinds of arms: the target alone; the target for as many iterations as the longest path; the nearest sources alone;
the plan's path; the plan's next sequences. Own paths come on top with the role "own"."""
RUNNERS_UP = 2
"""Number of sequences after the planned path."""
Sources = tuple[str, ...]
"""Elements of a path before the target, see `path_syntax`."""
Start = tuple[Sources, PretrainedModel | None]
"""Sources to train, and the model that the first stage starts from."""


@dataclass(frozen=True)
class CompareRequest:
    """Paths to compare, and how to train and evaluate them."""

    target: str
    "Name or number of the target."
    configuration: str = DEFAULT_CONFIGURATION
    "nnU-Net configuration."
    folds: tuple[str, ...] = ("0",)
    "Folds of the target."
    seeds: tuple[int, ...] = (0,)
    "Training seeds; every path is trained with each."
    plans: str = DEFAULT_PLANS
    "Name of the target's plans."
    affinity: Path | None = None
    "Affinity file to choose the paths by; None for the target's own, which is measured if it is missing."
    kinds: tuple[str, ...] = KINDS
    "Kinds to include, see `KINDS`."
    nearest: int = 2
    "Number of nearest sources to transfer from directly."
    paths: tuple[tuple[str, ...], ...] = ()
    "Additional paths: source names or numbers in order."
    recipe: Recipe = field(default_factory=Recipe)
    "Recipe for every stage; `seeds` replaces the seed."
    source_epochs: int = 250
    "Epochs per source stage."
    warmup_epochs: int = WARMUP_EPOCHS
    "Warm-up epochs for stages that start from another stage's weights."
    keep_heads: bool = True
    "True to keep segmentation heads if labels have equal names."
    replay: float = 0.0
    "Share of the batches of later stages from the datasets before, 0 to below 1."
    exclude_overlap: bool = False
    "True to train sources without cases that a fold validates on; if False, such cases are an error."
    test: str | None = None
    "Name or number of a test dataset; the target means imagesTs, None the folds' validation cases."
    mirroring: bool = True
    "True to predict the test set with nnU-Net's test time augmentation."
    tag: str | None = None
    "Name that keeps comparisons with different recipes apart."
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    "Device and checkpoints."
    model: PretrainedModel | None = None
    "A model whose weights one more arm starts from, without sources."
    min_coverage: float = DEFAULT_COVERAGE
    "Least share of the network's parameters that the model must provide, 0 to 1."


def choose_arms(
    affinity: Affinity,
    plan: SequencePlan | None,
    request: CompareRequest,
    own: Sequence[Sources] = (),
    without: str | None = None,
) -> tuple[Arm, ...]:
    """Return the arms, each path once with all roles: scratch first, then the planned path, then the others.

    Args:
        affinity: distances to the target; sources without local data (known by signature only) are left out.
        plan: the plan; None if neither the planned path nor runners-up are wanted.
        request: gives kinds, number of nearest sources, and source epochs.
        own: further paths by full names; the empty path is scratch.
        without: dataset that must not be a source, the test set.

    Raises SequenceError for an unknown kind, or if fewer than two paths are left.
    """
    unknown = [kind for kind in request.kinds if kind not in KINDS]
    if unknown:
        raise SequenceError(f"unknown kind of path {unknown[0]!r}; choose from {', '.join(KINDS)}")
    roles: dict[tuple[Start, int], list[str]] = {}
    for role, start in _wanted(affinity, plan, request, own, without):
        roles.setdefault((start, 0), []).append(role)
    # after all other paths: "long" depends on the longest of them
    longest = max((len(whole_path(path, affinity.target)) - 1 for (path, _), _ in roles), default=0)
    if "long" in request.kinds and longest:
        roles[((), None), longest * request.source_epochs] = ["long"]
    # scratch is what gains are measured against
    listed = [one for one in plan.candidates if len(one.path) > 1] if plan is not None else []
    gains = {plan.as_trained(one.path[:-1]): one.gain for one in listed} if plan is not None else {}
    arms = [
        Arm(
            name=arm_name(start[0], affinity.target, extra, start[1]),
            sources=start[0],
            roles=tuple(dict.fromkeys(names)),
            extra_epochs=extra,
            predicted=gains.get(start),
            model=start[1],
        )
        for (start, extra), names in roles.items()
    ]
    if len(arms) < 2:
        raise SequenceError(f"only {len(arms)} path to compare, at least two are needed; add more with -arms or -paths")
    # scratch and the plan first, so that an interrupted comparison has the pair that matters most
    return tuple(
        sorted(arms, key=lambda arm: ("scratch" not in arm.roles, "planned" not in arm.roles, len(arm.sources)))
    )


def _wanted(
    affinity: Affinity,
    plan: SequencePlan | None,
    request: CompareRequest,
    own: Sequence[Sources],
    without: str | None,
) -> Iterator[tuple[str, Start]]:
    tasks = [affinity.tasks[index] for index in affinity.ranking()]
    nearest = [task.dataset for task in tasks if task.registered and task.dataset != without]
    if "scratch" in request.kinds:
        yield "scratch", ((), None)
    if request.model is not None:
        yield "own", ((), request.model)
    if plan is not None and "planned" in request.kinds:
        yield "planned", plan.as_trained(plan.sources)
    if plan is not None and "runner-up" in request.kinds:
        yield from (("runner-up", plan.as_trained(path)) for path in _runners_up(plan, nearest))
    if "direct" in request.kinds:
        yield from (("direct", ((name,), None)) for name in nearest[: request.nearest])
    yield from (("own" if path else "scratch", (path, None)) for path in own)


def _runners_up(plan: SequencePlan, available: Sequence[str]) -> list[Sources]:
    """Return the plan's best allowed sequences (two sources or more), without the planned path."""
    # without the target, which is last
    paths = [candidate.path[:-1] for candidate in plan.candidates if not candidate.ruled_out]
    usable = {*available, *plan.models}
    found = [path for path in paths if len(path) > 1 and path != plan.sources and set(path) <= usable]
    return found[:RUNNERS_UP]

"""Choose the paths to compare: a pure function with distances, plan and request as input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.evaluation.comparison import Arm, arm_name
from nnunet_seqtransfer.planning.record import SequencePlan

KINDS = ("scratch", "long", "direct", "planned", "runner-up")
"""Kinds of arms: the target alone; the target for as many iterations as the longest path; the nearest sources alone;
the plan's path; the plan's next sequences. Own paths come on top with the role "own"."""
RUNNERS_UP = 2
"""Number of sequences after the planned path."""
Path = tuple[str, ...]
"""Full names of the sources in training order."""


@dataclass(frozen=True)
class ArmChoice:
    """Which paths to compare."""

    kinds: tuple[str, ...] = KINDS
    "Kinds to include, a subset of `KINDS`."
    nearest: int = 2
    "Number of nearest sources to transfer from directly."
    own: tuple[Path, ...] = ()
    "Additional paths; the empty path is scratch."
    source_epochs: int = 250
    "Epochs per source stage; scratch gets them on top if it is trained as long as a path."
    without: Path = ()
    "Datasets that must not be sources: the test set."


def choose_arms(affinity: Affinity, plan: SequencePlan | None, choice: ArmChoice) -> tuple[Arm, ...]:
    """Return the arms, each path once with all roles: scratch first, then the planned path, then the others.

    Args:
        affinity: distances to the target; sources without local data (known by signature only) are left out.
        plan: the plan; None if neither the planned path nor runners-up are wanted.
        choice: the request.

    Raises SequenceError for an unknown kind, or if fewer than two paths are left.
    """
    unknown = [kind for kind in choice.kinds if kind not in KINDS]
    if unknown:
        raise SequenceError(f"unknown kind of path {unknown[0]!r}; choose from {', '.join(KINDS)}")
    roles: dict[tuple[Path, int], list[str]] = {}
    for role, path in _wanted(affinity, plan, choice):
        roles.setdefault((path, 0), []).append(role)
    # after all other paths: "long" depends on the longest of them
    longest = max((len(path) for path, _ in roles), default=0)
    if "long" in choice.kinds and longest:
        roles[(), longest * choice.source_epochs] = ["long"]
    # scratch is what gains are measured against
    gains = {one.path[:-1]: one.gain for one in plan.candidates if len(one.path) > 1} if plan is not None else {}
    arms = [
        Arm(arm_name(path, affinity.target, extra), path, tuple(dict.fromkeys(names)), extra, gains.get(path))
        for (path, extra), names in roles.items()
    ]
    if len(arms) < 2:
        raise SequenceError(f"only {len(arms)} path to compare, at least two are needed; add more with -arms or -paths")
    # scratch and the plan first, so that an interrupted comparison has the pair that matters most
    return tuple(
        sorted(arms, key=lambda arm: ("scratch" not in arm.roles, "planned" not in arm.roles, len(arm.sources)))
    )


def _wanted(affinity: Affinity, plan: SequencePlan | None, choice: ArmChoice) -> Iterator[tuple[str, Path]]:
    tasks = [affinity.tasks[index] for index in affinity.ranking()]
    nearest = [task.dataset for task in tasks if task.registered and task.dataset not in choice.without]
    if "scratch" in choice.kinds:
        yield "scratch", ()
    if plan is not None and "planned" in choice.kinds:
        yield "planned", plan.sources
    if plan is not None and "runner-up" in choice.kinds:
        yield from (("runner-up", path) for path in _runners_up(plan, nearest))
    if "direct" in choice.kinds:
        yield from (("direct", (name,)) for name in nearest[: choice.nearest])
    yield from (("own" if path else "scratch", path) for path in choice.own)


def _runners_up(plan: SequencePlan, available: Sequence[str]) -> list[Path]:
    """Return the plan's best allowed sequences (two sources or more), without the planned path."""
    # without the target, which is last
    paths = [candidate.path[:-1] for candidate in plan.candidates if not candidate.ruled_out]
    found = [path for path in paths if len(path) > 1 and path != plan.sources and set(path) <= set(available)]
    return found[:RUNNERS_UP]

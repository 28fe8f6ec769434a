"""Which paths are compared, and why: a pure function of the distances, the plan, and what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.evaluation.comparison import Arm, Role, arm_name
from nnunet_seqtransfer.planning.record import SequencePlan

KINDS: tuple[Role, ...] = (
    "scratch", "long", "direct", "planned", "runner-up", "largest", "modality", "random",
)  # fmt: skip
"""The kinds of arms that can be asked for by name; paths of one's own and all pairs come on top."""
DEFAULT_KINDS: tuple[Role, ...] = ("scratch", "direct", "planned", "runner-up", "largest", "modality", "random")
Path = tuple[str, ...]


@dataclass(frozen=True)
class ArmChoice:
    """What is to be compared."""

    kinds: tuple[Role, ...] = DEFAULT_KINDS
    "Of `KINDS`."
    direct: int = 2
    "How many of the nearest sources."
    runners_up: int = 2
    "How many of the plan's candidates after the planned path; scratch and direct transfer are not counted."
    own: tuple[Path, ...] = ()
    "Paths of one's own: full names of the sources."
    all_direct: bool = False
    "Every source directly."
    all_pairs: bool = False
    "Every ordered pair of sources."
    source_epochs: int = 250
    "Epochs of each source's stage, for scratch that is trained as long as a path."
    without: Path = ()
    "Full names of datasets that are no sources: the test set."


def choose_arms(affinity: Affinity, plan: SequencePlan | None, choice: ArmChoice) -> tuple[Arm, ...]:
    """The arms, each path once with all the reasons for it: scratch, then the planned path, then the others.

    Args:
        affinity: of the target; what "nearest", "largest" and "same modality" are said of. Sources known by their
            signature alone are left out.
        plan: the planned sequence; None where there is none, and neither it nor its runners-up are wanted.
        choice: what was asked for.

    Raises SequenceError where nothing that was asked for is there.
    """
    reasons: dict[tuple[Path, int], list[Role]] = {}
    for role, path in _wanted(affinity, plan, choice):
        reasons.setdefault((path, 0), []).append(role)
    longest = max((len(path) for path, _ in reasons), default=0)
    if "long" in choice.kinds and longest:
        reasons[(), longest * choice.source_epochs] = ["long"]
    arms = [
        Arm(arm_name(path, affinity.target, extra), path, tuple(dict.fromkeys(roles)), extra)
        for (path, extra), roles in reasons.items()
    ]
    if len(arms) < 2:
        raise SequenceError(
            f"{len(arms)} path is left to compare, two are needed; ask for more with -arms, -path or --all_direct"
        )
    return tuple(sorted(arms, key=_order))


def _order(arm: Arm) -> tuple[bool, bool, int]:
    """Scratch first and the plan second, so that an interrupted comparison has the pair that matters most."""
    return "scratch" not in arm.roles, "planned" not in arm.roles, len(arm.sources)


def _wanted(affinity: Affinity, plan: SequencePlan | None, choice: ArmChoice) -> Iterator[tuple[Role, Path]]:
    nearest = [affinity.tasks[place] for place in affinity.ranking()]
    here = [task.dataset for task in nearest if task.registered and task.dataset not in choice.without]
    kinds = set(choice.kinds)
    if "scratch" in kinds:
        yield "scratch", ()
    if plan is not None:
        if "planned" in kinds:
            yield "planned", plan.sources
        if "runner-up" in kinds:
            yield from (("runner-up", path) for path in _runners_up(plan, here)[: choice.runners_up])
    if "direct" in kinds or choice.all_direct:
        yield from (("direct", (name,)) for name in (here if choice.all_direct else here[: choice.direct]))
    if here:
        yield from _baselines(affinity, here, kinds)
    if choice.all_pairs:
        yield from (("pair", pair) for pair in permutations(here, 2))
    yield from (("own" if path else "scratch", path) for path in choice.own)


def _baselines(affinity: Affinity, here: Sequence[str], kinds: Iterable[Role]) -> Iterator[tuple[Role, Path]]:
    """What people choose without a metric; the random one is drawn by the seed of the affinity."""
    if "largest" in kinds:
        yield "largest", (min(here, key=lambda name: (-_cases(affinity, name), name)),)
    if "modality" in kinds:
        shared = shared_channels(affinity)
        yield "modality", (min(here, key=lambda name: (-shared[name], -_cases(affinity, name), name)),)
    if "random" in kinds:
        yield "random", (str(np.random.default_rng(affinity.seed).choice(sorted(here))),)


def _runners_up(plan: SequencePlan, here: Sequence[str]) -> list[Path]:
    """The plan's candidates with an intermediate that could have been chosen, cheapest first, without the plan."""
    paths = [candidate.path[:-1] for candidate in plan.candidates if not candidate.ruled_out]
    return [path for path in paths if len(path) > 1 and path != plan.sources and set(path) <= set(here)]


def shared_channels(affinity: Affinity) -> dict[str, float]:
    """Source -> channels that it shares with the target by name, over all that either has; case is ignored."""
    target = {name.lower() for name in affinity.tasks[-1].channels}
    names = {task.dataset: {name.lower() for name in task.channels} for task in affinity.tasks[:-1]}
    return {name: len(own & target) / len(own | target) for name, own in names.items()}


def _cases(affinity: Affinity, name: str) -> int:
    return affinity.tasks[affinity.names.index(name)].labelled_cases

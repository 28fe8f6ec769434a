"""Affinities, plans and scores made up for the tests of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry
from nnunet_seqtransfer.evaluation.comparison import Arm, ModelScores, arm_name
from nnunet_seqtransfer.nnunet.validation import CaseDice
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan

T = "Dataset004_Target"
A, B, C, D = "Dataset021_A", "Dataset022_B", "Dataset023_C", "Dataset024_D"


def affinity(
    distances: Sequence[float] = (0.4, 0.2, 0.3, 0.9), channels: Sequence[str] = ("T1", "T2", "T1", "MRI"),
    cases: Sequence[int] = (10, 20, 80, 40), metric: str = "descriptors", unregistered: Sequence[str] = (),
) -> Affinity:  # fmt: skip
    """Sources A, B, C, D and a target with channel MRI; distances to the target as given, 0.5 between sources."""
    names = (A, B, C, D)
    tasks = [
        TaskEntry(name, (channel,), ("organ",), count, ("case",), "0", name not in unregistered)
        for name, channel, count in zip(names, channels, cases, strict=True)
    ]
    table = np.full((5, 5), 0.5)
    table[:4, 4] = distances
    rows = tuple(tuple(float(value) for value in row) for row in table)
    return Affinity(
        target=T,
        plans="nnUNetPlans",
        configuration="3d_fullres",
        metric=metric,
        combination=Combination({"image": 1.0}, 2.0),
        seed=0,
        cases=10,
        tasks=(*tasks, TaskEntry(T, ("MRI",), ("organ",), 6, ("case",), "0")),
        distances=rows,
        components={"image": rows},
        counterparts=(Counterparts(),) * 4,
        low=(0.0,) * 4,
        high=(1.0,) * 4,
        indistinct=(False,) * 3,
    )


def plan(sources: Sequence[str] = (A, B)) -> SequencePlan:
    """A plan whose candidates are B alone, A then B, C then B, D then B (ruled out), A then C, and scratch."""
    paths = [(B,), (A, B), (C, B), (D, B), (A, C), ()]
    candidates = tuple(
        CandidatePath((*path, T), 0.1 - 0.02 * k, -0.1, 0.2, 0.3, 500, 6.2, "budget" if path == (D, B) else "")
        for k, path in enumerate(paths)
    )
    return SequencePlan(T, "nnUNetPlans", "3d_fullres", tuple(sources), "gain", "descriptors", "x.json", candidates)


def arm(*sources: str, roles: Sequence[str] = ("direct",), extra: int = 0) -> Arm:
    """Return an arm along a path."""
    return Arm(arm_name(sources, T, extra), tuple(sources), tuple(roles), extra)


def scores(
    name: str, dice: Mapping[str, float | None], seed: int = 0, fold: str = "0", label: str = "organ"
) -> ModelScores:
    """Return one model with one label per case."""
    return ModelScores(name, fold, seed, tuple(CaseDice(case, label, value) for case, value in dice.items()))

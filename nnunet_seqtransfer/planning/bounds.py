"""Lower bounds for the exact search: the least that any walk from a task to the target costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]

MOST_LEVELS = 32
"""Steps that a budget is cut into."""

ROUNDING = 1e-9
"""Part of a step by which prices are rounded in favour of a path, so that a bound stays a bound."""


@dataclass(frozen=True)
class PriceLevels:
    """Prices as whole steps of the budget, rounded down, so that no path is ruled out that the budget allows."""

    prices: NDArray[np.intp]
    """(n,) steps that each source's stage takes."""

    budget: float
    """What is left for the sources when the target is paid; inf without a budget."""

    step: float
    """Size of a step, > 0."""

    count: int
    """Steps in the budget; 0 without one."""

    def left(self, spent: Costs) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """(n,) steps left once so much is spent, and (n,) whether that is too much."""
        if not self.count:
            return np.zeros(len(spent), dtype=np.intp), np.zeros(len(spent), dtype=np.bool_)
        steps = (self.budget - spent) / self.step + ROUNDING
        return np.clip(np.floor(steps), 0, self.count).astype(np.intp), steps < 0


def price_levels(prices: Costs, target: int, budget: float, must: int) -> PriceLevels:
    """The steps for (n,) ``prices``; fewer where ``must`` sources already multiply the bounds."""
    # Added so that a price equal to the budget up to rounding stays within it.
    left = budget * (1 + 1e-11) - float(prices[target])
    if not np.isfinite(left):
        return PriceLevels(np.zeros(len(prices), dtype=np.intp), np.inf, 1.0, 0)
    count = max(2, MOST_LEVELS >> must)
    step = left / count if left > 0 else 1.0
    steps = np.floor(np.maximum(prices / step - ROUNDING, 0.0))
    return PriceLevels(np.minimum(steps, count + 1).astype(np.intp), left, step, count)


class Bounds:
    """Least costs of walks to the target that visit given sources within a number of hops and a budget.

    A walk may repeat a task, a path may not; a walk's price is rounded down. So no path costs less than its bound.

    For every set S of sources that still have to come, every number k of sources to spare, every task i and every rest
    r of the budget, by Bellman's equation over the next source j:

        w[S][k][r, i] = min over j of hop[i, j] + (w[S - {j}][k] if j in S else w[S][k - 1])[r - price_j, j]

    and, where nothing has to come, the hop from i to the target. Sets are numbers with a bit for each of ``must``.
    There are 2 ** len(must) * max_sources * levels tables of n entries, n ** 2 operations each.
    """

    def __init__(self, hop: Costs, target: int, max_sources: int, must: Sequence[int], levels: PriceLevels) -> None:
        self._hop, self._target, self._levels = hop, target, levels
        self._bits = {task: 1 << k for k, task in enumerate(sorted(set(must)))}
        self._spare = max_sources - len(self._bits)
        self.everything = (1 << len(self._bits)) - 1
        """The set of all sources that have to come."""
        self._steps = np.ones(len(hop), dtype=np.intp)
        self._walks: dict[int, list[Costs]] = {}
        # Smaller sets first: a larger one is built on them.
        for size in range(len(self._bits) + 1):
            for bits in combinations(self._bits.values(), size):
                self._walks[sum(bits)] = self._least(sum(bits))

    def without(self, missing: int, source: int) -> int:
        """The set ``missing`` once ``source`` has come."""
        return missing & ~self._bits.get(source, 0)

    def after(self, missing: int, left: int, spent: Costs) -> Costs:
        """(n,) least cost of a walk from each task, once it was added to a beginning, to the target.

        Args:
            missing: the set of sources still to come, before that task.
            left: sources that may follow it.
            spent: (n,) price of the sources including that task.
        """
        rest, beyond = self._levels.left(spent)
        tasks = np.arange(len(self._hop))
        least = self._table(missing, left - missing.bit_count())[rest, tasks]
        for task, bit in self._bits.items():
            if missing & bit:
                table = self._table(missing ^ bit, left - missing.bit_count() + 1)
                least[task] = table[rest[task], task]
        least[beyond] = np.inf
        return np.asarray(least, dtype=np.float64)

    def stages(self, missing: int) -> NDArray[np.intp]:
        """(n,) fewest hops from each task, once it was added to a beginning, to the target."""
        hops = np.maximum(self._steps, missing.bit_count() + 1)
        for task, bit in self._bits.items():
            if missing & bit:
                hops[task] = max(self._steps[task], missing.bit_count())
        return hops

    def _table(self, missing: int, spare: int) -> Costs:
        """(levels + 1, n) least costs, with at most ``spare`` sources beside those that have to come."""
        walks = self._walks[missing]
        return walks[min(spare, len(walks) - 1)] if spare >= 0 else np.full_like(walks[0], np.inf)

    def _least(self, missing: int) -> list[Costs]:
        """The tables of one set by number of sources to spare; the list ends early once nothing improves."""
        shape = (self._levels.count + 1, len(self._hop))
        end = np.broadcast_to(np.inf if missing else self._hop[:, self._target], shape)
        walks: list[Costs] = []
        smaller = [self._walks[missing ^ bit] for bit in self._bits.values() if missing & bit]
        # Only where some of ``must`` have come already can all the spare sources still be to come.
        for spare in range(max(self._spare + (missing != self.everything), 1)):
            then = np.full(shape, np.inf) if not spare else walks[-1].copy()
            for task, bit in self._bits.items():
                if missing & bit:
                    then[:, task] = self._table(missing ^ bit, spare)[:, task]
            walk = np.minimum(end, self._before(then)) if spare or missing else end
            if not missing and spare:
                # The first time that a finite walk exists tells the fewest hops.
                self._steps[np.isinf(walks[-1][-1]) & np.isfinite(walk[-1])] = spare + 1
            if walks and all(len(other) <= spare for other in smaller) and np.array_equal(walk, walks[-1]):
                break
            walks.append(walk)
        return walks

    def _before(self, then: Costs) -> Costs:
        """(levels + 1, n) least cost of a hop and what ``then`` follows, for each rest of the budget."""
        tasks = np.arange(len(self._hop))
        rows: list[Costs] = []
        last = np.empty(0)
        for rest in range(len(then)):
            index = rest - self._levels.prices
            going = np.where(index >= 0, then[np.maximum(index, 0), tasks], np.inf)
            # Often a little more budget changes nothing.
            rows.append(rows[-1] if np.array_equal(going, last) else (self._hop + going).min(axis=1))
            last = going
        return np.array(rows)

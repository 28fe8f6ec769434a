"""How the exact choice changes with two numbers that are hard to know: what a large hop and a small start cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.exact import ExactPlanner
from nnunet_seqtransfer.planning.problem import UNCONSTRAINED, Constraints, SequenceProblem

Path = tuple[int, ...]
Parameter = Literal["hop_exponent", "start_scale"]

EXPONENTS = tuple(float(value) for value in np.linspace(1.0, 3.0, 21).round(2))
"""Exponents looked at by default."""

FACTORS = tuple(float(value) for value in 2.0 ** np.linspace(-2.0, 2.0, 17))
"""By default the price of starting is multiplied by these."""

PRECISION = 1e-6
"""A flip is located to this share of its value."""


@dataclass(frozen=True)
class Flip:
    """A value at which the choice changes, the other number being the cost model's."""

    parameter: Parameter
    """What is varied."""

    value: float
    """Where the choice changes, up to `PRECISION`."""

    below: Path
    """The path chosen just below, as task indices with the target last."""

    above: Path
    """The path chosen just above."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The chosen path on a grid of exponents and prices of starting, and the flips along the two lines through it."""

    exponents: tuple[float, ...]
    """Values of `CostModel.hop_exponent`, the rows of ``grid``, rising."""

    start_scales: tuple[float, ...]
    """Values of `CostModel.start_scale`, the columns of ``grid``, rising."""

    paths: tuple[Path, ...]
    """Every path chosen somewhere on the grid, as task indices with the target last; first the one now chosen."""

    grid: NDArray[np.intp]
    """(exponents, start scales): the chosen path, as an index into ``paths``."""

    breakpoints: tuple[Flip, ...]
    """Flips along the exponent at the model's own price of starting, then along the price at its own exponent."""

    flips: tuple[str, ...]
    """The same in words, or for a line without flips that there are none."""


def sensitivity(
    problem: SequenceProblem,
    model: CostModel,
    max_sources: int,
    constraints: Constraints = UNCONSTRAINED,
    exponents: Sequence[float] | None = None,
    start_scales: Sequence[float] | None = None,
) -> Sensitivity:
    """How the choice of the exact strategy changes with the exponent of a hop and the price of starting small.

    Both grids are sorted; by default they are `EXPONENTS`, and ``model.start_scale`` times `FACTORS`. Along the price
    of starting nothing is missed: a path's cost is linear in it, so a path that is cheapest at two prices is cheapest
    between them. Along the exponent it is not linear: a path that is chosen only between two neighbouring exponents at
    which another one is chosen stays unseen.

    Raises SequenceError as the planner does.
    """
    scale = model.start_scale or CostModel.start_scale
    rows = tuple(sorted(set(EXPONENTS if exponents is None else exponents)))
    columns = tuple(sorted({scale * factor for factor in FACTORS} if start_scales is None else set(start_scales)))

    @cache
    def choose(exponent: float, price: float) -> Path:
        planner = ExactPlanner(replace(model, hop_exponent=exponent, start_scale=price))
        return planner.cheapest(problem, max_sources, 1, constraints)[0].path

    now = choose(model.hop_exponent, model.start_scale)
    chosen = [_row(partial(choose, exponent), columns) for exponent in rows]
    paths = tuple(dict.fromkeys((now, *(path for row in chosen for path in row))))
    grid = np.array([[paths.index(path) for path in row] for row in chosen], dtype=np.intp)
    exponent_flips = _flips("hop_exponent", lambda exponent: choose(exponent, model.start_scale), rows)
    price_flips = _flips("start_scale", partial(choose, model.hop_exponent), columns)
    words = (
        *_words(exponent_flips, "hop exponent", rows, model.hop_exponent, problem),
        *_words(price_flips, "start scale", columns, model.start_scale, problem),
    )
    return Sensitivity(rows, columns, paths, grid, (*exponent_flips, *price_flips), words)


def _row(choose: Callable[[float], Path], values: Sequence[float]) -> list[Path]:
    """The choice at each value, where whatever is chosen at two values is chosen between them."""
    first, last = choose(values[0]), choose(values[-1])
    if len(values) < 3 or first == last:
        return [first] * (len(values) - 1) + [last]
    middle = len(values) // 2
    return [*_row(choose, values[:middle]), *_row(choose, values[middle:])]


def _flips(parameter: Parameter, choose: Callable[[float], Path], values: Sequence[float]) -> tuple[Flip, ...]:
    """Where the choice changes between neighbouring ``values``, by bisection."""
    found: list[Flip] = []
    for start, high in pairwise(values):
        low = start
        while choose(low) != choose(high):
            left, right = low, high
            while right - left > PRECISION * high:
                middle = (left + right) / 2
                left, right = (middle, right) if choose(middle) == choose(low) else (left, middle)
            found.append(Flip(parameter, right, choose(low), choose(right)))
            low = right
    return tuple(found)


def _words(
    flips: Sequence[Flip], what: str, values: Sequence[float], now: float, problem: SequenceProblem
) -> Iterator[str]:
    """A sentence for each flip, seen from the value ``now``; one that there is none."""
    for flip in flips:
        below, above = _name(flip.below, problem), _name(flip.above, problem)
        if flip.value > now:
            yield f"From a {what} of {flip.value:.3g} on, {above} replaces {below}."
        else:
            yield f"Below a {what} of {flip.value:.3g}, {below} replaces {above}."
    if not flips:
        yield f"For every {what} from {values[0]:g} to {values[-1]:g} the choice is the same."


def _name(path: Path, problem: SequenceProblem) -> str:
    """The sources of a path, or scratch."""
    return " -> ".join(problem.names[task] for task in path[:-1]) or "scratch"

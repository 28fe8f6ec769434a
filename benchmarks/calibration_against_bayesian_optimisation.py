"""The exact fit of a calibration beside 50 calls of Bayesian optimisation, the published way, on the same problems.

    python benchmarks/calibration_against_bayesian_optimisation.py -problems 20 -calls 50

Both look for the constants (start, a weight for each of four components, a cost for each stage, and the two exponents
from the same grid) whose cost correlates best with falling Dice within targets. The optimiser is a Gaussian process
with a Matern kernel and expected improvement, begun with random points; its box is scaled so that each constant
matters as much as the others at its upper end. Problems are drawn at random by their seed: one to six targets, half of
them with Dice that follows a cost, half with Dice that has nothing to do with one. Prints a line for each problem.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nnunet_seqtransfer.calibration.fit import GRID, Data, Exponents, TargetTransfers, centred, correlation, fit

NAMES = ("image", "contrast", "label", "geometry")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    correlation: float
    seconds: float


def random_problem(seed: int) -> list[TargetTransfers]:
    """Measured paths to one to six targets among 4 to 9 tasks."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=len(NAMES) + 2) * rng.integers(0, 2, len(NAMES) + 2)
    follows = seed % 2 == 0
    targets = []
    for _ in range(rng.integers(1, 7)):
        tasks = int(rng.integers(4, 10))
        components = {name: rng.gamma(2.0, 0.5, (tasks, tasks)) for name in NAMES}
        counts = rng.integers(4, 400, tasks)
        paths = tuple(random_path(rng, tasks) for _ in range(rng.integers(6, 20)))
        targets.append(TargetTransfers(components, counts, paths, np.zeros(len(paths))))
        cost = targets[-1].features(NAMES, Exponents(2.0, 0.5)) @ weights
        dice = rng.normal(0.6, 0.1) - 0.02 * follows * cost + rng.normal(0, 0.03, len(paths))
        targets[-1] = TargetTransfers(components, counts, paths, np.clip(dice, 0, 1))
    return targets


def random_path(rng: np.random.Generator, tasks: int) -> tuple[int, ...]:
    """Scratch, direct transfer or a sequence of two sources to the last task."""
    sources = rng.permutation(tasks - 1)[: rng.integers(0, 3)]
    return (*(int(source) for source in sources), tasks - 1)


def exact(targets: list[TargetTransfers]) -> Found:
    """The best of the exact fits under each choice of exponents."""
    start = time.perf_counter()
    tables = [Data.of(targets, NAMES, exponents) for exponents in GRID]
    best = max(correlation(data, fit(data, np.eye(len(NAMES) + 2))) for data in tables)
    return Found(best, time.perf_counter() - start)


def optimised(targets: list[TargetTransfers], calls: int, seed: int, random_calls: int = 10) -> Found:
    """The best of ``calls`` trials, the first of them random, each further one where improvement is expected most."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    tables = [Data.of(targets, NAMES, exponents) for exponents in GRID]
    lengths = [np.linalg.norm(centred(data.features, data.groups), axis=0) for data in tables]

    def objective(point: Floats) -> float:
        choice = min(int(point[0] * len(GRID)), len(GRID) - 1)
        scale = np.divide(1.0, lengths[choice], out=np.zeros_like(lengths[choice]), where=lengths[choice] > 0)
        return correlation(tables[choice], point[1:] * scale)

    kernel = ConstantKernel() * Matern(length_scale=0.5, nu=2.5) + WhiteKernel(1e-6, (1e-10, 1e-1))
    points = rng.random((random_calls, len(NAMES) + 3))
    values = [objective(point) for point in points]
    while len(values) < calls:
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(points, values)
        points = np.vstack([points, most_promising(process, max(values), points, rng)])
        values.append(objective(points[-1]))
    return Found(max(values), time.perf_counter() - start)


def most_promising(
    process: GaussianProcessRegressor, best: float, points: Floats, rng: np.random.Generator, candidates: int = 2000
) -> Floats:
    """Of random points, half of them near the tried ones, that of the largest expected improvement."""
    near = points[rng.integers(len(points), size=candidates // 2)]
    tries = np.vstack(
        [
            rng.random((candidates // 2, points.shape[1])),
            np.clip(near + rng.normal(0, 0.1, near.shape), 0, 1),
        ]
    )
    mean, deviation = process.predict(tries, return_std=True)
    z = (mean - best) / np.maximum(deviation, 1e-12)
    return tries[int(np.argmax((mean - best) * norm.cdf(z) + deviation * norm.pdf(z)))]


def main() -> None:
    """Prints both for every problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-problems", type=int, default=20)
    parser.add_argument("-calls", type=int, default=50)
    options = parser.parse_args()
    print("seed  targets  paths   exact    time   Bayesian    time   difference")
    differences, seconds = [], []
    for seed in range(options.problems):
        targets = random_problem(seed)
        ours, theirs = exact(targets), optimised(targets, options.calls, seed)
        differences.append(ours.correlation - theirs.correlation)
        seconds.append((ours.seconds, theirs.seconds))
        paths = sum(len(target.paths) for target in targets)
        print(
            f"{seed:4}  {len(targets):7}  {paths:5}  {ours.correlation:.4f}  {1000 * ours.seconds:4.0f} ms"
            f"     {theirs.correlation:.4f}  {theirs.seconds:4.1f} s   {differences[-1]:.1e}"
        )
    ratio = np.median([slow / fast for fast, slow in seconds])
    print(
        f"difference: smallest {min(differences):.1e}, median {np.median(differences):.1e}, "
        f"largest {max(differences):.1e}; the exact fit is {ratio:.0f} times faster (median)"
    )


if __name__ == "__main__":
    main()

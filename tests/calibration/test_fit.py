"""The exact fit: it is the optimum, beats Bayesian optimisation, and has the symmetries that it should have."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.calibration.fit import GRID, Data, Exponents, TargetTransfers, centred, correlation, fit
from nnunet_seqtransfer.calibration.model import Model, mean_hop
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import planner
from nnunet_seqtransfer.planning.problem import SequenceProblem
from support.calibration_cases import DEFAULT, NAMES, TRUE, random_targets
from support.world import load_script

FREE = np.eye(len(NAMES) + 2)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/calibration_against_bayesian_optimisation.py")


def noisy_data(seed: int, targets: int = 3, noise: float = 0.03) -> Data:
    return Data.of([target.transfers for target in random_targets(seed, targets, noise=noise)], NAMES, Exponents())


def small_data(seed: int, constants: int, rows: int = 12) -> Data:
    """Rows without any meaning: the worst case for a fit."""
    rng = np.random.default_rng(seed)
    return Data(rng.gamma(2.0, size=(rows, constants)), rng.random(rows), np.arange(rows) % 2)


def test_features_are_the_terms_of_the_cost() -> None:
    """A row holds n ** -e of the first task, the sums of c ** p over the hops, and the number of hops."""
    tables = {"a": np.array([[0.0, 2.0, 3.0], [2.0, 0.0, 5.0], [3.0, 5.0, 0.0]]), "b": np.full((3, 3), 7.0)}
    target = TargetTransfers(tables, np.array([4, 9, 16]), ((2,), (1, 2), (0, 1, 2)), np.zeros(3))
    expected = [[16**-0.5, 0, 0, 0], [9**-0.5, 5.0**2, 49, 1], [4**-0.5, 2.0**2 + 5.0**2, 98, 2]]
    assert target.features(("a", "b"), Exponents(2.0, 0.5)) == pytest.approx(np.array(expected))
    assert target.features(("b",), Exponents(1.0, 1.0))[2] == pytest.approx([1 / 4, 14, 2])


@pytest.mark.parametrize("exponents", GRID[:4])
def test_the_fitted_cost_is_what_the_planner_computes(exponents: Exponents) -> None:
    """Constants of a fit, given to combination and cost model, let the planner compute the costs of the fit."""
    (target,) = random_targets(0, 1)
    transfers = target.transfers
    start, *weights, stage = theta = np.array([1.7, 0.3, 0.0, 1.1, 0.2, 0.4])
    combination = Combination(dict(zip(NAMES, weights, strict=True)), exponents.hop)
    distances = combination.distances(transfers.components)
    problem = SequenceProblem.checked(target.names, distances, len(target.names) - 1, transfers.counts.tolist())
    model = CostModel(start, exponents.start, exponents.hop, 1.0, stage)
    candidates = planner("exact", model).plan(problem, 2, 10_000).candidates
    costs = {candidate.path: candidate.cost for candidate in candidates}
    assert len(costs) >= len(transfers.paths)
    expected = transfers.features(NAMES, exponents) @ theta
    assert [costs[path] for path in transfers.paths] == pytest.approx(expected.tolist(), rel=1e-12)


def test_true_constants_are_found() -> None:
    """Without noise the fit gives the constants that made the Dice, in Dice, at a correlation of 1."""
    data = noisy_data(1, noise=0.0)
    theta = fit(data, FREE)
    assert theta == pytest.approx(0.03 * TRUE, abs=1e-9)
    assert correlation(data, theta) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_optimality_conditions_hold(seed: int) -> None:
    """The residual is orthogonal to the prediction and to no column at an acute angle (Karush, Kuhn, Tucker)."""
    data = noisy_data(seed) if seed % 2 else small_data(seed, 5)
    theta = fit(data, np.eye(data.features.shape[1]))
    columns, dice = -centred(data.features, data.groups), centred(data.dice, data.groups)
    gradient = columns.T @ (dice - columns @ theta) / np.linalg.norm(columns, axis=0)
    assert (theta >= 0).all()
    assert (gradient <= 1e-10).all()
    assert np.abs(gradient[theta > 0]).max(initial=0.0) < 1e-10


@pytest.mark.parametrize("seed", range(6))
def test_no_point_of_a_fine_grid_correlates_better(seed: int) -> None:
    """For three constants, no direction of a grid of 51 x 51 x 51 is better, and the best is almost as good."""
    data = small_data(seed, 3)
    ours = correlation(data, fit(data, np.eye(3)))
    steps = np.linspace(0, 1, 51)
    theta = np.array([point for point in itertools.product(steps, repeat=3) if max(point) == 1]).T
    predicted = -centred(data.features, data.groups) @ theta
    dice = centred(data.dice, data.groups)
    cosines = (dice @ predicted) / np.linalg.norm(predicted, axis=0) / np.linalg.norm(dice)
    assert ours >= max(0.0, cosines.max()) - 1e-12
    assert ours == pytest.approx(max(0.0, cosines.max()), abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_no_random_constants_correlate_better(seed: int) -> None:
    """Neither 5,000 random directions nor as many small steps away from the fit are better."""
    data, rng = noisy_data(seed, noise=0.08), np.random.default_rng(seed)
    theta = fit(data, FREE)
    best = correlation(data, theta)
    scale = theta.max()
    tries = [*(rng.exponential(size=(5_000, 6)) * rng.integers(0, 2, (5_000, 6)))]
    tries += [np.maximum(theta + step, 0) for step in rng.normal(0, 0.01 * scale, (5_000, 6))]
    assert max(correlation(data, other) for other in tries) <= best + 1e-12


def test_where_nothing_correlates_the_fit_is_zero() -> None:
    """Dice that rises with every part of the cost has no fit: all constants are 0, and no random ones are better."""
    rng = np.random.default_rng(0)
    features = rng.random((20, 4))
    data = Data(features, features @ np.array([1.0, 2.0, 1.0, 0.5]), np.zeros(20, dtype=np.int64))
    centre = -centred(features, data.groups)
    assert (centre.T @ centred(data.dice, data.groups) < 0).all()
    assert fit(data, np.eye(4)).tolist() == [0.0] * 4
    assert all(correlation(data, other) < 0 for other in rng.random((1000, 4)))


@pytest.mark.parametrize("seed", range(20))
def test_never_worse_than_bayesian_optimisation(benchmark: ModuleType, seed: int) -> None:
    """On 20 random problems 50 calls of Bayesian optimisation never find a larger correlation."""
    problem = benchmark.random_problem(seed)
    theirs = benchmark.optimised(problem, 50, seed).correlation
    assert benchmark.exact(problem).correlation >= theirs - 1e-12
    assert theirs > -0.9, "the optimiser itself must work"


def test_bayesian_optimisation_of_the_benchmark_is_no_straw_man(benchmark: ModuleType) -> None:
    """On problems whose Dice follows a cost it comes close to the optimum, and beats as many random tries."""
    gaps, leads = [], []
    for seed in range(0, 6, 2):
        problem = benchmark.random_problem(seed)
        theirs = benchmark.optimised(problem, 50, seed).correlation
        gaps.append(benchmark.exact(problem).correlation - theirs)
        leads.append(theirs - benchmark.optimised(problem, 50, seed, random_calls=50).correlation)
    assert np.median(gaps) < 0.02 and np.mean(leads) > 0


def test_the_level_of_a_target_does_not_matter() -> None:
    """Adding a number to all Dice of one target changes nothing; multiplying all Dice multiplies the constants."""
    data = noisy_data(3)
    theta = fit(data, FREE)
    shifted = Data(data.features, data.dice + np.array([0.1, -0.2, 0.05])[data.groups], data.groups)
    assert fit(shifted, FREE) == pytest.approx(theta, abs=1e-12)
    assert fit(Data(data.features, 7 * data.dice, data.groups), FREE) == pytest.approx(7 * theta, abs=1e-12)


def test_order_of_rows_and_units_of_components_do_not_matter() -> None:
    """Rows in another order give the same constants; a component in other units a weight in other units."""
    data = noisy_data(4)
    theta = fit(data, FREE)
    order = np.random.default_rng(0).permutation(len(data.dice))
    assert fit(data.rows(order), FREE) == pytest.approx(theta, abs=1e-12)
    units = np.array([1, 1e6, 1e-6, 1, 1, 1])
    assert fit(Data(data.features * units, data.dice, data.groups), FREE) * units == pytest.approx(theta, rel=1e-6)


def test_a_column_that_does_not_vary_is_not_fitted() -> None:
    """A part of the cost that is equal for all paths of each target gets a constant of 0, whatever the rounding."""
    data = noisy_data(5)
    features = data.features.copy()
    features[:, 2] = np.array([0.1, 0.7, 1 / 3])[data.groups]
    assert fit(Data(features, data.dice, data.groups), FREE)[2] == 0


def test_tied_weights_keep_their_proportions() -> None:
    """Without free weights the components keep their shares of the default distance, under another exponent too."""
    default = Combination({"image": 2.0, "contrast": 1.0, "label": 0.0, "geometry": 0.5}, 1.0)
    data = noisy_data(6)
    model = Model(default, free_weights=False, stage=False)
    theta = fit(data, model.shape(Exponents(2.0, 0.5)))
    assert model.constants == 2
    assert theta[1:5] / theta[2] == pytest.approx([4, 1, 0, 0.25])
    assert theta[5] == 0
    assert Model(default, free_weights=True, stage=True).constants == 6


def test_the_start_keeps_its_default_where_nothing_is_known_of_it() -> None:
    """Sources of one size and no scratch: the start is not free, but as dear as the planner's default says."""
    (target,) = random_targets(7, 1, paths=30)
    transfers = target.transfers
    known = [row for row, path in enumerate(transfers.paths) if len(path) > 1]
    data = Data.of(
        [
            TargetTransfers(
                transfers.components,
                np.full(len(transfers.counts), 20),
                tuple(transfers.paths[row] for row in known),
                transfers.dice[known],
            )
        ],
        NAMES,
        Exponents(),
    )
    model = Model(DEFAULT, free_weights=True, stage=True)
    assert fit(data, model.shape(Exponents()))[0] == 0
    theta = model.solve(data, Exponents())
    assert theta[0] == pytest.approx(CostModel().start_scale * mean_hop(data, theta)) and theta[0] > 0

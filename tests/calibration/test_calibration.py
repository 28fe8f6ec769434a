"""Calibration as a whole: it finds what is there, does not believe noise, says what it rests on, and is kept safely."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import write_affinity
from nnunet_seqtransfer.calibration.calibrate import (
    _fitted_constants,
    bootstrap,
    calibrate,
    scatter_of_a_run,
)
from nnunet_seqtransfer.calibration.fit import GRID, Data, Exponents, correlation, fit
from nnunet_seqtransfer.calibration.held_out import (
    choose_exponents,
    default_costs,
    held_out_costs,
    largest_first,
    leads,
    quality,
    regret,
    tables,
)
from nnunet_seqtransfer.calibration.measurements import read_measurements, split_path
from nnunet_seqtransfer.calibration.model import Model, affordable_model
from nnunet_seqtransfer.calibration.record import (
    NO_MEASUREMENT,
    Calibration,
    read_calibration,
    require_metric,
    write_calibration,
)
from nnunet_seqtransfer.calibration.transfers import MeasuredTarget, join, run_noise
from nnunet_seqtransfer.errors import RecordError, SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.folders import output_base
from nnunet_seqtransfer.report.calibration_text import calibration_text, verdict
from nnunet_seqtransfer.report.cost_figures import draw_calibration
from nnunet_seqtransfer.storage import from_json, to_json
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.run_record import write_run
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages, is_target_of
from support.calibration_cases import (
    DEFAULT,
    METRIC,
    NAMES,
    TRUE,
    affinity_of,
    measured_world,
    random_targets,
    rows_of,
    write_table,
)
from support.world import World

FREE = Model(DEFAULT, free_weights=True, stage=True)


@pytest.fixture(scope="module")
def good() -> Calibration:
    """Fitted on four targets with little noise."""
    return calibrate(random_targets(1, 4, noise=0.005), METRIC, "good", 0)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, MeasuredTarget]:
    """A world with the affinity of one target, and a table of 30 measured paths."""
    return measured_world(tmp_path, monkeypatch)


def transfers(targets: tuple[MeasuredTarget, ...]) -> list:
    return [target.transfers for target in targets]


# Combination


def test_combination_is_the_weighted_norm() -> None:
    """Distances are (sum w c ** p) ** (1 / p), of any shape; a component of weight 0 is not even looked at."""
    combination = Combination({"a": 4.0, "b": 1.0, "c": 0.0}, 2.0)
    assert combination.distances({"a": 1.5, "b": 4.0}) == pytest.approx(5.0)
    parts = {"a": np.array([[1.5, np.inf]]), "b": np.array([[4.0, 1.0]]), "c": np.array([[np.inf, 1.0]])}
    assert combination.distances(parts).tolist() == [[pytest.approx(5.0), np.inf]]
    published = Combination({"wasserstein": 0.0044, "dissimilarity": 2.4756}, 1.0)
    assert published.distances({"wasserstein": 220.0, "dissimilarity": 0.5}) == pytest.approx(2.2058)
    assert from_json(to_json(combination), Combination) == combination


@pytest.mark.parametrize(
    ("weights", "exponent", "unit", "words"),
    [
        ({"a": -1.0}, 1.0, 1.0, "weight of component a is -1"),
        ({"a": math.nan}, 1.0, 1.0, "weight of component a is nan"),
        ({"a": 0.0}, 1.0, 1.0, "no component has a weight above 0"),
        ({}, 1.0, 1.0, "no component has a weight above 0"),
        ({"a": 1.0}, 0.0, 1.0, "exponent of the components is 0"),
        ({"a": 1.0}, 1.0, math.inf, "unit of the distance is inf"),
    ],
)
def test_senseless_combinations_are_refused(
    weights: dict[str, float], exponent: float, unit: float, words: str
) -> None:
    """Weights below 0, no weight at all, and exponents or units that are no positive number are refused."""
    with pytest.raises(SequenceError, match=words):
        Combination(weights, exponent, unit)
    with pytest.raises(SequenceError, match="no component b to weigh, there are: a"):
        Combination({"b": 1.0}, 1.0).distances({"a": 1.0})


# What is found


def test_the_true_weights_are_found() -> None:
    """Without noise the calibration has the true proportions, Dice per cost, exponents, and a perfect held-out rank."""
    found = calibrate(random_targets(0, 4), METRIC, "x", 0)
    weights = np.array([found.combination.weights[name] for name in NAMES])
    assert weights * found.dice_per_cost == pytest.approx(0.03 * TRUE[1:5], abs=1e-9)
    assert found.start_scale * found.dice_per_cost == pytest.approx(0.03 * TRUE[0])
    assert (found.combination.exponent, found.start_exponent) == (2.0, 0.5)
    assert found.stage_cost == pytest.approx(0, abs=1e-9)
    assert found.residual < 1e-6
    own, default, largest = found.measurements.held_out
    assert (own.spearman, own.weighted_tau, own.regret) == (pytest.approx(1), pytest.approx(1), 0)
    assert own.weighted_tau > default.weighted_tau > largest.weighted_tau


def test_a_measured_hop_costs_one_on_average(good: Calibration) -> None:
    """The scale of the cost is such that the hops which were measured cost 1 on average."""
    hops = []
    for target in random_targets(1, 4, noise=0.005):
        distances = good.combination.distances(target.transfers.components)
        for path in target.transfers.paths:
            hops += [distances[i, j] ** good.combination.exponent for i, j in pairwise(path)]
    assert np.mean(hops) == pytest.approx(1)


def test_exponents_are_chosen_from_three_targets_on() -> None:
    """Dice made with p = 1 and e = 1 is recognised with four targets; with two the defaults stay, and are named so."""
    targets = [
        dataclasses.replace(
            target.transfers,
            dice=-0.03 * target.transfers.features(NAMES, Exponents(1.0, 1.0)) @ TRUE,
        )
        for target in random_targets(2, 4)
    ]
    assert choose_exponents(tables(targets, NAMES), FREE) == Exponents(1.0, 1.0)
    assert choose_exponents(tables(targets[:2], NAMES), FREE) == GRID[0] == Exponents(2.0, 0.5)
    two = calibrate(random_targets(2, 2), METRIC, "x", 0)
    assert (two.combination.exponent, two.start_exponent) == (2.0, 0.5)
    assert not two.measurements.exponents_chosen
    assert any("exponents keep their defaults" in note for note in two.measurements.notes)


def test_constants_grow_with_the_measurements() -> None:
    """Every constant needs three measurements beyond one per target; below six nothing is fitted at all."""
    kinds = {}
    for paths in range(2, 30):
        (target,) = random_targets(3, 1, paths=paths, noise=0.01)
        try:
            model = affordable_model([target.transfers], DEFAULT)
            kinds[paths] = (model.constants, model.free_weights, model.stage)
        except SequenceError as error:
            assert "too few" in str(error) and f"measure {7 - paths} more" in str(error)
            kinds[paths] = (0, False, False)
    assert {paths for paths, kind in kinds.items() if kind[0] == 0} == set(range(2, 7))
    assert all(kind == (2, False, False) for paths, kind in kinds.items() if 7 <= paths < 10)
    assert all(kind == (3, False, True) for paths, kind in kinds.items() if 10 <= paths < 16)
    assert all(kind == (5, True, False) for paths, kind in kinds.items() if 16 <= paths < 19)
    assert all(kind == (6, True, True) for paths, kind in kinds.items() if paths >= 19)


def test_the_scatter_of_a_run_is_that_of_runs_and_not_of_their_means() -> None:
    """Means of 3 runs, misfit 0.02 and noise 0.03: a run scatters by their root sum of squares, in a simulation too."""
    of_means = math.hypot(0.02, 0.03 / math.sqrt(3))
    assert scatter_of_a_run(of_means, 0.03, [3] * 10) == pytest.approx(math.hypot(0.02, 0.03))
    assert scatter_of_a_run(0.04, 0.03, [1] * 10) == pytest.approx(0.04), "nothing was averaged"
    assert scatter_of_a_run(0.0, 0.03, [2] * 10) == 0.03, "never below the noise"
    rng = np.random.default_rng(0)
    misfit = rng.normal(0, 0.02, 100_000)
    runs = misfit[:, None] + rng.normal(0, 0.03, (100_000, 3))
    found = scatter_of_a_run(float(runs.mean(axis=1).std()), 0.03, [3] * 100_000)
    assert found == pytest.approx(runs.std(), rel=0.01)


def test_weights_that_share_a_constant_take_one_degree_of_freedom() -> None:
    """With few paths the four weights keep their proportions: one constant. A start at its default was not fitted."""
    (target,) = random_targets(0, 1, paths=9)
    shared = affordable_model([target.transfers], DEFAULT)
    assert shared.constants == 2 and not shared.free_weights
    theta = np.array([2.0, 1.0, 1.0, 0.25, 0.0625, 0.0])
    assert _fitted_constants(shared, theta, start_unknown=False) == 2
    assert _fitted_constants(shared, theta, start_unknown=True) == 1
    assert _fitted_constants(FREE, theta, start_unknown=False) == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P_scratch", True),
        ("P_scratch_seed0", True),
        ("P_via21", True),
        ("P_via21_24_tag", True),
        ("P_init0123abcd", True),
        ("P_40G_scratch", False),
        ("P_40G_via21", False),
        ("P_viaduct", False),
        ("P_initial", False),
        ("P", False),
    ],
)
def test_plans_with_a_longer_name_are_other_plans(name: str, expected: bool) -> None:
    """nnUNetResEncUNetPlans_40G are not nnUNetResEncUNetPlans: their networks differ."""
    assert is_target_of(name, "P") is expected


# Guards against over-fitting


def test_noise_is_not_believed() -> None:
    """Where Dice has nothing to do with any cost, the fit correlates with what it was fitted to, not with the rest."""
    fitted, held_out = [], []
    for seed in range(20):
        targets = random_targets(seed, 4, noise=0.05, follow=0.0)
        found = tables(transfers(targets), NAMES)
        fitted.append(max(correlation(data, fit(data, np.eye(6))) for data in found.values()))
        costs = held_out_costs(found, FREE)
        held_out.append(quality("x", np.split(costs, 4), transfers(targets)).spearman)
    assert np.mean(fitted) > 0.15
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / math.sqrt(20) + 0.02


def test_leaving_out_single_paths_has_no_bias() -> None:
    """With one target and pure noise the held-out ranking is neither good nor, as with a fitted level, bad."""
    found = []
    for seed in range(60):
        (target,) = random_targets(seed, 1, paths=20, noise=0.05, follow=0.0)
        costs = held_out_costs(tables([target.transfers], NAMES), FREE)
        found.append(quality("x", [costs], [target.transfers]).spearman)
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(60) + 0.02


@pytest.mark.parametrize(("count", "paths", "noise"), [(1, 19, 0.08), (1, 30, 0.03)])
def test_the_verdict_holds_on_fresh_targets(count: int, paths: int, noise: float) -> None:
    """A calibration that is shown to beat the default held out beats it on six targets that nobody had seen, too."""
    right, promised = 0, 0
    for seed in range(8):
        found = calibrate(random_targets(seed, count, paths, noise), METRIC, "x", 0)
        if found.measurements.not_beaten:
            continue
        fresh = transfers(random_targets(1000 + seed, 6))
        theta = np.array([found.start_scale, *found.combination.weights.values(), found.stage_cost])
        exponents = Exponents(found.combination.exponent, found.start_exponent)
        ours = quality("x", [target.features(NAMES, exponents) @ theta for target in fresh], fresh)
        theirs = quality("x", [default_costs(target, DEFAULT) for target in fresh], fresh)
        promised += 1
        right += ours.weighted_tau > theirs.weighted_tau
    assert right >= 0.75 * promised
    assert promised <= 2 if noise > 0.05 else promised >= 3, "noise is seen through, and little noise is too"


def test_what_is_held_out_is_not_used() -> None:
    """The held-out costs of a target do not change with its own Dice, those of the others do."""
    targets = transfers(random_targets(5, 4, noise=0.02))
    before = np.split(held_out_costs(tables(targets, NAMES), FREE), 4)
    reversed_dice = dataclasses.replace(targets[1], dice=targets[1].dice[::-1].copy())
    after = np.split(held_out_costs(tables([targets[0], reversed_dice, *targets[2:]], NAMES), FREE), 4)
    assert after[1].tolist() == before[1].tolist()
    assert not np.allclose(after[0], before[0])


def test_what_is_left_bears_no_more_constants_than_alone() -> None:
    """A target with many paths is ranked by as few constants as the other target's few paths can bear."""
    (many,), (few,) = transfers(random_targets(5, 1, 30, 0.02)), transfers(random_targets(6, 1, 8, 0.02))
    held_out = held_out_costs(tables([many, few], NAMES), affordable_model([many, few], DEFAULT))
    small = affordable_model([few], DEFAULT)
    assert small.constants == 2 < affordable_model([many, few], DEFAULT).constants
    theta = small.solve(Data.of([few], NAMES, GRID[0]), GRID[0])
    assert held_out[:30] == pytest.approx(many.features(NAMES, GRID[0]) @ theta)


def test_a_path_that_is_left_out_is_not_used() -> None:
    """With one target alone, the held-out cost of a path does not change with its own Dice."""
    (target,) = transfers(random_targets(6, 1, paths=20, noise=0.02))
    before = held_out_costs(tables([target], NAMES), FREE)
    changed = target.dice.copy()
    changed[5] = 0.99
    after = held_out_costs(tables([dataclasses.replace(target, dice=changed)], NAMES), FREE)
    assert after[5] == before[5]
    assert not np.allclose(after, before)


def test_intervals_cover_the_truth() -> None:
    """The 95 % interval of Dice per cost holds the true value in most of 40 repeats, and shrinks with more targets."""
    covered, widths = 0, {3: [], 8: []}
    for seed in range(40):
        count = 3 if seed % 2 else 8
        targets = random_targets(seed, count, noise=0.03)
        data = Data.of(transfers(targets), NAMES, Exponents())
        samples = bootstrap(data, np.eye(6), np.random.default_rng(seed), resamples=200)
        hops = data.features[:, -1].sum()
        slopes = (samples[:, 1:-1] @ data.features[:, 1:-1].T).sum(axis=1) / hops
        true = float((data.features[:, 1:-1] @ (0.03 * TRUE[1:-1])).sum() / hops)
        low, high = np.percentile(slopes, [2.5, 97.5])
        covered += low <= true <= high
        widths[count].append(high - low)
    assert covered >= 32
    assert np.mean(widths[8]) < 0.8 * np.mean(widths[3])


def test_runs_of_one_path_are_averaged_and_their_spread_is_the_noise(tmp_path: Path) -> None:
    """Three seeds a path: their mean is fitted, their pooled deviation reported, the residual is never below it."""
    (target,) = random_targets(7, 1, paths=24)
    rng = np.random.default_rng(0)
    rows = [
        (path, number, f"{dice + rng.normal(0, 0.05):.6f}", seed)
        for path, number, dice in rows_of(target)
        for seed in range(3)
    ]
    runs = read_measurements(write_table(tmp_path / "m.csv", rows, "path,target,dice,seed"))
    (joined,) = join(runs, {target.name: affinity_of(target)}, NAMES, pytest.fail)
    assert joined.runs == (3,) * 24 and len(joined.transfers.paths) == 24
    by_path = np.array([float(row[2]) for row in rows]).reshape(24, 3)
    assert joined.transfers.dice == pytest.approx(by_path.mean(axis=1))
    assert run_noise((joined,)) == pytest.approx(math.sqrt(by_path.var(axis=1, ddof=1).mean()))
    found = calibrate((joined,), METRIC, "x", 0)
    assert found.measurements.run_noise == run_noise((joined,)) <= found.residual
    assert "(72 runs)" in found.measurements.words
    assert run_noise((target,)) is None


# Ranking quality


def test_regret_against_brute_force() -> None:
    """The regret is the best Dice less that of the cheapest path; ties are drawn blindly."""
    dice = np.array([0.2, 0.9, 0.5])
    assert regret(dice, np.array([3.0, 2.0, 1.0])) == pytest.approx(0.4)
    assert regret(dice, np.array([3.0, 1.0, 2.0])) == 0
    assert regret(dice, np.zeros(3)) == pytest.approx(0.9 - 1.6 / 3)


def test_baselines() -> None:
    """Largest first orders by the cases of the first task; the default by the planner's and the metric's defaults."""
    (target,) = transfers(random_targets(8, 1))
    firsts = target.counts[[path[0] for path in target.paths]]
    assert np.argmin(largest_first(target)) == np.argmax(firsts)
    squares = sum(target.components[name] ** 2 for name in NAMES)
    for path, cost in zip(target.paths, default_costs(target, DEFAULT), strict=True):
        hops = sum(squares[i, j] for i, j in pairwise(path))
        assert cost == pytest.approx(2.5 / math.sqrt(target.counts[path[0]]) + hops)
    blind = quality("blind", [np.zeros(len(target.paths))], [target])
    assert (blind.spearman, blind.weighted_tau) == (0, 0)
    perfect = quality("perfect", [-target.dice], [target])
    assert (perfect.spearman, perfect.weighted_tau, perfect.regret) == (pytest.approx(1), pytest.approx(1), 0)


# The record


def test_gain(good: Calibration) -> None:
    """The gain is slope times change of cost, its interval holds it, is wider than the scatter, and turns with sign."""
    mean, low, high = good.gain(2.0, 1.5)
    assert mean == pytest.approx(0.5 * good.dice_per_cost)
    assert low < mean < high and high - low > 2 * 1.95 * math.sqrt(2) * good.residual
    assert good.gain(1.5, 2.0) == pytest.approx((-mean, -high, -low))
    assert good.gain(1.0, 1.0)[0] == 0
    assert good.gain(1e9, 0.0)[0] == 1 and good.gain(0.0, 1e9)[1] == -1
    with pytest.raises(SequenceError, match="no gain can be predicted"):
        good.gain(math.inf, 1.0)


def test_gain_meets_new_measurements(good: Calibration) -> None:
    """About 95 % of the differences between paths to a target that was never seen lie inside the interval."""
    (unseen,) = random_targets(99, 1, paths=40, noise=0.005)
    distances = good.combination.distances(unseen.transfers.components) ** good.combination.exponent
    costs = [
        good.start_scale * unseen.transfers.counts[path[0]] ** -good.start_exponent
        + sum(distances[i, j] + good.stage_cost for i, j in pairwise(path))
        for path in unseen.transfers.paths
    ]
    inside = []
    for a in range(len(costs)):
        for b in range(a):
            _, low, high = good.gain(costs[a], costs[b])
            inside.append(low <= unseen.transfers.dice[b] - unseen.transfers.dice[a] <= high)
    assert np.mean(inside) > 0.85


def test_records_are_read_as_they_were_written(good: Calibration, tmp_path: Path) -> None:
    """Writing and reading gives the same record; the same seed the same, another seed other intervals alone."""
    write_calibration(tmp_path / "good.json", good)
    assert read_calibration(tmp_path / "good.json") == good
    again = calibrate(random_targets(1, 4, noise=0.005), METRIC, "good", 0)
    other = calibrate(random_targets(1, 4, noise=0.005), METRIC, "good", 1)
    assert again == good
    assert other.combination == good.combination and other.dice_per_cost_interval != good.dice_per_cost_interval


def test_other_metrics_are_refused(good: Calibration) -> None:
    """A calibration is accepted for its own metric and version alone."""
    require_metric(good, "descriptors", 2)
    with pytest.raises(RecordError, match="was fitted for the metric descriptors, the one in use is published"):
        require_metric(good, "published", 1)
    with pytest.raises(RecordError, match="for version 2 of the metric descriptors, this is version 3"):
        require_metric(good, "descriptors", 3)


def test_everything_it_rests_on_is_said(good: Calibration) -> None:
    """The text names the measurements, each constant with its interval, and the baselines; the default says: none."""
    text = calibration_text(good)
    for word in ("64 paths to 4 targets (64 runs)", "6 constants", "largest first source", "weight of contrast"):
        assert word in text
    assert good.origin == "calibration good, fitted on 64 paths to 4 targets (64 runs)"
    assert set(good.measurements.intervals) == {"start_scale", *NAMES, "stage_cost"}
    assert "rest on no measured transfer" in NO_MEASUREMENT


def test_the_verdict_is_honest(good: Calibration) -> None:
    """A ranking without any fit that is as good, or may be as good, is named."""
    own, default, largest = good.measurements.held_out

    def words(**changes: object) -> str:
        held_out = (own, dataclasses.replace(default, **changes), dataclasses.replace(largest, lead=(0.2, 0.9)))
        basis = dataclasses.replace(good.measurements, held_out=held_out)
        assert [other.ranking for other in basis.not_beaten] == ["default constants"] * (held_out[1].lead[0] <= 0)
        return verdict(dataclasses.replace(good, measurements=basis))

    assert "ranks better than every ranking that needs no calibration" in words(lead=(0.01, 0.4))
    assert "better than default constants, but its lead may be chance" in words(lead=(-0.01, 0.4))
    assert "no better than default constants: do not rely" in words(lead=(-0.3, 0.1), weighted_tau=own.weighted_tau)
    assert "reaches 0" in verdict(
        dataclasses.replace(
            good,
            dice_per_cost_interval=(0.0, 0.1),
            measurements=dataclasses.replace(good.measurements, held_out=(own,)),
        )
    )


def test_the_lead_is_that_of_the_weighted_tau() -> None:
    """A perfect ranking leads itself by 0, a reversed one by nearly 2, and one without order by about 1."""
    (target,) = transfers(random_targets(13, 1, paths=30))
    rng = np.random.default_rng(0)
    rankings = [[-target.dice], [-target.dice], [target.dice], [rng.random(30)]]
    itself, reverse, blind = leads([target], rankings, rng)
    assert itself == (0, 0)
    assert reverse[0] > 1.5
    assert 0 < blind[0] < 1 < blind[1] < 2


def test_picture(good: Calibration) -> None:
    """Each target has a panel."""
    targets = [axes.get_title() for axes in draw_calibration(good).axes if axes.get_title()]
    assert len(targets) == len(good.measurements.targets)


def test_distances_alone_must_carry_a_part() -> None:
    """Dice that falls with the start alone, or rises with everything, is no ground for weights: refused in a line."""
    targets = random_targets(10, 3)
    for start, words in ((-1.0, "falls with no component"), (5.0, "no weights of the metric descriptors go along")):
        wrong = tuple(
            dataclasses.replace(
                target,
                transfers=dataclasses.replace(
                    target.transfers,
                    dice=target.transfers.features(NAMES, Exponents()) @ np.array([start, 0.1, 0.1, 0.1, 0.1, 0.1]),
                ),
            )
            for target in targets
        )
        with pytest.raises(SeqTransferError, match=words):
            calibrate(wrong, METRIC, "x", 0)


# Tables and results


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("23 -> 21", ("23", "21")),
        ("23->21->4", ("23", "21", "4")),
        ("Dataset023_X Dataset021_Y", ("Dataset023_X", "Dataset021_Y")),
        ("23 \N{RIGHTWARDS ARROW} 21", ("23", "21")),
        ("23, 21", ("23", "21")),
        ("21", ("21",)),
        ("", ()),
        (" Scratch ", ()),
        ("none", ()),
    ],
)
def test_paths_in_words(text: str, path: tuple[str, ...]) -> None:
    """Arrows, commas and blanks separate the tasks of a path; scratch has none."""
    assert split_path(text) == path


def test_names_and_numbers_are_the_same(tmp_path: Path) -> None:
    """A path by numbers, by names, or ending with its target is one path; columns may come in any order and case."""
    (target,) = random_targets(11, 1)
    rows = [
        "0.5,900,100 -> 103,x",
        '0.6,Dataset900_Target,"Dataset100_Source, Dataset103_Source",',
        "0.7,900,100 103 900,",
    ]
    table = tmp_path / "m.csv"
    table.write_text(
        "\ufeffDice,target,Path,remark\r\n" + "\r\n".join([*rows, "", "0.4,0900,,,"[:-1]]), encoding="utf-8"
    )
    (joined,) = join(read_measurements(table), {target.name: affinity_of(target)}, NAMES, pytest.fail)
    assert joined.transfers.paths == ((7,), (0, 3, 7))
    assert joined.runs == (1, 3)
    assert joined.transfers.dice == pytest.approx([0.4, 0.6])


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    """A table upside down gives the very same calibration, intervals included."""
    (target,) = random_targets(12, 1, paths=20, noise=0.01)
    rows, known = rows_of(target), {target.name: affinity_of(target)}
    tables_of_rows = [write_table(tmp_path / f"{i}.csv", order) for i, order in enumerate((rows, rows[::-1]))]
    joined = [join(read_measurements(table), known, NAMES, pytest.fail) for table in tables_of_rows]
    assert calibrate(joined[0], METRIC, "x", 0) == calibrate(joined[1], METRIC, "x", 0)


def test_command(measured: tuple[World, MeasuredTarget], command, tmp_path: Path) -> None:
    """The command reads a table and the default affinities, writes record and picture, and prints what it rests on."""
    world, target = measured
    output = tmp_path / "mine.json"
    arguments = ("-i", str(world.root / "measurements.csv"), "-o", str(output))
    outcome = command("calibrate", *arguments)
    assert (outcome.status, outcome.err) == (0, "")
    assert "30 paths to 1 target (30 runs)" in outcome.out and str(output) in outcome.out
    found = read_calibration(output)
    assert (found.name, found.metric) == ("mine", "descriptors")
    assert found.measurements.targets == (target.name,)
    first = output.read_bytes()
    assert command("calibrate", *arguments, "-seed", "0").status == 0
    assert output.read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "mine.png", "world"}


def test_a_calibrated_affinity_can_be_calibrated_again(
    measured: tuple[World, MeasuredTarget], command, tmp_path: Path
) -> None:
    """Components are what is fitted: the weights that an affinity was made with change nothing."""
    world, target = measured
    arguments = ("calibrate", "-i", str(world.root / "measurements.csv"), "-o", str(tmp_path / "mine.json"))
    assert command(*arguments).status == 0
    first = (tmp_path / "mine.json").read_bytes()
    other = Combination({"image": 5.0, "contrast": 0.0, "label": 1.0, "geometry": 2.0}, 3.0)
    write_affinity(tmp_path / "other.json", affinity_of(target, weights=other))
    assert command(*arguments, "-a", str(tmp_path / "other.json")).status == 0
    assert (tmp_path / "mine.json").read_bytes() == first


def test_targets_of_unlike_configurations_are_calibrated_together(
    measured: tuple[World, MeasuredTarget], command, tmp_path: Path
) -> None:
    """A 2d and a 3d target, given by their affinity files: each is ranked by what was fitted to the other."""
    targets = random_targets(seed=5, count=2, paths=30, noise=0.01)
    files = []
    for target, configuration in zip(targets, ("2d", "3d_fullres"), strict=True):
        files.append(str(tmp_path / f"{configuration}.json"))
        write_affinity(Path(files[-1]), dataclasses.replace(affinity_of(target), configuration=configuration))
    rows = [row for target in targets for row in rows_of(target)]
    output = tmp_path / "both.json"
    outcome = command("calibrate", "-i", str(write_table(tmp_path / "m.csv", rows)), "-o", str(output), "-a", *files)
    assert outcome.status == 0 and "affinities of 2d and 3d_fullres are calibrated together" in outcome.err
    measurements = read_calibration(output).measurements
    assert set(measurements.targets) == {target.name for target in targets}
    assert measurements.left_out == "target"


def test_finished_chains_are_measurements(measured: tuple[World, MeasuredTarget], command, tmp_path: Path) -> None:
    """The results folder gives the same calibration as a table of the same Dice, folds averaged, seeds kept apart."""
    world, target = measured
    for path, dice in zip(target.transfers.paths, target.transfers.dice, strict=True):
        make_chain(world, [target.names[task] for task in path], {"0": float(dice) - 0.01, "2": float(dice) + 0.01})
    outcome = command("calibrate", "--results", "-o", str(tmp_path / "a.json"))
    assert (outcome.status, outcome.err) == (0, "")
    assert command("calibrate", "-i", str(world.root / "measurements.csv"), "-o", str(tmp_path / "b.json")).status == 0
    ours, theirs = read_calibration(tmp_path / "a.json"), read_calibration(tmp_path / "b.json")
    assert ours.combination.weights == pytest.approx(theirs.combination.weights, rel=1e-6)
    assert {path.path for path in ours.measurements.paths} == {path.path for path in theirs.measurements.paths}


def test_chains_that_cannot_be_compared_are_left_out(
    measured: tuple[World, MeasuredTarget], command, tmp_path: Path
) -> None:
    """Another recipe or fine-tuning, a missing fold, fold all, a source, a broken summary are left out by name."""
    world, target = measured
    for path, dice in zip(target.transfers.paths, target.transfers.dice, strict=True):
        make_chain(world, [target.names[task] for task in path], {"0": float(dice), "all": 0.999})
    names = target.names
    make_chain(world, [names[0], names[-1]], {"0": 0.01}, tag="longer", epochs=1000)
    make_chain(world, [names[0], names[-1]], {"0": 0.01}, tag="decay", layer_decay=0.5)
    make_chain(world, [names[1], names[-1]], {"3": 0.02}, tag="fold3")
    broken = make_chain(world, [names[2], names[-1]], {"0": 0.03}, tag="broken")
    (broken / "fold_0" / "validation" / "summary.json").write_text('{"foreground_mean": {}}')
    unfinished = make_chain(world, [names[3], names[-1]], {"0": 0.04}, tag="unfinished")
    (unfinished / "fold_0" / "checkpoint_final.pth").unlink()
    make_chain(world, [names[0]], {"all": 0.05}, role="source", target=names[-1])
    outcome = command("calibrate", "--results", "-o", str(tmp_path / "a.json"))
    assert outcome.status == 0
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 4 and all(line.startswith("left out: ") for line in lines), outcome.err
    assert any("another recipe (1000 x 250" in line for line in lines)
    assert any("decay" in line and "fine-tuned in another way" in line for line in lines)
    assert any("fold3" in line and "has not finished fold 0" in line for line in lines)
    assert any("lacks its mean Dice" in line for line in lines)
    paths = read_calibration(tmp_path / "a.json").measurements.paths
    by_path = {tuple(target.names.index(name) for name in path.path): path.dice for path in paths}
    assert by_path == pytest.approx(dict(zip(target.transfers.paths, target.transfers.dice, strict=True)))
    assert all(path.runs == 1 for path in paths)


def test_chains_that_saw_validation_cases_are_left_out(
    measured: tuple[World, MeasuredTarget], command, tmp_path: Path
) -> None:
    """What was trained with --allow_overlap has the names of a clean chain; its run's record tells, and it is named."""
    world, target = measured
    for path, dice in zip(target.transfers.paths, target.transfers.dice, strict=True):
        make_chain(world, [target.names[task] for task in path], {"0": float(dice)})
    leaking = next(path for path in target.transfers.paths if len(path) == 2)
    recipe = Recipe()
    names = [target.names[task] for task in leaking]
    request = ChainRequest(
        names[-1], (names[0],), "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 5, overlap="allow"
    )
    write_run(request, chain_stages(request), DeviceOptions("cpu"), 1)
    outcome = command("calibrate", "--results", "-o", str(tmp_path / "a.json"))
    assert outcome.status == 0
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith("left out: ") and "--allow_overlap" in line and f"via{names[0][7:10]}__" in line
    assert len(read_calibration(tmp_path / "a.json").measurements.paths) == len(target.transfers.paths) - 1


def make_chain(
    world: World,
    path: list[str],
    folds: dict[str, float],
    *,
    tag: str = "",
    epochs: int = 250,
    layer_decay: float = 1.0,
    role: str = "target",
    target: str | None = None,
) -> Path:
    """The folder of a finished chain as nnU-Net leaves it, for all that calibration reads."""
    via = "_via" + "_".join(name[7:10] for name in path[:-1]) if path[:-1] else "_scratch"
    suffix = f"_{tag}" if tag else ""
    base = output_base(path[-1], "nnUNetTrainerSeqTransfer", f"nnUNetPlans{via}{suffix}", "3d_fullres")
    block = StageBlock(target or path[-1], tuple(path), role, Recipe(epochs=epochs, layer_decay=layer_decay), None)
    base.mkdir(parents=True)
    (base / "plans.json").write_text(json.dumps(with_block({"plans_name": "x"}, "3d_fullres", block)))
    for fold, dice in folds.items():
        (base / f"fold_{fold}" / "validation").mkdir(parents=True)
        (base / f"fold_{fold}" / "checkpoint_final.pth").touch()
        summary = {"foreground_mean": {"Dice": dice}}
        (base / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps(summary))
    return base

"""The gain model: laws of its predictions, what it learns from made-up measurements, the shipped table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.gain import FEWEST_TARGETS, MOST_ITERATIONS, GainModel, _level
from nnunet_seqtransfer.planning.measured import Evidence, MeasuredTransfer, shipped_table
from support.archives import METRIC
from support.calibration_cases import measured_rows

METRICS = ("descriptors", "published")
COMPONENTS = {"descriptors": ("image", "contrast", "label"), "published": ("wasserstein", "dissimilarity")}


@pytest.fixture(scope="module")
def rows() -> tuple[MeasuredTransfer, ...]:
    """The table that is shipped."""
    return shipped_table().rows


def evidence(metric: str, length: float, **known: float) -> Evidence:
    """A source of which each component is ``length`` times the median of the shipped table."""
    sources = [row.evidence[0] for row in shipped_table().rows if row.sources]
    middles = {
        name: float(np.median([source.components[metric][name] for source in sources])) for name in COMPONENTS[metric]
    }
    return Evidence(components={name: length * middle for name, middle in middles.items()}, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("known", [{}, {"label_match": 0.5, "channel_match": 1.0}, {"zero_shot": 0.3}])
def test_nearer_is_never_worse(rows, metric: str, known: dict[str, float]) -> None:
    """The gain falls strictly with every component, whatever else is known and with or without the Dice of scratch."""
    model = GainModel(rows, metric)
    lengths = np.linspace(0, 20, 30)
    for scratch in (None, 0.5):
        gains = model.gains([evidence(metric, length, **known) for length in lengths], scratch)
        assert (np.diff(gains) < 0).all()
    one = evidence(metric, 1.0, **known)
    for name, value in one.components.items():
        farther = replace(one, components={**one.components, name: 2 * value})
        assert model.gains([farther])[0] < model.gains([one])[0]


@pytest.mark.parametrize(("term", "values"), [("label_match", (0, 0.5, 1)), ("zero_shot", (0, 0.4, 0.8))])
def test_more_evidence_is_never_worse(rows, term: str, values: tuple[float, ...]) -> None:
    """Better names and a better zero-shot Dice raise the gain."""
    model = GainModel(rows, METRIC)
    base = evidence(METRIC, 1.0, label_match=0.5, channel_match=0.5, zero_shot=0.2)
    gains = model.gains([replace(base, **{term: value}) for value in values])
    assert (np.diff(gains) > 0).all()


def test_cases_change_no_gain(rows) -> None:
    """Any number of cases leaves the gain as it is, so that it never lifts a far source over a near one."""
    model = GainModel(rows, METRIC)
    near, far = evidence(METRIC, 0.5, cases=3), evidence(METRIC, 2.0, cases=100_000)
    assert model.gains([near])[0] > model.gains([far])[0]
    assert model.gains([replace(far, cases=1)])[0] == model.gains([far])[0]


def test_scratch_is_exactly_zero(rows) -> None:
    """Without a source there is nothing to predict; more than two sources were never measured."""
    model = GainModel(rows, METRIC)
    assert model.predict(()) == model.predict((), 0.4)
    assert (model.predict(()).gain, model.predict(()).harm) == (0.0, 0.0)
    with pytest.raises(SequenceError, match="3 sources was never measured"):
        model.predict([evidence(METRIC, 1.0)] * 3)


def test_the_better_scratch_is_the_less_is_gained(rows) -> None:
    """The gain falls and harm rises with the Dice of scratch; the interval holds the gain."""
    model = GainModel(rows, METRIC)
    found = [model.predict([evidence(METRIC, 0.5, label_match=1, channel_match=1)], dice) for dice in (0.1, 0.5, 0.9)]
    assert found[0].gain > found[1].gain > found[2].gain
    assert found[0].harm < found[1].harm < found[2].harm
    for one in found:
        assert -1 <= one.low <= one.gain <= one.high <= 1 and 0 < one.harm < 1


def test_a_known_rule_is_found() -> None:
    """With little noise the predictions meet new targets of the same rule, and intervals hold 95 % of them."""
    model = GainModel(measured_rows(0, targets=12, noise=0.02), METRIC)
    fresh = [row for row in measured_rows(9, targets=12, noise=0.02) if len(row.sources) == 1]
    inside, errors = [], []
    for row in fresh:
        # names are noise in this rule: they are left out
        found = model.predict([Evidence(components=row.evidence[0].components[METRIC])], row.scratch)
        errors.append(found.gain - row.gain)
        inside.append(found.low <= row.gain <= found.high)
    assert np.abs(errors).mean() < 0.04
    assert np.mean(inside) > 0.9


def test_harm_is_calibrated_on_the_shipped_table(rows) -> None:
    """Predicted and seen harm agree within 0.2 in each third of the single sources, each target left out."""
    predicted, seen = [], []
    singles = [row for row in rows if len(row.sources) == 1]
    for target in sorted({row.target for row in singles}):
        model = GainModel([row for row in rows if row.target != target], METRIC)
        for row in (row for row in singles if row.target == target):
            predicted.append(model.predict([row.evidence[0].evidence(METRIC)], row.scratch).harm)
            seen.append(row.gain < 0)
    order = np.argsort(predicted)
    for part in np.array_split(order, 3):
        assert abs(np.mean(np.array(predicted)[part]) - np.mean(np.array(seen)[part])) < 0.2


def test_errors_are_those_of_targets_left_out() -> None:
    """A target's own Dice changes the constants, but not how its own gains are predicted for the intervals."""
    rows = measured_rows(1, targets=4)
    fit = GainModel(rows, METRIC).fit(("closeness",), knows_scratch=True)
    by_hand = []
    for target in sorted({row.target for row in rows}):
        # the standards stay those of the whole table
        whole, others = GainModel(rows, METRIC), GainModel([row for row in rows if row.target != target], METRIC)
        others.__dict__["_scales"] = whole._scales
        for row in (row for row in rows if row.target == target and len(row.sources) == 1):
            found = others.gains([Evidence(components=row.evidence[0].components[METRIC])], row.scratch)[0]
            by_hand.append(row.gain - found)
    assert fit.errors.values == pytest.approx(np.sort(by_hand))
    assert fit.errors.weights.sum() == pytest.approx(1)


def test_the_rule_of_pairs_is_found() -> None:
    """With exact single gains the weights of the last and the first source come out."""
    rule = GainModel(measured_rows(2, targets=12, noise=0.0), METRIC).fit(("closeness",), knows_scratch=True).pairs
    assert rule.last == pytest.approx(0.6, abs=0.1) and rule.first == pytest.approx(0.3, abs=0.1)
    assert rule.gain([0.1, 0.2], [0.3, 0.4]).shape == (2,)


def test_the_shipped_rule_of_pairs_lets_the_last_source_decide(rows) -> None:
    """As measured: about 0.6 of the last and 0.4 of the first; a pair needs a margin to be preferred."""
    rule = GainModel(rows, METRIC).fit(("closeness", "names", "zero_shot"), knows_scratch=True).pairs
    assert rule.last > rule.first > 0
    assert rule.margin > 0.05


def test_without_pairs_the_last_source_decides() -> None:
    """Too few measured pairs: no pair is ever preferred."""
    singles = [row for row in measured_rows(3) if len(row.sources) == 1]
    rule = GainModel(singles, METRIC).fit(("closeness",), knows_scratch=False).pairs
    assert (rule.last, rule.first, rule.margin) == (1.0, 0.0, np.inf)


def test_unknown_terms_are_left_out(rows) -> None:
    """A prediction rests on what is known, and on terms that were measured for enough targets."""
    model = GainModel(rows, METRIC)
    assert model.known(Evidence()) == ()
    assert model.known(evidence(METRIC, 1.0)) == ("closeness",)
    assert model.known(evidence(METRIC, 1.0, label_match=1, channel_match=0, zero_shot=0.5)) == (
        "closeness",
        "names",
        "zero_shot",
    )
    lonely = [
        row
        if row.target != "T4_0"
        else replace(row, evidence=tuple(replace(one, zero_shot=0.5) for one in row.evidence))
        for row in measured_rows(4)
    ]
    known = Evidence(components=dict.fromkeys(COMPONENTS[METRIC], 0.1), zero_shot=0.5)
    assert GainModel(lonely, METRIC).known(known) == ("closeness",)
    # without any evidence the gain is the mean over targets
    means = [np.mean([row.gain for row in model.singles if row.target == name]) for name in {r.target for r in rows}]
    assert model.gains([Evidence()])[0] == pytest.approx(np.mean(means))


def test_a_metric_that_was_never_measured_ranks_by_distance(rows) -> None:
    """Its distances are standardised among the sources: nearer is better, and doubling all changes nothing."""
    sources = [Evidence(distance=distance) for distance in (0.3, 1.0, 2.0)]
    model = GainModel(rows, "ours", sources)
    gains = model.gains(sources)
    assert not model.is_measured and (np.diff(gains) < 0).all()
    doubled = [replace(entry, distance=2 * entry.distance) for entry in sources]
    assert GainModel(rows, "ours", doubled).gains(doubled) == pytest.approx(gains)


def test_longer_training_was_measured_for_short_trainings_only(rows) -> None:
    """Within them the gain falls with the Dice of scratch; for longer ones, or no longer training, nothing is said."""
    model = GainModel(rows, METRIC)
    low, high = model.longer(200, 7, 0.2), model.longer(200, 7, 0.8)
    assert low is not None and high is not None and low.gain > high.gain
    assert low.gain == pytest.approx(0.433 - 0.421 * 0.2, abs=0.01)
    assert model.longer(MOST_ITERATIONS + 1, 7) is None and model.longer(200, 1) is None


def test_too_few_targets_are_refused() -> None:
    """One target is always left out, so that fewer than three make no fit."""
    rows = measured_rows(5, targets=FEWEST_TARGETS - 1)
    with pytest.raises(SequenceError, match="to 2 targets are too few"):
        GainModel(rows, METRIC)


def test_level_against_least_squares() -> None:
    """Intercept and slope are those of an ordinary fit, and a slope of the wrong sign is 0."""
    rng = np.random.default_rng(0)
    scratch = rng.uniform(0, 1, 20)
    left = 0.3 - 0.4 * scratch + rng.normal(0, 0.05, 20)
    slope, intercept = np.polyfit(scratch, left, 1)
    assert _level(left, scratch, np.ones(20), knows_scratch=True) == pytest.approx((intercept, -slope))
    assert _level(-left, scratch, np.ones(20), knows_scratch=True)[1] == 0
    assert _level(left, scratch, np.ones(20), knows_scratch=False) == (pytest.approx(left.mean()), 0.0)


def test_near_sources(rows) -> None:
    """Equal names make a source near, other names do not; without names the nearest quarter is."""
    model = GainModel(rows, METRIC)
    assert model.near(evidence(METRIC, 9.0, label_match=1, channel_match=1))
    assert not model.near(evidence(METRIC, 0.0, label_match=0.5, channel_match=1))
    assert model.near(evidence(METRIC, 0.0)) and not model.near(evidence(METRIC, 1.0))

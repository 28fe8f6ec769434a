"""The expected gain of a path over scratch, in Dice, fitted on measured transfers.

    gain(source -> target) = a + b S - c scratch,    b, c >= 0

The score S is the mean of the terms that are known of the source, each standardised over the measured single sources:

- closeness: sum over the components d_k of the distance of m_k / (m_k + d_k), standardised; m_k is the median of d_k
- names: (2 label_match + channel_match) / 3
- zero_shot: Dice of the source's own network on the target's labelled cases
- track_record: mean rank on k other targets, with the weight k / (k + 4) instead of 1

Fitted weights of the terms did worse on targets left out than equal ones, so only a, b and c are fitted: b within
targets, a and c to the means of the targets, every target with the same weight. c is used if the Dice of scratch is
known. There is one fit for each set of known terms, made when it is first needed. Intervals are quantiles of what the
fit misses on targets that were left out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.measured import Evidence, MeasuredTransfer, track_records
from nnunet_seqtransfer.planning.options import MOST_SOURCES

Floats = NDArray[np.float64]

TERMS = ("closeness", "names", "zero_shot", "track_record")
"""The parts of the score."""
SUBSTITUTE = "descriptors"
"""Metric of the rows that closeness is fitted on if the metric in use was never measured."""
HALF_TARGETS = 4
"""Targets at which a track record has half the weight of another term."""
FEWEST_TARGETS = 3
"""Targets that a fit needs at least, since one is always left out."""
FEWEST_PAIRS = 10
"""Measured pairs that the rule of pairs needs at least."""
MOST_ITERATIONS = 2000
"""Iterations on the target up to which longer training from scratch was measured."""
NEAR = 0.67
"""Standardised closeness of the nearest quarter."""


@dataclass(frozen=True)
class Prediction:
    """The predicted gain of a path over scratch of equal target epochs."""

    gain: float
    "Expected gain in Dice, -1 to 1."
    low: float
    "Lower end of the 95 % interval of a single run."
    high: float
    "Upper end of the 95 % interval."
    harm: float
    "Probability that the path ends below scratch, 0 to 1."


@dataclass(frozen=True, eq=False)
class Errors:
    """Measured minus predicted gain of targets that were left out of the fit."""

    values: Floats
    "(m,), sorted."
    weights: Floats
    "(m,), sum 1: every target has the same weight."

    @classmethod
    def of(cls, errors: ArrayLike, targets: Sequence[str]) -> Errors:
        """Sort the errors, (m,), and weigh them by their targets."""
        values = np.asarray(errors, dtype=np.float64)
        order = np.argsort(values, kind="stable")
        weights = _row_weights(targets)
        return cls(values[order], weights[order] / weights.sum())

    def around(self, gain: float, scratch: float | None = None) -> Prediction:
        """Return the prediction of this gain, which the Dice of scratch limits: no path ends below 0 or above 1."""
        reached = np.cumsum(self.weights)
        places = np.minimum(np.searchsorted(reached, [0.025, 0.975]), len(reached) - 1)
        # Half a count on both sides: never certain of harm, nor of no harm.
        below = float(self.weights[gain + self.values < 0].sum()) * len(self.values)
        least, most = (-1.0, 1.0) if scratch is None else (-scratch, 1.0 - scratch)
        mean, low, high = np.clip([gain, *(gain + self.values[places])], least, most).tolist()
        return Prediction(mean, low, high, (below + 0.5) / (len(self.values) + 1))


@dataclass(frozen=True)
class PairRule:
    """The gain of a pair of sources from the gains of both alone, fitted on measured pairs."""

    last: float
    "Weight of the last source, 0 or more."
    first: float
    "Weight of the first source, 0 or more."
    constant: float
    "Dice added to both."
    margin: float
    "Dice by which a pair has to beat the best single source to be preferred: half the scatter around the rule."

    def gain(self, first: ArrayLike, last: ArrayLike) -> Floats:
        """Return the gain of pairs, any shape, from the gains of the first and the last source alone."""
        return np.asarray(self.last * np.asarray(last) + self.first * np.asarray(first) + self.constant)


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted constants for one set of known terms."""

    constants: tuple[float, float, float]
    "a in Dice; b, Dice for each unit of the score; c, 0 if the Dice of scratch is not used."
    errors: Errors = field(repr=False)
    "Errors of single sources."
    pairs: PairRule
    "The rule of pairs."
    pair_errors: Errors = field(repr=False)
    "Errors of pairs; those of single sources if too few pairs were measured."

    def gain(self, score: ArrayLike, scratch: float | None) -> Floats:
        """Return the gains, any shape, for these scores."""
        return np.asarray(_gain(self.constants, np.asarray(score), scratch or 0.0))


class GainModel:
    """Predicts gains from measured transfers, by the components of one metric."""

    def __init__(self, rows: Sequence[MeasuredTransfer], metric: str, reference: Sequence[Evidence] = ()) -> None:
        """Keep the rows; fits are made when they are needed.

        Args:
            rows: measured transfers.
            metric: name of the metric of the evidence.
            reference: evidence on all sources in question. Their distances are standardised among each other if no row
                knows the components of this metric.

        Raises SequenceError if the rows have fewer than `FEWEST_TARGETS` targets.
        """
        self.singles = [row for row in rows if len(row.sources) == 1]
        self._pairs = [row for row in rows if len(row.sources) == 2]
        self._longer = [row for row in rows if not row.sources and row.length > 1]
        targets = len({row.target for row in self.singles})
        if targets < FEWEST_TARGETS:
            raise SequenceError(
                f"measured transfers to {targets} targets are too few to predict a gain; give at least {FEWEST_TARGETS}"
            )
        self.is_measured = any(metric in row.evidence[0].components for row in self.singles)
        self._metric = metric if self.is_measured else SUBSTITUTE
        self._fits: dict[tuple[tuple[str, ...], bool], Fit] = {}
        known = [entry.distance for entry in reference if entry.distance is not None]
        self._middle = float(np.median(known)) or 1.0 if known else 1.0
        self._spread = _Standard.of(self._middle / (self._middle + np.asarray(known))) if known else _Standard()
        tracks = {name: track_records(tuple(rows), name) for name in {row.target for row in self.singles}}
        self._evidence = {
            (row.target, source): replace(
                entry.evidence(self._metric),
                track_record=tracks.get(row.target, {}).get(source, (None, 0))[0],
                track_targets=tracks.get(row.target, {}).get(source, (None, 0))[1],
            )
            for row in (*self.singles, *self._pairs)
            for source, entry in zip(row.sources, row.evidence, strict=True)
        }

    def known(self, evidence: Evidence) -> tuple[str, ...]:
        """Return the terms that a prediction rests on: known of the source, and measured for enough targets."""
        return self._subsets([evidence])[0]

    def gains(self, evidence: Sequence[Evidence], scratch_dice: float | None = None) -> Floats:
        """Return the expected gain of each source alone, (n,)."""
        subsets, table = self._subsets(evidence), self._terms(evidence)
        found = np.zeros(len(evidence))
        for subset in set(subsets):
            chosen = np.array([own == subset for own in subsets])
            fit = self.fit(subset, knows_scratch=scratch_dice is not None)
            found[chosen] = fit.gain(_scores(table.take(chosen), subset), scratch_dice)
        return found

    def predict(self, path_evidence: Sequence[Evidence], scratch_dice: float | None = None) -> Prediction:
        """Return the expected gain of a path over these sources, in training order.

        Without a source it is scratch itself, with a gain of exactly 0. Raise SequenceError for more than two sources,
        which were never measured.
        """
        if not path_evidence:
            return Prediction(0.0, 0.0, 0.0, 0.0)
        fit = self.fit(self.known(path_evidence[-1]), knows_scratch=scratch_dice is not None)
        errors = fit.errors if len(path_evidence) == 1 else fit.pair_errors
        return errors.around(self.gain(path_evidence, scratch_dice), scratch_dice)

    def gain(self, path_evidence: Sequence[Evidence], scratch_dice: float | None = None) -> float:
        """Return the expected gain of a path of one or two sources without regard to what is left to gain."""
        if len(path_evidence) > MOST_SOURCES:
            raise SequenceError(
                f"a path of {len(path_evidence)} sources was never measured, so no gain can be predicted; use at most "
                f"{MOST_SOURCES}"
            )
        gains = self.gains(path_evidence, scratch_dice)
        if len(gains) == 1:
            return float(gains[0])
        return float(self.pair_rule(path_evidence[-1:], scratch_dice).gain(gains[0], gains[1]))

    def pair_rule(self, evidence: Sequence[Evidence], scratch_dice: float | None) -> PairRule:
        """Return the rule of pairs for sources of which as much is known as of the best known of these."""
        subset = max((self.known(entry) for entry in evidence), key=len, default=())
        return self.fit(subset, knows_scratch=scratch_dice is not None).pairs

    def near(self, evidence: Evidence) -> bool:
        """Return whether a source is near enough for a sequence.

        The only pairs that did not lose against their last source had the target's labels and channels in both.
        Without known names closeness decides.
        """
        if evidence.label_match is not None and evidence.channel_match is not None:
            return evidence.label_match == 1.0 and evidence.channel_match == 1.0
        return bool(self._terms([evidence]).values[0, 0] >= NEAR)

    def longer(self, iterations: int, length: float, scratch_dice: float | None = None) -> Prediction | None:
        """Return the gain of scratch trained ``length`` times as long as for ``iterations`` on the target.

        The gain falls linearly with the Dice of scratch, whatever the length above 1. Return None for more than
        `MOST_ITERATIONS` iterations: only short trainings were measured.
        """
        if length <= 1 or iterations > MOST_ITERATIONS or len(self._longer) < FEWEST_TARGETS:
            return None
        scratch = np.array([row.scratch for row in self._longer])
        gain, targets = np.array([row.gain for row in self._longer]), [row.target for row in self._longer]
        level, slope = _level(gain, scratch, np.ones(len(gain)), knows_scratch=scratch_dice is not None)
        errors = Errors.of(gain - level + slope * scratch, targets)
        return errors.around(level - slope * (scratch_dice or 0.0), scratch_dice)

    def fit(self, subset: tuple[str, ...], *, knows_scratch: bool) -> Fit:
        """Return the fit for one set of known terms, in the order of `TERMS`; made once."""
        key = subset, knows_scratch
        if key not in self._fits:
            self._fits[key] = self._made(subset, knows_scratch=knows_scratch)
        return self._fits[key]

    @cached_property
    def _scales(self) -> tuple[dict[str, tuple[float, _Standard]], tuple[_Standard, ...]]:
        """Median and standard of each component, and the standard of each term, over the measured single sources."""
        rows = [self._evidence[row.target, row.sources[0]] for row in self.singles]
        names = sorted({name for entry in rows for name in entry.components})
        components = {}
        for name in names:
            values = np.array([entry.components[name] for entry in rows if name in entry.components])
            middle = float(np.median(values)) or 1.0
            components[name] = middle, _Standard.of(middle / (middle + values))
        raw = _raw(rows, components)
        return components, tuple(_Standard.of(column[~np.isnan(column)]) for column in raw.T)

    def _terms(self, evidence: Sequence[Evidence], *, measured: bool | None = None) -> _Terms:
        """The standardised terms of each source; ``measured`` rows always have the components of the table."""
        components, standards = self._scales
        raw = _raw(evidence, components)
        values = np.stack([standard(column) for standard, column in zip(standards, raw.T, strict=True)], axis=1)
        if not (self.is_measured if measured is None else measured):
            known = np.array([math.nan if entry.distance is None else entry.distance for entry in evidence])
            values[:, 0] = self._spread(self._middle / (self._middle + known))
        weights = np.ones_like(values)
        counts = np.array([entry.track_targets for entry in evidence], dtype=float)
        weights[:, 3] = counts / (counts + HALF_TARGETS)
        return _Terms(values, weights)

    @cached_property
    def _table(self) -> _Terms:
        """The terms of the measured single sources, in the order of `singles`."""
        return self._terms([self._evidence[row.target, row.sources[0]] for row in self.singles], measured=True)

    def _subsets(self, evidence: Sequence[Evidence]) -> list[tuple[str, ...]]:
        """The usable terms of each source."""
        found: dict[bytes, tuple[str, ...]] = {}
        is_known = ~np.isnan(self._terms(evidence).values)
        for row in is_known:
            if row.tobytes() not in found:
                names = tuple(name for name, known in zip(TERMS, row, strict=True) if known)
                while names and len({self.singles[k].target for k in self._rows(names)}) < FEWEST_TARGETS:
                    names = names[:-1]
                found[row.tobytes()] = names
        return [found[row.tobytes()] for row in is_known]

    def _rows(self, subset: tuple[str, ...]) -> list[int]:
        """Indices of the measured single sources of which all terms of the subset are known."""
        columns = [TERMS.index(name) for name in subset]
        return np.flatnonzero(~np.isnan(self._table.values[:, columns]).any(axis=1)).tolist()

    def _made(self, subset: tuple[str, ...], *, knows_scratch: bool) -> Fit:
        places = self._rows(subset)
        rows = [self.singles[place] for place in places]
        scores = _scores(self._table.take(np.array(places)), subset)
        gain, scratch = np.array([row.gain for row in rows]), np.array([row.scratch for row in rows])
        targets = np.array([row.target for row in rows])
        held_out = {
            name: _solve(scores[others], gain[others], scratch[others], targets[others], knows_scratch)
            for name in dict.fromkeys(targets.tolist())
            for others in [targets != name]
        }
        missed = [
            value - _gain(held_out[name], score, level)
            for value, score, level, name in zip(gain, scores, scratch, targets.tolist(), strict=True)
        ]
        errors = Errors.of(missed, targets.tolist())
        # Only with the Dice of scratch do predicted gains of different targets compare well enough to fit the rule.
        rule = None if knows_scratch else self.fit(subset, knows_scratch=True).pairs
        rule, pair_errors = self._pair_fit(subset, held_out, rule)
        return Fit(_solve(scores, gain, scratch, targets, knows_scratch), errors, rule, pair_errors or errors)

    def _pair_fit(
        self, subset: tuple[str, ...], held_out: dict[str, tuple[float, float, float]], rule: PairRule | None
    ) -> tuple[PairRule, Errors | None]:
        """Return the rule of pairs, fitted on gains that were predicted without the target, and what it misses."""
        rows = [row for row in self._pairs if row.target in held_out]
        sides = []
        for place in (0, 1):
            evidence = [self._evidence[row.target, row.sources[place]] for row in rows]
            scores = _scores(self._terms(evidence, measured=True), subset) if rows else np.zeros(0)
            sides.append([_gain(held_out[row.target], x, row.scratch) for row, x in zip(rows, scores, strict=True)])
        first, last = np.array(sides)
        kept = ~np.isnan(first + last)
        if kept.sum() < FEWEST_PAIRS:  # too few: the last source decides
            return PairRule(1.0, 0.0, 0.0, math.inf), None
        first, last, targets = first[kept], last[kept], [row.target for row, use in zip(rows, kept, strict=True) if use]
        gain = np.array([row.gain for row in rows])[kept]
        if rule is None:
            root = np.sqrt(_row_weights(targets))
            # The constant may be negative: a column of -1 lets the non-negative fit find it.
            design = np.stack([last, first, np.ones_like(last), -np.ones_like(last)], axis=1)
            weights = nnls(design * root[:, None], gain * root)[0]
            rule = PairRule(float(weights[0]), float(weights[1]), float(weights[2] - weights[3]), 0.0)
            scatter = math.sqrt(float(np.average((gain - rule.gain(first, last)) ** 2, weights=root**2)))
            rule = replace(rule, margin=scatter / 2)
        return rule, Errors.of(gain - rule.gain(first, last), targets)


@dataclass(frozen=True)
class _Standard:
    """Mean and standard deviation of a quantity, by which it is standardised."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Floats) -> _Standard:
        return cls(float(values.mean()), float(values.std()) or 1.0) if len(values) else cls()

    def __call__(self, values: Floats) -> Floats:
        return np.asarray((values - self.mean) / self.deviation)


@dataclass(frozen=True, eq=False)
class _Terms:
    """(n, 4) standardised terms, NaN if unknown, and their weights in the score."""

    values: Floats
    weights: Floats

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> _Terms:
        return _Terms(self.values[rows], self.weights[rows])


def _raw(evidence: Sequence[Evidence], components: dict[str, tuple[float, _Standard]]) -> Floats:
    """(n, 4) terms before they are standardised, NaN if unknown."""
    table = np.full((len(evidence), len(TERMS)), np.nan)
    if components:
        total = np.zeros(len(evidence))
        for name, (middle, standard) in components.items():
            values = np.array([entry.components.get(name, np.nan) for entry in evidence], dtype=float)
            total += standard(middle / (middle + values))
        table[:, 0] = total
    known = np.array(
        [(entry.label_match, entry.channel_match, entry.zero_shot, entry.track_record) for entry in evidence],
        dtype=float,  # None becomes NaN
    ).reshape(len(evidence), 4)
    table[:, 1] = (2 * known[:, 0] + known[:, 1]) / 3
    table[:, 2:] = known[:, 2:]
    return table


def _scores(terms: _Terms, subset: tuple[str, ...]) -> Floats:
    """(n,) weighted means of the terms in the subset; 0 without any."""
    columns = [TERMS.index(name) for name in subset]
    if not columns:
        return np.zeros(len(terms.values))
    weights = terms.weights[:, columns]
    return np.asarray((terms.values[:, columns] * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9))


def _solve(
    scores: Floats, gain: Floats, scratch: Floats, targets: NDArray[np.str_], knows_scratch: bool
) -> tuple[float, float, float]:
    """a, b and c."""
    groups = [targets == name for name in dict.fromkeys(targets.tolist())]
    across = sum(float(((scores[g] - scores[g].mean()) * (gain[g] - gain[g].mean())).mean()) for g in groups)
    spread = sum(float(scores[g].var()) for g in groups)
    slope = max(0.0, across / spread) if spread else 0.0
    left = np.array([float((gain[g] - slope * scores[g]).mean()) for g in groups])
    means = np.array([float(scratch[g].mean()) for g in groups])
    level, scratch_slope = _level(left, means, np.ones(len(groups)), knows_scratch=knows_scratch)
    return level, slope, scratch_slope


def _level(left: Floats, scratch: Floats, weights: Floats, *, knows_scratch: bool) -> tuple[float, float]:
    """a and c >= 0 of left = a - c scratch by least squares; c is 0 if scratch is not used."""
    centre, mean = float(np.average(scratch, weights=weights)), float(np.average(left, weights=weights))
    spread = float(weights @ (scratch - centre) ** 2)
    if not knows_scratch or not spread:
        return mean, 0.0
    slope = max(0.0, -float(weights @ ((scratch - centre) * (left - mean))) / spread)
    return mean + slope * centre, slope


def _gain(constants: tuple[float, float, float], score: Floats | float, scratch: float) -> Floats | float:
    intercept, slope, scratch_slope = constants
    return intercept + slope * score - scratch_slope * scratch


def _row_weights(targets: Sequence[str]) -> Floats:
    """(m,) 1 / number of rows of the same target."""
    counts = {name: list(targets).count(name) for name in set(targets)}
    return np.array([1.0 / counts[name] for name in targets])

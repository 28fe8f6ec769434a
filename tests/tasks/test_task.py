"""Tests of tasks/task.py: how cases are sampled."""

from __future__ import annotations

import numpy as np

from nnunet_seqtransfer.tasks.task import sample_cases


def test_samples_are_subsets_drawn_by_their_seed() -> None:
    """A sample holds the number asked for (or all), no case twice, sorted; the seed decides, not the order given."""
    cases = tuple(f"case_{number:03}" for number in range(60))
    rng = np.random.default_rng(0)
    for count in (0, 1, 10, 60, 100):
        sample = sample_cases(cases, count, 3)
        assert len(sample) == min(count, 60)
        assert set(sample) <= set(cases)
        assert list(sample) == sorted(sample)
        assert sample_cases(tuple(rng.permutation(cases).tolist()), count, 3) == sample
    assert len({sample_cases(cases, 10, seed) for seed in range(20)}) == 20
    drawn = [case for seed in range(600) for case in sample_cases(cases, 10, seed)]
    counts = [drawn.count(case) for case in cases]
    assert min(counts) > 60 and max(counts) < 145, "each of 60 cases is drawn about 100 times in 600 draws of 10"


def test_a_case_more_exchanges_at_most_one() -> None:
    """A case added to a dataset exchanges at most one of the drawn, and a larger sample holds the smaller one."""
    cases = tuple(f"case_{number:03}" for number in range(40))
    for seed in range(50):
        sample = set(sample_cases(cases[:-1], 10, seed))
        assert len(sample - set(sample_cases(cases, 10, seed))) <= 1
        assert sample <= set(sample_cases(cases[:-1], 11, seed))


def test_tasks_with_the_same_patients_draw_the_same() -> None:
    """What a dataset with further patients draws of the shared ones, the dataset without them draws too."""
    cases = tuple(f"patient{number}" for number in range(30))
    more = (*cases, *(f"other{number}" for number in range(5)))
    for seed in range(20):
        sample, wider = sample_cases(cases, 8, seed), sample_cases(more, 8, seed)
        assert set(wider) & set(cases) <= set(sample)

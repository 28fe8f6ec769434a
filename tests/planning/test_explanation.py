"""What the explanation of a decision says."""

import numpy as np
import pytest

from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import PLANNERS, ExactPlanner, PublishedPlanner, explain, planner
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem

NAMES = ("Dataset021_Hippocampus", "Dataset024_Ventricle", "Dataset004_Target")


def problem(*places: float, counts: tuple[int, ...] | None = (400, 4, 1)) -> SequenceProblem:
    """Three tasks on a line."""
    return SequenceProblem.checked(NAMES, np.abs(np.subtract.outer(places, places)), 2, counts)


def explained(given: SequenceProblem, max_sources: int = 3, **model: float) -> tuple[str, ...]:
    """The exact planner's explanation."""
    return explain(ExactPlanner(CostModel(**{"start_scale": 2.0, **model})).plan(given, max_sources, 10), given)


def test_a_sequence_is_explained_by_its_parts_and_the_others() -> None:
    """Names, parts and case counts, what direct transfer and scratch cost, and why the intermediate pays."""
    assert explained(problem(0, 0.5, 1)) == (
        "Dataset021_Hippocampus -> Dataset024_Ventricle -> Dataset004_Target costs 0.60: start 0.10 (400 cases), "
        "Dataset021_Hippocampus -> Dataset024_Ventricle 0.25, Dataset024_Ventricle -> Dataset004_Target 0.25.",
        "Direct transfer from Dataset021_Hippocampus costs 1.10, scratch costs 2.00.",
        "The intermediate pays because the 2 hops cost 0.50 together, the single hop from Dataset021_Hippocampus 1.00.",
    )


def test_a_landmark_that_saves_by_its_cases_is_explained_so() -> None:
    """Where the hops cost more and the start saves more, both numbers are told."""
    sentences = explained(problem(0, 0.9, 1.5))
    assert sentences[1] == "Direct transfer from Dataset024_Ventricle costs 1.36, scratch costs 2.00."
    assert sentences[2] == (
        "The longer way pays because starting with Dataset021_Hippocampus saves 0.90, "
        "more than the 0.81 that its hops cost on top."
    )


def test_a_direct_path_is_compared_with_the_best_sequence() -> None:
    """Where direct transfer wins the best sequence and its cost are named."""
    sentences = explained(problem(0.9, 0, 1))
    assert sentences[0].startswith("Dataset021_Hippocampus -> Dataset004_Target costs 0.11")
    assert sentences[1] == "Scratch costs 2.00."
    assert sentences[2].startswith("No intermediate pays: the best, Dataset024_Ventricle -> Dataset021_Hippocampus")


def test_scratch_is_explained_by_far_or_small_sources() -> None:
    """Where scratch wins, the best source and its cost say how far off it was."""
    assert explained(problem(0, 0, 9)) == (
        "Dataset004_Target is trained from scratch, which costs 2.00 (1 case).",
        "Every source is too far away or has too few cases: the best of them, "
        "direct transfer from Dataset021_Hippocampus, costs 81.10.",
    )


def test_scratch_for_want_of_a_source_is_explained_so() -> None:
    """Where no source was allowed, distance is not blamed."""
    assert explained(problem(0, 0, 9), max_sources=0)[1] == "No source was allowed, or none reaches the target."


def test_without_case_counts_scratch_is_not_compared() -> None:
    """A cost of nothing is not held against the chosen path; the note says why."""
    sentences = explained(problem(0, 0.5, 1, counts=None))
    assert not any("scratch costs" in sentence.lower() for sentence in sentences)
    assert "scratch is listed, not compared" in sentences[-1]


def test_a_published_path_is_not_said_to_pay() -> None:
    """Where the published strategy takes a dearer path than direct transfer, the explanation says that."""
    given = problem(0, 0.5, 1)
    sentences = explain(PublishedPlanner().plan(given, 3, 10), given)
    assert "search cost 1.00" in sentences[0]
    assert "takes an intermediate without comparing it with direct transfer" in " ".join(sentences)


def test_a_published_landmark_is_said_to_be_the_reason() -> None:
    """Where direct transfer from a landmark is chosen over a nearer source, the explanation says so."""
    given = problem(0, 0.5, 1)
    sentences = explain(PublishedPlanner().plan(given, 1, 10), given)
    assert "directly only from a landmark" in " ".join(sentences)


def constrained(given: SequenceProblem, constraints: Constraints, max_sources: int = 3) -> tuple[str, ...]:
    """The explanation of the exact planner's choice under constraints."""
    return explain(ExactPlanner(CostModel(start_scale=2.0)).plan(given, max_sources, 10, constraints), given)


def test_what_constraints_rule_out_is_told_with_the_reason() -> None:
    """Direct transfer and scratch are named with their cost and why they could not be chosen; nothing "pays"."""
    sentences = constrained(problem(0, 0.5, 1), Constraints(must=(0, 1)))
    assert sentences[1:] == (
        "Direct transfer from Dataset021_Hippocampus costs 1.10, but is ruled out: it does not go through "
        "Dataset024_Ventricle, as it must; scratch costs 2.00, but is ruled out: it does not go through "
        "Dataset021_Hippocampus, Dataset024_Ventricle, as it must.",
        "Direct transfer is ruled out, so the cheapest path that is allowed is taken.",
    )


def test_the_best_direct_path_and_the_best_allowed_one_are_both_told() -> None:
    """Where the cheapest direct path is ruled out, the one that could be chosen stands beside it."""
    sentences = constrained(problem(0.9, 0.5, 1), Constraints(must=(1,)))
    assert "Direct transfer from Dataset021_Hippocampus costs 0.11, but is ruled out" in sentences[1]
    assert "direct transfer from Dataset024_Ventricle costs 1.25" in " ".join(sentences)


def test_scratch_that_a_budget_leaves_over_is_explained_so() -> None:
    """Distance is not blamed for what the budget rules out."""
    sentences = constrained(problem(0, 0.5, 1), Constraints(budget=300, prices=(250.0, 250.0, 250.0)))
    assert sentences[0] == "Dataset004_Target is trained from scratch, which costs 2.00 (1 case)."
    assert sentences[1].endswith("but is ruled out: it costs 500, above the budget of 300.")


@pytest.mark.parametrize("strategy", PLANNERS)
def test_every_explanation_has_two_to_five_sentences(strategy: str) -> None:
    """Whatever is decided, there are two to five sentences, each on one line and ended by a full stop."""
    for seed in range(80):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 8))
        distances = rng.random((n, n)) * 2
        distances[rng.random((n, n)) < 0.3] = np.nan
        counts = rng.integers(1, 99, n).tolist() if seed % 2 else None
        given = SequenceProblem.checked([f"Dataset{i:03}_X" for i in range(n)], distances, 0, counts)
        sentences = explain(planner(strategy, CostModel()).plan(given, seed % 5, 5), given)
        assert 2 <= len(sentences) <= 5
        assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)

"""What a sequence problem accepts, and what the stages of a path cost."""

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.measured import Evidence
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem, rounded

NAMES = ("Dataset001_A", "Dataset002_B", "Dataset003_C")


def test_nan_and_infinity_become_no_edge() -> None:
    """NaN and inf both mean that there is no edge, and the table given is left as it was."""
    given = np.array([[0, np.nan, 1], [2, 0, np.inf], [3, 4, 0]])
    problem = SequenceProblem.checked(NAMES, given, 2)
    assert np.isinf(problem.distances[0, 1])
    assert np.isinf(problem.distances[1, 2])
    assert np.isnan(given[0, 1])


def test_the_diagonal_is_ignored() -> None:
    """Whatever stands on the diagonal, also a negative number, means nothing."""
    given = np.ones((3, 3))
    np.fill_diagonal(given, -5)
    assert SequenceProblem.checked(NAMES, given, 0).sources == (1, 2)


def test_the_distances_cannot_be_changed_afterwards() -> None:
    """A problem is frozen, its distances too."""
    problem = SequenceProblem.checked(NAMES, np.ones((3, 3)), 0)
    with pytest.raises(ValueError, match="read-only"):
        problem.distances[0, 1] = 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": [[0, 1, 1], [1, 0, -0.5], [1, 1, 0]]}, "from Dataset002_B to Dataset003_C is negative: -0.5;"),
        ({"distances": -np.ones((3, 3))}, r"from Dataset001_A to Dataset002_B is negative: -1 \(and 5 more\)"),
        ({"distances": [[0, -np.inf, 1], [1, 0, 1], [1, 1, 0]]}, "is negative: -inf"),
        ({"distances": np.ones((3, 2))}, r"shape \(3, 2\)"),
        ({"distances": np.ones((2, 2))}, r"shape \(2, 2\)"),
        ({"distances": [[0, 1], [1]]}, "not a table of numbers"),
        ({"distances": [["a"]]}, "not a table of numbers"),
        ({"target": 3}, "target 3 is not an index"),
        ({"target": -1}, "target -1 is not an index"),
        ({"case_counts": (5, 0, 5)}, "Dataset002_B has 0 labelled cases"),
        ({"target": 1.0}, "the target is 1.0; give a whole number"),
        ({"target": np.nan}, "the target is nan; give a whole number"),
        ({"case_counts": (5, np.nan, 5)}, "a case count is nan; give a whole number"),
        ({"case_counts": (5, 2.5, 5)}, "a case count is 2.5; give a whole number"),
        ({"case_counts": (5, 5)}, "2 case counts for 3 tasks"),
        ({"channels": (("T1",),)}, "1 channel lists for 3 tasks"),
        ({"labels": (("heart",),)}, "1 label lists for 3 tasks"),
        ({"names": ("x", "y", "x")}, "task x is given more than once"),
    ],
)
def test_a_wrong_input_is_one_line_that_names_it(changes: dict, message: str) -> None:
    """Every mistake is a SequenceError of one line that says what is wrong and where."""
    given = {"names": NAMES, "distances": np.ones((3, 3)), "target": 0, **changes}
    with pytest.raises(SequenceError, match=message) as caught:
        SequenceProblem.checked(**given)
    assert "\n" not in str(caught.value)


def test_evidence_is_distance_and_cases_unless_given() -> None:
    """Without evidence of its own a source is known by its distance to the target and its number of cases."""
    problem = SequenceProblem.checked(NAMES, [[0, 1, 4], [2, 0, np.nan], [1, 1, 0]], 2, (4, 16, 1))
    assert problem.evidence[0] == Evidence(distance=4.0, cases=4)
    assert problem.evidence[1] == Evidence(distance=None, cases=16)
    assert problem.case_counts == (4, 16, 1)
    assert SequenceProblem.checked(NAMES, np.ones((3, 3)), 0).case_counts is None


def test_finished_stages_cost_nothing() -> None:
    """A source stage is paid unless the beginning of the path up to it is trained; the target's always is."""
    constraints = Constraints(source_price=2.0, target_price=1.0, finished=frozenset({(0,), (1, 0)}))
    prices = {(2,): 1.0, (0, 2): 1.0, (1, 2): 3.0, (0, 1, 2): 3.0, (1, 0, 2): 3.0}
    assert {path: constraints.price(path) for path in prices} == prices


def test_rounding_keeps_order_zero_integers_and_infinity() -> None:
    """Rounding for comparison never turns an order round and leaves integers exact."""
    values = np.sort(np.random.default_rng(0).lognormal(0, 8, 2000))
    assert (np.diff(rounded(values)) >= 0).all()
    assert rounded([0.0, 3.0, 123456789.0, np.inf]).tolist() == [0.0, 3.0, 123456789.0, np.inf]
    assert np.allclose(rounded(values), values, rtol=1e-11)

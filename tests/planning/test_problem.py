"""What a sequence problem accepts, and how candidates are ordered."""

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.problem import Candidate, Constraints, SequenceProblem, rounded

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
        ({"distances": [[0, 1], [1]]}, "no table of numbers"),
        ({"distances": [["a"]]}, "no table of numbers"),
        ({"target": 3}, "target 3 is no index"),
        ({"target": -1}, "target -1 is no index"),
        ({"case_counts": (5, 0, 5)}, "Dataset002_B has 0 labelled cases"),
        ({"target": 1.0}, "the target is 1.0; give a whole number"),
        ({"target": np.nan}, "the target is nan; give a whole number"),
        ({"case_counts": (5, np.nan, 5)}, "Dataset002_B has nan labelled cases"),
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


@pytest.mark.parametrize(
    ("option", "value"),
    [("start_scale", -1), ("start_exponent", np.nan), ("hop_exponent", 0), ("unit", 0), ("stage_cost", np.inf)],
)
def test_a_cost_model_refuses_numbers_that_make_no_sense(option: str, value: float) -> None:
    """Parameters that would make costs negative, infinite or undefined are an error that names the parameter."""
    with pytest.raises(SequenceError, match=option.replace("_", " ")):
        CostModel(**{option: value})


def test_the_cost_model_follows_its_formula() -> None:
    """start(n) = c n^-e, hop(d) = (d / unit)^p, no hop where there is no edge; each source's stage adds its cost."""
    problem = SequenceProblem.checked(NAMES, [[0, 1, 4], [2, 0, np.nan], [1, 1, 0]], 2, (4, 16, 1))
    model = CostModel(2.0, 0.5, 2.0, 2.0, 0.25)
    assert model.starts(problem).tolist() == [1.0, 0.5, 2.0]
    hops = model.hops(problem)
    assert hops[0, 1:].tolist() == [0.25, 4.0]
    assert hops[1, 0] == 1.0
    assert np.isinf(hops[1, 2])
    assert np.isinf(np.diag(hops)).all()
    assert model.graph(problem).candidate((0, 2), Constraints()).hop_costs == (4.25,)
    assert model.graph(problem).candidate((0, 2), Constraints(finished=frozenset({(0,)}))).hop_costs == (4.0,)
    assert model.graph(problem).candidate((2,), Constraints()).cost == 2.0


def test_a_candidates_cost_does_not_depend_on_the_order_of_its_parts() -> None:
    """Sums are correctly rounded, so equal parts in another order tie exactly."""
    parts = (0.1, 0.2, 0.3, 0.4, 0.7)
    assert Candidate((0,) * 6, 0.0, parts).cost == Candidate((0,) * 6, 0.0, parts[::-1]).cost


def test_costs_that_differ_by_rounding_alone_tie() -> None:
    """0.1 + 0.2 equals 0.3 for ordering, so that then fewer stages and names decide."""
    names = ("a", "b", "c")
    two, one = Candidate((0, 1, 2), 0.0, (0.1, 0.2)), Candidate((1, 2), 0.0, (0.3,))
    assert two.cost != one.cost
    assert one.order(names) < two.order(names)


def test_rounding_keeps_order_zero_integers_and_infinity() -> None:
    """Rounding for comparison never turns an order round and leaves integers exact."""
    values = np.sort(np.random.default_rng(0).lognormal(0, 8, 2000))
    assert (np.diff(rounded(values)) >= 0).all()
    assert rounded([0.0, 3.0, 123456789.0, np.inf]).tolist() == [0.0, 3.0, 123456789.0, np.inf]
    assert np.allclose(rounded(values), values, rtol=1e-11)

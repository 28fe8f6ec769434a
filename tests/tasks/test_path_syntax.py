"""The syntax of paths: elements, their members, and what users write."""

from __future__ import annotations

from itertools import permutations

import pytest

from nnunet_seqtransfer.errors import DatasetError, Problems, SeqTransferError
from nnunet_seqtransfer.report.words import path_words, short
from nnunet_seqtransfer.tasks import path_syntax
from nnunet_seqtransfer.tasks.path_syntax import PLUS, datasets_on, members, named_path, numbers, whole_path

TARGET = "Dataset004_Target"
A, B, C, ODD = "Dataset021_A", "Dataset022_B", "Dataset023_C", "Dataset050_A+B+7"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {str(int(name[7:10])): name for name in (TARGET, A, B, C, ODD)}

    def find(text: str) -> str:
        if text not in names.values() and text not in names:
            raise DatasetError(f"unknown {text}")
        return names.get(text, text)

    monkeypatch.setattr(path_syntax, "dataset_name", find)
    monkeypatch.setattr(path_syntax, "registered_datasets", lambda: tuple(names.values()))


def test_every_path_is_read_back_from_the_numbers_and_from_the_names_that_it_is_written_by():
    """Round trip over all orders of up to three datasets and all ways to join them, one with a plus in the name."""
    for count in (1, 2, 3):
        for order in permutations((A, B, ODD), count):
            for joints in range(2 ** (count - 1)):
                elements = [order[0]]
                for place, name in enumerate(order[1:]):
                    if joints >> place & 1:
                        elements[-1] += PLUS + name
                    else:
                        elements.append(name)
                path = tuple(elements)
                assert named_path(TARGET, path) == path
                assert named_path(TARGET, [numbers(element) for element in path]) == path
                assert datasets_on(path) == order
                assert whole_path(path, TARGET) == (*path, TARGET)


def test_the_target_may_join_the_last_element_and_comes_first_there():
    """Whatever place it is written at: 21+4 and 4+21 are the same stage, and no element follows it."""
    for written in ("21+4", "4+21", f"{A}+{TARGET}"):
        path = named_path(TARGET, ["22", written])
        assert path == (B, f"{TARGET}+{A}") == whole_path(path, TARGET)
        assert members(path[-1]) == (TARGET, A) and numbers(path[-1]) == "4+21"
    assert named_path(TARGET, ["21", "21+4"]) == (A, f"{TARGET}+{A}"), "a source may train again with the target"
    assert whole_path((), TARGET) == (TARGET,)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (["4"], "among its sources"),
        (["21", "4"], "among its sources"),
        (["21+4", "22"], "among its sources"),
        (["21+21"], f"{A} is named more than once"),
        (["21", "22", "21"], f"{A} is named more than once"),
        (["21+99"], "unknown 99"),
        (["+21"], "unknown "),
        (["21++22"], "unknown "),
    ],
)
def test_what_is_no_path_is_refused(written, problem):
    """The reason names the dataset."""
    with pytest.raises(SeqTransferError, match=problem):
        named_path(TARGET, written)


def test_all_problems_of_a_path_are_reported_together():
    """Two elements, two problems."""
    with pytest.raises(Problems) as caught:
        named_path(TARGET, ["98", "99+21"])
    assert len(caught.value.problems) == 2


def test_joined_datasets_are_printed_by_all_their_numbers():
    """In paths and as names; a target that co-trains from random weights is no scratch."""
    assert path_words((f"{A}+{B}", C, TARGET), " -> ") == "21+22 -> 23 -> 4"
    assert path_words((f"{TARGET}+{A}",)) == "4+21" and path_words((TARGET,)) == "scratch"
    assert short(f"{A}+{B}") == "021 A+022 B"

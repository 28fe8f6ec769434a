"""The study in docs/study: what it trains."""

from __future__ import annotations

from argparse import Namespace
from itertools import permutations, takewhile
from types import ModuleType

import pytest

from support.world import load_script

OPTIONS = Namespace(quick=False, pilot=False, dry_run=False, f=["0"], device="cpu", np=1)


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """The script as a module."""
    return load_script("docs/study/transfers.py")


def paths_of(words: list[str]) -> list[tuple[str, ...]]:
    """Return the paths after -paths, up to the next option."""
    rest = words[words.index("-paths") + 1 :]
    return [tuple(word.split(",")) for word in takewhile(lambda word: not word.startswith("-"), rest)]


@pytest.mark.parametrize("place", [0, 1])
def test_the_parts_of_a_seed_are_every_source_and_every_ordered_pair_once(study: ModuleType, place: int) -> None:
    """Nothing is missing and nothing trained by two parts but scratch, whoever comes first."""
    target = study.TARGETS[place]
    sources = [str(number) for number in target.sources]
    found = [path for words in study.parts(target, 0, OPTIONS) for path in paths_of(words)]
    assert sorted(found) == sorted([*((one,) for one in sources), *permutations(sources, 2)])


def test_parts_differ_from_the_whole_in_the_paths_alone(study: ModuleType) -> None:
    """The last comparison finds every training of the parts: data, recipe and seed are asked for with equal words."""
    target = study.TARGETS[0]
    paths = {"-arms", "-paths", "--wait"}

    def common(words: list[str]) -> list[str]:
        kept, inside = [], False
        for word in words:
            inside = word in paths if word.startswith("-") else inside
            kept += [] if inside else [word]
        return kept

    whole = common(study.compare_options(target, [3], OPTIONS))
    assert all(common(words) == whole for words in study.parts(target, 3, OPTIONS))

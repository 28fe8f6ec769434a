"""Tests of tasks/label_choice.py: label arithmetic against brute force and nnU-Net's own painting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_seqtransfer.tasks.label_choice import LabelChoice, choose_labels


def described(values: dict[str, Any], ignore: int | None = None) -> dict[str, Any]:
    labels = {"background": 0, **values} | ({} if ignore is None else {"ignore": ignore})
    return {"labels": labels, "regions_class_order": [1]}


def holders(value: int, labels: dict[str, Any]) -> set[str]:
    """The classes that a voxel with this value lies in."""
    return {name for name, members in labels.items() if value in (members if isinstance(members, list) else [members])}


def random_families(count: int) -> list[dict[str, set[int]]]:
    """Families of distinct classes over the label values 1 to 5: disjoint, nested, crossing."""
    rng = np.random.default_rng(0)
    families = []
    while len(families) < count:
        sizes = rng.integers(1, 5, size=rng.integers(1, 5))
        family = [frozenset(rng.choice(range(1, 6), size, replace=False).tolist()) for size in sizes]
        if len(set(family)) == len(family):
            families.append({f"c{place}": set(members) for place, members in enumerate(family)})
    return families


def choose(family: dict[str, set[int]], ignore: int | None = None) -> LabelChoice:
    wanted = [f"{name}={'+'.join(map(str, sorted(members)))}" for name, members in family.items()]
    return choose_labels(described({f"old{value}": value for value in range(1, 6)}, ignore), wanted, "D")


def painted(choice: LabelChoice, value: int) -> int:
    """What nnU-Net exports for a voxel that is predicted to lie exactly in the classes of this value."""
    manager = LabelManager(choice.labels, regions_class_order=choice.regions_class_order)
    names = [name for name in choice.labels if name not in ("background", "ignore")]
    inside = holders(value, choice.labels)
    if manager.has_regions:
        scores = [float(name in inside) for name in names]
    else:
        scores = [float(value == label) for label in manager.all_labels]
    return int(manager.convert_probabilities_to_segmentation(np.array(scores)[:, None, None, None]).item())


@pytest.mark.parametrize("ignore", [None, 6])
def test_every_voxel_stays_in_its_classes(ignore: int | None) -> None:
    """A voxel lies in the same classes before and after, by consecutive values that nnU-Net accepts, ignore on top."""
    for family in random_families(200):
        choice = choose(family, ignore)
        for old in range(1, 6):
            assert holders(choice.values[old], choice.labels) - {"background"} == holders(
                old, {name: list(members) for name, members in family.items()}
            )
        manager = LabelManager(choice.labels, regions_class_order=choice.regions_class_order)
        expected = [*map(int, manager.all_labels), *([] if ignore is None else [manager.ignore_label])]
        assert expected == list(range(len(expected))) and set(choice.values.values()) <= set(expected)
        assert manager.has_regions == (sum(map(len, family.values())) > len(set().union(*family.values())))
        assert choice.values[0] == 0 and (ignore is None or choice.values[ignore] == manager.ignore_label)


def test_predictions_keep_their_value_or_it_is_said() -> None:
    """nnU-Net's painting of regions gives every voxel its value back, exactly unless regions are named indistinct."""
    said = []
    for family in random_families(300):
        choice = choose(family)
        exact = all(painted(choice, value) == value for value in set(choice.values.values()) - {0})
        assert exact == (not choice.indistinct), family
        said.append(exact)
    assert 0.1 < np.mean(said) < 0.9, "both kinds occur"


def test_nested_regions_are_always_exact() -> None:
    """Regions that lie inside one another keep every value, in whatever order they are asked for."""
    nested = {"whole": {1, 2, 3, 4}, "core": {1, 3, 4}, "enhancing": {4}, "other": {5}}
    for order in itertools.permutations(nested):
        choice = choose({name: nested[name] for name in order})
        assert not choice.indistinct
        assert [name for name in choice.labels if name in ("whole", "core", "enhancing")] == [
            "whole", "core", "enhancing"
        ]  # fmt: skip


def test_crossing_regions_with_their_overlap_are_exact() -> None:
    """Two regions that cross lose their overlap in one label map, unless it is a label of its own."""
    assert choose({"a": {1, 2}, "b": {2, 3}}).indistinct == ("b",)
    assert choose({"a": {1, 2}, "b": {2, 3}, "both": {2}}).indistinct == ()


@pytest.mark.parametrize(
    ("wanted", "labels", "values"),
    [
        ([], {"background": 0, "GM": 1, "WM": 2, "a+b": 3, "ignore": 4}, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
        (["wm", "GM"], {"background": 0, "WM": 1, "GM": 2, "ignore": 3}, {0: 0, 1: 2, 2: 1, 3: 0, 4: 3}),
        (["brain=GM+2", "a+b"], {"background": 0, "brain": 1, "a+b": 2, "ignore": 3}, {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}),
        (["x=1", "y=2", "z=3"], {"background": 0, "x": 1, "y": 2, "z": 3, "ignore": 4}, {v: v for v in range(5)}),
    ],
)
def test_plain_labels(wanted: list[str], labels: dict[str, int], values: dict[int, int]) -> None:
    """Names, merges by name and by value, and names with a plus in them, as written out here."""
    choice = choose_labels(described({"GM": 1, "WM": 2, "a+b": 3}, ignore=4), wanted, "D")
    assert (choice.labels, choice.values) == (labels, values)
    assert choice.changes_files == (values != {v: v for v in range(5)})


def test_regions_of_the_origin() -> None:
    """A single region of the origin becomes a plain label; all of them named are the origin's, files and all."""
    regions = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    alone = choose_labels(described(regions), ["core"], "D")
    assert alone == LabelChoice({"background": 0, "core": 1}, None, {0: 0, 1: 0, 2: 1, 3: 1})
    everything = choose_labels(described(regions), list(regions), "D")
    assert everything.labels == {"background": 0, **regions} and everything.regions_class_order == (1, 2, 3)
    assert not everything.changes_files

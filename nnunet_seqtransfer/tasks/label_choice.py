"""From labels kept and merged to the labels of a derived dataset: consecutive values, regions where classes overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.nnunet.folders import find_name

_RESERVED = ("background", "ignore")


@dataclass(frozen=True)
class LabelChoice:
    """The labels of a derived dataset, and how the label files of its origin become its own."""

    labels: dict[str, Any]
    "The entry labels of dataset.json: background, the classes, and the ignore label where the origin has one."
    regions_class_order: tuple[int, ...] | None
    "The entry of that name of dataset.json; None where no two classes overlap."
    values: dict[int, int]
    "Label value of the origin -> label value here; 0 where the label is left out."
    indistinct: tuple[str, ...] = ()
    "Regions that hold more than one kind of voxel that nnU-Net's exported label maps cannot tell apart."

    @property
    def changes_files(self) -> bool:
        """Whether any label value changes; where none does, the origin's label files serve as they are."""
        return any(old != new for old, new in self.values.items())


def choose_labels(dataset_json: Mapping[str, Any], wanted: Sequence[str], dataset: str) -> LabelChoice:
    """The labels named in ``wanted``: "edema", "whole=necrosis+edema" or "whole=1+2"; all as they are for none.

    Classes that share no voxel are numbered from 1 in the order given. Classes that overlap become regions: every
    combination of classes that occurs gets one value, and larger regions come first, since nnU-Net paints them in
    this order, each over those before it. The ignore label is kept, with the highest value.

    Raises DatasetError for a label that is unknown, given twice, equal to another, or that holds background.
    """
    old = foreground_labels(dict(dataset_json))
    ignore = dataset_json["labels"].get("ignore")
    known = sorted({value for values in old.values() for value in values} | {0})
    if not wanted:
        order = dataset_json.get("regions_class_order")
        kept = {value: value for value in [*known, *([] if ignore is None else [int(ignore)])]}
        return LabelChoice(dict(dataset_json["labels"]), None if order is None else tuple(order), kept)
    classes = _classes(wanted, old, dataset)
    overlapping = sum(map(len, classes.values())) > len(set().union(*classes.values()))
    choice = _regions(classes) if overlapping else _plain_labels(classes)
    values = {value: choice.values.get(value, 0) for value in known}
    if ignore is None:
        return LabelChoice(choice.labels, choice.regions_class_order, values, choice.indistinct)
    highest = max(choice.values.values()) + 1
    labels = {**choice.labels, "ignore": highest}
    return LabelChoice(labels, choice.regions_class_order, {**values, int(ignore): highest}, choice.indistinct)


def _classes(wanted: Sequence[str], old: Mapping[str, tuple[int, ...]], dataset: str) -> dict[str, frozenset[int]]:
    """Name -> label values of the origin, in the order given."""
    classes: dict[str, frozenset[int]] = {}
    for text in wanted:
        name, values = _class(text, old, dataset)
        if name in classes:
            raise DatasetError(f"the label {name} is asked for twice; name each once in -labels")
        if name.casefold() in _RESERVED or not name:
            raise DatasetError(f"-labels {text!r}: {name!r} is no name for a label; background and ignore stay as is")
        if 0 in values:
            raise DatasetError(f"-labels {text!r} holds the background (label value 0) of {dataset}; leave it out")
        twin = next((other for other in classes if classes[other] == values), None)
        if twin is not None:
            raise DatasetError(f"the labels {twin} and {name} would hold the same voxels; leave one out of -labels")
        classes[name] = values
    return classes


def _class(text: str, old: Mapping[str, tuple[int, ...]], dataset: str) -> tuple[str, frozenset[int]]:
    """Name and label values of one word of -labels; a name of the dataset may itself hold = or +."""
    name, equals, terms = text.partition("=")
    if text in old or not equals:
        found = list(old)[find_name(text, list(old), f"label of {dataset}")]
        return found, frozenset(old[found])
    return name.strip(), frozenset().union(*(_term(term.strip(), old, dataset) for term in terms.split("+")))


def _term(term: str, old: Mapping[str, tuple[int, ...]], dataset: str) -> frozenset[int]:
    """The label values of one part of a merge: a name, or a label value."""
    if term in old or not (term.isascii() and term.isdecimal()):
        return frozenset(old[list(old)[find_name(term, list(old), f"label of {dataset}")]])
    known = {0}.union(*old.values())
    if int(term) not in known:
        listed = ", ".join(f"{value}" for value in sorted(known - {0}))
        raise DatasetError(f"{term} is no label value of {dataset}; choose from: {listed}")
    return frozenset([int(term)])


def _plain_labels(classes: Mapping[str, frozenset[int]]) -> LabelChoice:
    labels = {name: place for place, name in enumerate(classes, start=1)}
    values = {value: labels[name] for name, members in classes.items() for value in members}
    return LabelChoice({"background": 0, **labels}, None, values)


def _regions(classes: Mapping[str, frozenset[int]]) -> LabelChoice:
    """Overlapping classes. Voxels that lie in the same classes are of one kind, and get one value."""
    kinds: dict[frozenset[str], list[int]] = {}
    for value in sorted(set().union(*classes.values())):
        kinds.setdefault(frozenset(name for name in classes if value in classes[name]), []).append(value)
    numbered = {holders: number for number, holders in enumerate(kinds, start=1)}
    members = {name: [number for holders, number in numbered.items() if name in holders] for name in classes}
    ordered = sorted(members, key=lambda name: -len(members[name]))
    order, indistinct = _class_order(ordered, members, numbered)
    labels = {name: members[name] if len(members[name]) > 1 else members[name][0] for name in ordered}
    values = {value: numbered[holders] for holders, group in kinds.items() for value in group}
    return LabelChoice({"background": 0, **labels}, order, values, indistinct)


def _class_order(
    ordered: Sequence[str], members: Mapping[str, list[int]], numbered: Mapping[frozenset[str], int]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The value that nnU-Net paints each region with, and the regions that have more than one value to paint.

    A voxel in several regions ends with the value of the last of them, so a region paints the value of the voxels of
    which it is the last. Regions that hold one another have at most one such value each; of regions that only cross,
    the last one has several, and paints that which lies in the fewest regions.
    """
    last = {number: max(holders, key=ordered.index) for holders, number in numbered.items()}
    width = {number: len(holders) for holders, number in numbered.items()}
    own = {name: [number for number in members[name] if last[number] == name] for name in ordered}
    order = tuple(min(own[name] or members[name], key=lambda number: (width[number], number)) for name in ordered)
    return order, tuple(name for name in ordered if len(own[name]) > 1)

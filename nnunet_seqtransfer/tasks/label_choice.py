"""Choose labels for a derived dataset: consecutive label values, or regions if classes overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import foreground_labels
from nnunet_seqtransfer.nnunet.folders import find_name

_RESERVED = ("background", "ignore")


@dataclass(frozen=True)
class LabelChoice:
    """Labels for a derived dataset, and how label values change."""

    labels: dict[str, Any]
    "Entry labels in dataset.json: background, the classes, and the ignore label if the original has one."
    regions_class_order: tuple[int, ...] | None
    "Entry regions_class_order in dataset.json; None if no classes overlap."
    values: dict[int, int]
    "Original label value -> derived label value; 0 if the label is left out."
    indistinct: tuple[str, ...] = ()
    "Regions with several voxel kinds that nnU-Net's exported label maps cannot distinguish."

    @property
    def changes_files(self) -> bool:
        """Return True if any label value changes; otherwise the original label files can be referenced."""
        return any(old != new for old, new in self.values.items())


def choose_labels(dataset_json: Mapping[str, Any], wanted: Sequence[str], dataset: str) -> LabelChoice:
    """Return the labels named in ``wanted`` ("edema", "whole=necrosis+edema", "whole=1+2"), or all if it is empty.

    Disjoint classes are numbered from 1 in the given order. Overlapping classes become regions: each class
    combination gets one value, and larger regions come first, because nnU-Net paints regions in order, each over the
    previous ones. The ignore label is kept with the highest value.

    Raises DatasetError if a label is unknown, given twice, equal to another, or contains background.
    """
    old = foreground_labels(dict(dataset_json))
    ignore = dataset_json["labels"].get("ignore")
    known = sorted({value for values in old.values() for value in values} | {0})
    if not wanted:
        order = dataset_json.get("regions_class_order")
        kept = {value: value for value in [*known, *([] if ignore is None else [int(ignore)])]}
        return LabelChoice(dict(dataset_json["labels"]), None if order is None else tuple(order), kept)
    classes = _classes(wanted, old, dataset)
    # classes overlap if a label value is counted twice
    overlapping = sum(map(len, classes.values())) > len(set().union(*classes.values()))
    choice = _regions(classes) if overlapping else _plain_labels(classes)
    values = {value: choice.values.get(value, 0) for value in known}
    if ignore is None:
        return replace(choice, values=values)
    # nnU-Net requires the ignore label to be the highest
    highest = max(choice.values.values()) + 1
    return replace(choice, labels={**choice.labels, "ignore": highest}, values={**values, int(ignore): highest})


def _classes(wanted: Sequence[str], old: Mapping[str, tuple[int, ...]], dataset: str) -> dict[str, frozenset[int]]:
    """Return name -> original label values, in the given order."""
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
    """Return name and label values for one -labels word. Names in the dataset may contain = or +."""
    name, equals, terms = text.partition("=")
    if text in old or not equals:
        known = list(old)[find_name(text, list(old), f"label of {dataset}")]
        return known, frozenset(old[known])
    return name.strip(), frozenset().union(*(_term(term.strip(), old, dataset) for term in terms.split("+")))


def _term(term: str, old: Mapping[str, tuple[int, ...]], dataset: str) -> frozenset[int]:
    """Return the label values for one merge term, a name or a label value."""
    if term in old or not (term.isascii() and term.isdecimal()):
        return frozenset(old[list(old)[find_name(term, list(old), f"label of {dataset}")]])
    known = {0}.union(*old.values())
    if int(term) not in known:
        listed = ", ".join(f"{value}" for value in sorted(known - {0}))
        raise DatasetError(f"{term} is no label value of {dataset}; choose from: {listed}")
    return frozenset([int(term)])


def _plain_labels(classes: Mapping[str, frozenset[int]]) -> LabelChoice:
    labels = {name: number for number, name in enumerate(classes, start=1)}
    values = {value: labels[name] for name, members in classes.items() for value in members}
    return LabelChoice({"background": 0, **labels}, None, values)


def _regions(classes: Mapping[str, frozenset[int]]) -> LabelChoice:
    """Number the voxel kinds: voxels that lie in the same classes get one value."""
    kinds: dict[frozenset[str], list[int]] = {}
    for value in sorted(set().union(*classes.values())):
        kinds.setdefault(frozenset(name for name in classes if value in classes[name]), []).append(value)
    numbered = {holders: number for number, holders in enumerate(kinds, start=1)}
    members = {name: [number for holders, number in numbered.items() if name in holders] for name in classes}
    # nnU-Net paints in this order, so that small regions stay visible
    ordered = sorted(members, key=lambda name: -len(members[name]))
    order, indistinct = _class_order(ordered, members, numbered)
    labels = {name: members[name] if len(members[name]) > 1 else members[name][0] for name in ordered}
    values = {value: numbered[holders] for holders, group in kinds.items() for value in group}
    return LabelChoice({"background": 0, **labels}, order, values, indistinct)


def _class_order(
    ordered: Sequence[str], members: Mapping[str, list[int]], numbered: Mapping[frozenset[str], int]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the value that nnU-Net paints each region with, and the regions that would need several values.

    A voxel in several regions keeps the last region's value, so a region paints the value for voxels in which it is
    the last. Nested regions have at most one such value each. If regions cross, the last one has several, and paints
    the value that lies in the fewest regions.
    """
    last = {number: max(holders, key=ordered.index) for holders, number in numbered.items()}
    width = {number: len(holders) for holders, number in numbered.items()}
    own = {name: [number for number in members[name] if last[number] == name] for name in ordered}
    order = tuple(min(own[name] or members[name], key=lambda number: (width[number], number)) for name in ordered)
    return order, tuple(name for name in ordered if len(own[name]) > 1)

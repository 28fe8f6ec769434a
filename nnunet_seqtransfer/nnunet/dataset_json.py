"""Find what is wrong in a dataset.json, by the rules of nnU-Net's LabelManager and integrity check."""

from collections.abc import Iterator
from typing import Any

_TEXT = "regions with values as text, which nnU-Net's training does not find in label files"


def dataset_json_problems(content: dict[str, Any]) -> Iterator[str]:
    """Yield each problem as words that follow "it has"."""
    yield from _channel_problems(content.get("channel_names", content.get("modality")))
    yield from _label_problems(content)
    if not isinstance(content.get("file_ending"), str):
        yield "no file_ending"
    if not isinstance(content.get("numTraining"), int):
        yield "no numTraining"


def _channel_problems(channels: Any) -> Iterator[str]:
    if not isinstance(channels, dict) or not channels:
        yield "no channel_names"
    elif not all(str(key).isdecimal() for key in channels):
        yield "channel_names whose keys are no numbers"
    elif not all(isinstance(name, str) for name in channels.values()):
        yield "channel_names that are no text"


def _label_problems(content: dict[str, Any]) -> Iterator[str]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or _whole(labels.get("background")) != 0:
        yield "labels without background 0"
        return
    values = {name: _values(value) for name, value in labels.items() if name != "ignore"}
    wrong = [name for name, numbers in values.items() if not numbers]
    if wrong:
        yield f"labels that are no whole numbers ({', '.join(f'{name}: {labels[name]!r}' for name in wrong)})"
        return
    used = sorted({number for numbers in values.values() for number in numbers})
    if used == [0]:
        yield "no label but background"
        return
    lacking = sorted(set(range(used[-1])) - set(used))
    if lacking:
        yield (
            f"labels that are not consecutive (values {_listed(used)} without {_listed(lacking)}; the label files must "
            "be renumbered too)"
        )
    yield from _ignore_problems(labels.get("ignore"), used[-1])
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        yield from _region_problems(labels, values, content.get("regions_class_order"))


def _ignore_problems(ignore: Any, highest: int) -> Iterator[str]:
    # nnU-Net converts the other labels with int(), this one must be a number already
    if ignore is not None and (not isinstance(ignore, int) or ignore != highest + 1):
        yield f"the ignore label {ignore!r} instead of {highest + 1}, one above the highest label"


def _region_problems(labels: dict[str, Any], values: dict[str, tuple[int, ...]], order: Any) -> Iterator[str]:
    parts = [part for value in labels.values() for part in (value if isinstance(value, list) else [value])]
    if any(isinstance(part, str) for part in parts):
        yield _TEXT
    regions = [name for name, numbers in values.items() if set(numbers) != {0}]
    if not isinstance(order, list):
        yield "regions, but no regions_class_order"
    elif len(order) != len(regions):
        yield f"a regions_class_order of length {len(order)} for {len(regions)} regions ({', '.join(regions)})"


def _values(value: Any) -> tuple[int, ...]:
    """Return the label values of one label or region, or nothing if any is no whole number from 0."""
    numbers = [_whole(part) for part in (value if isinstance(value, list) else [value])]
    return tuple(number for number in numbers if number is not None) if None not in numbers else ()


def _whole(value: Any) -> int | None:
    """Return a label value as nnU-Net's int() does, or None if it is negative or int() would change it."""
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else None
    is_whole = isinstance(value, int | float) and value >= 0 and float(value).is_integer()
    return int(value) if is_whole else None


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

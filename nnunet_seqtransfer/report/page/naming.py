"""How datasets, numbers and paths are written on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_seqtransfer.nnunet.folders import DATASET_NAME

ARROW = " \N{RIGHTWARDS ARROW} "
MISSING = "\N{EN DASH}"


def short(dataset: str) -> str:
    """ "023 OasisCaudate" for Dataset023_OasisCaudate; other names as they are."""
    return dataset.removeprefix("Dataset").replace("_", " ", 1) if DATASET_NAME.fullmatch(dataset) else dataset


def digits(dataset: str) -> str:
    """ "023" for Dataset023_OasisCaudate; other names as they are."""
    match = DATASET_NAME.fullmatch(dataset)
    return match[1] if match else dataset


def path_words(path: Sequence[str]) -> str:
    """A path, the target last: by numbers, or "scratch"."""
    return ARROW.join(digits(name) for name in path) if len(path) > 1 else "scratch"


def arrows(name: str) -> str:
    """A path as the commands print it, with arrows."""
    return name.replace(" -> ", ARROW)


def decimals(value: float, places: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return f"{value:.{places}f}" if math.isfinite(value) else MISSING


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 case", "12 cases"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """ "A", "A and B", "A, B and C"."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def interval(middle: float, low: float, high: float, sign: str = "") -> str:
    """A value with its 95 % interval in brackets, where there is one; ``sign``: "+" to write it always."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{middle:{sign}.3f}"
    return f"{middle:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

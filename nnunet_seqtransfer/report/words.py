"""Write names, paths, numbers, counts, durations, tables and file names alike in text and page."""

import math
import re
from collections.abc import Mapping, Sequence

from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, preprocessed_folder, raw_folder, results_folder
from nnunet_seqtransfer.tasks.path_syntax import PLUS, datasets_on, members, numbers

ARROW = " \N{RIGHTWARDS ARROW} "
MISSING = "\N{EN DASH}"
_FOLDERS = re.compile(r"(?<![\w./\\])(?:[A-Za-z]:)?[/\\](?=[^\s/\\])(?:(?:[^/\\:;,'\"()]*[^\s/\\:;,'\"()])[/\\])*")
"""The folders in an absolute path. They may hold spaces: rather cut a word too many than show a folder."""


def short(dataset: str) -> str:
    """Return "023 OasisCaudate" for Dataset023_OasisCaudate, and other names unchanged."""
    if not DATASET_NAME.fullmatch(dataset):
        return dataset
    return PLUS.join(name.removeprefix("Dataset").replace("_", " ", 1) for name in members(dataset))


def number(dataset: str) -> str:
    """Return "23" for Dataset023_OasisCaudate, "23*" for a ready model of it, "21+22" for datasets that train together.

    Other names are returned unchanged.
    """
    star = "*" * dataset.endswith("*")
    return numbers(dataset) + star if DATASET_NAME.fullmatch(dataset) else dataset


def path_words(path: Sequence[str], arrow: str = ARROW) -> str:
    """Return a path by dataset numbers, such as "21 → 24 → 4", or "scratch" if it holds only the target."""
    return arrow.join(number(name) for name in path) if len(datasets_on(path)) > 1 else "scratch"


def mixed_words(shares: Mapping[str, float]) -> str:
    """Return what a stage trains on besides its own dataset, such as " + 25 % 21", given shares of the batches."""
    return "".join(f" + {percent(share)} {number(name)}" for name, share in shares.items())


def arrows(name: str) -> str:
    """Replace "->" in names and commands by arrows."""
    return name.replace(" -> ", ARROW)


def decimals(value: float | None, places: int = 3, missing: str = MISSING, sign: str = "") -> str:
    """Return a number with fixed decimals, or ``missing`` if it is unknown; ``sign="+"`` also writes positive signs.

    Numbers from 1000 on have four significant digits.
    """
    if value is None or not math.isfinite(value):
        return missing
    return f"{value:{sign}.{places}f}" if abs(value) < 1000 else f"{value:{sign}.4g}"


def percent(share: float) -> str:
    """Return a share from 0 to 1 as "83 %", never rounded to 0 or 100 if it is neither."""
    whole = round(100 * share)
    if share < 1 <= whole / 100:
        return "over 99 %"
    return "under 1 %" if whole == 0 < share else f"{whole} %"


def span(low: float | None, high: float | None, missing: str = "", places: int = 3, sign: str = "") -> str:
    """Return both ends of an interval, or ``missing`` if one is unknown."""
    ends = [decimals(end, places, "", sign) for end in (low, high)]
    return " to ".join(ends) if all(ends) else missing


def interval(middle: float, low: float | None, high: float | None, sign: str = "", places: int = 3) -> str:
    """Return a value with the 95 % interval in brackets if known."""
    known = span(low, high, "", places, sign)
    return decimals(middle, places, sign=sign) + (f" ({known})" if known else "")


def counted(count: int, noun: str) -> str:
    """Return "1 case" or "12 cases"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str]) -> str:
    """Return "A", "A and B", or "A, B and C"."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def duration(seconds: float) -> str:
    """Return seconds as text for people: "45 s", "12 min", "7.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def hours(value: float) -> str:
    """Return hours with two significant digits below 10, so that short CPU trainings are not "0.0"."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def sentence(text: str) -> str:
    """Return text as one sentence: upper case first letter, full stop."""
    line = " ".join(text.split()).rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def without_folders(text: str) -> str:
    """Shorten absolute paths, since pages are mailed: nnU-Net's folders by variable name, others to the last part."""
    folders = {"nnUNet_raw": raw_folder, "nnUNet_preprocessed": preprocessed_folder, "nnUNet_results": results_folder}
    roots = {str(folder()): name for name, folder in folders.items()}
    for root in sorted(roots, key=len, reverse=True):  # one folder may lie inside another
        text = re.sub(rf"{re.escape(root)}(?![\w.-])", roots[root], text)
    return _FOLDERS.sub("", text)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [str.rjust if all(map(is_number, column[1:])) else str.ljust for column in columns]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ([align(cell, width) for cell, width, align in zip(line, widths, aligned, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def is_number(text: str) -> bool:
    """Return True if a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True

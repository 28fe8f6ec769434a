"""Comparisons of a run's paths: which there are, on the folds and on test sets, and what the page shows of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.evaluation.comparison import Comparison, comparison_path
from nnunet_seqtransfer.report.comparison_text import evaluated_on
from nnunet_seqtransfer.report.page.naming import counted, short
from nnunet_seqtransfer.report.page.paired import paired_plots
from nnunet_seqtransfer.report.page.result_tables import comparison_tables
from nnunet_seqtransfer.training.run_record import Run


def find_comparisons(run: Run, read: Callable[[Path], Comparison | None]) -> tuple[Comparison, ...]:
    """The comparisons of this run's paths: that on the folds, then those on test sets by their numbers.

    They are kept under the run's tag, or, where a comparison trained it, under that's, which trains with ``longN`` and
    ``seedN`` behind its own tag.

    ``read``: of a file; None where there is none or it cannot be read.
    """
    own = re.sub(r"(^|_)(long\d+_)?seed\d+$", "", run.request.tag or "") or None
    for tag in dict.fromkeys((run.request.tag, own)):
        path = comparison_path(run.request.target, run.request.plans, run.request.configuration, tag)
        on_folds, others = read(path), [read(other) for other in _on_test_sets(path)]
        # Test sets come behind the tag in the name of a folder, where a tag may read like one.
        found = [on_folds] if on_folds is not None and test_set(on_folds) is None else []
        found += [other for other in others if other is not None and test_set(other) is not None]
        if found:
            return tuple(found)
    return ()


def test_set(comparison: Comparison) -> str | None:
    """Name of the test set that it was evaluated on; None for the folds."""
    return comparison.test_set


def section(comparison: Comparison, place: int) -> dict[str, Any]:
    """Heading, words, paired plots and tables of the comparison at ``place`` on the page, from 0."""
    name = test_set(comparison)
    state = "complete" if comparison.complete else "not complete yet"
    arms, seeds = counted(len(comparison.arms), "path"), counted(len(comparison.seeds), "seed")
    return {
        "anchor": "comparison" if place == 0 else f"comparison-{place + 1}",
        "entry": "Comparison" if name is None else f"Comparison on {short(name)}",
        "heading": "Comparison with other paths" + ("" if name is None else f" on the test set {name}"),
        "words": f"{arms} to this target, trained alike with {seeds}; {state}. Scores are of "
        f"{evaluated_on(comparison)}.",
        "plots": paired_plots(comparison),
        "tables": comparison_tables(comparison),
    }


def _on_test_sets(path: Path) -> list[Path]:
    """The records on test sets that lie beside the one on the folds."""
    mark = f"{path.parent.name}_test"
    folders = path.parent.parent.iterdir() if path.parent.parent.is_dir() else ()
    numbers = {
        int(number): folder
        for folder in folders
        if folder.name.startswith(mark) and (number := folder.name.removeprefix(mark)).isdecimal()
    }
    return [numbers[number] / path.name for number in sorted(numbers)]

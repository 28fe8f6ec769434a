"""Measured transfers: what was known of the sources before, and the Dice that came of it. Gains are fitted on them."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import read_dataclass, write_dataclass

KIND, FORMAT = "measured transfers", 1
SHIPPED = Path(__file__).parent / "data" / "measured.json"
"""The table that comes with this package, made by docs/study/fit_gain.py."""
SHIPPED_CASES = 6
"""Most labelled cases of a target in the shipped table. Gains shrink with more cases; how fast was not measured."""


@dataclass(frozen=True)
class Evidence:
    """Evidence about a source for one target. Unknown parts are None or empty and do not enter a prediction."""

    components: dict[str, float] = field(default_factory=dict)
    "Component of the distance -> length from the source to the target, 0 or more."
    distance: float | None = None
    "Distance from the source to the target, 0 or more; used if the components were never measured."
    label_match: float | None = None
    "Fit between the labels by name, 0 to 1 (see `affinity.name_match`)."
    channel_match: float | None = None
    "Fit between the channels by name, 0 to 1."
    zero_shot: float | None = None
    "Dice of the source's own network on the target's labelled cases, 0 to 1."
    track_record: float | None = None
    "Mean rank of the source among the sources of other targets, 0 (worst) to 1 (best)."
    track_targets: int = 0
    "Targets that the track record is the mean of."
    cases: int | None = None
    "Labelled cases of the source. They break ties, nothing else."


@dataclass(frozen=True)
class MeasuredSource:
    """The evidence on a source before a transfer, with the components of several metrics."""

    components: dict[str, dict[str, float]] = field(default_factory=dict)
    "Name of a metric -> components of the distance to the target that gains are predicted from."
    label_match: float | None = None
    "As in `Evidence`."
    channel_match: float | None = None
    "As in `Evidence`."
    zero_shot: float | None = None
    "As in `Evidence`."
    cases: int | None = None
    "As in `Evidence`."

    def evidence(self, metric: str) -> Evidence:
        """Return the evidence with the components of one metric, without a track record."""
        return Evidence(
            components=self.components.get(metric, {}),
            label_match=self.label_match,
            channel_match=self.channel_match,
            zero_shot=self.zero_shot,
            cases=self.cases,
        )


@dataclass(frozen=True)
class MeasuredTransfer:
    """The Dice that a path reached, next to scratch of equal target epochs."""

    target: str
    "Name of the target."
    sources: tuple[str, ...]
    "Names of the sources in training order; none if scratch was trained longer."
    evidence: tuple[MeasuredSource, ...]
    "One entry for each source."
    scratch: float
    "Dice of the target trained from scratch, 0 to 1."
    dice: float
    "Dice after the path, 0 to 1."
    iterations: int = 0
    "Iterations on the target, of scratch and after the sources; 0 if unknown."
    length: float = 1.0
    "Iterations on the target as a multiple of those of scratch; above 1 only without sources."
    own: bool = False
    "True for the user's own runs."

    @property
    def gain(self) -> float:
        """Dice gained over scratch."""
        return self.dice - self.scratch


@dataclass(frozen=True)
class MeasuredTable:
    """Measured transfers as they are kept in a file."""

    name: str
    "Name for reports: the shipped study, or the stem of the user's file."
    rows: tuple[MeasuredTransfer, ...] = field(repr=False)
    "One row for each path and target."
    version: str = __version__
    "Version of this package that wrote the table."


def track_records(rows: tuple[MeasuredTransfer, ...], without: str) -> dict[str, tuple[float, int]]:
    """Return the mean rank, 0 to 1, and the number of targets of each source over all targets but ``without``.

    The rank of a source for a target is the share of that target's other single sources that did not do better.
    """
    by_target: dict[str, dict[str, float]] = {}
    for row in rows:
        if len(row.sources) == 1 and row.target != without:
            by_target.setdefault(row.target, {})[row.sources[0]] = row.dice
    ranks: dict[str, list[float]] = {}
    for found in by_target.values():
        for source, dice in found.items():
            if len(found) > 1:
                others = sum(other <= dice for name, other in found.items() if name != source)
                ranks.setdefault(source, []).append(others / (len(found) - 1))
    return {source: (sum(values) / len(values), len(values)) for source, values in ranks.items()}


def write_table(path: Path, table: MeasuredTable) -> None:
    """Write measured transfers."""
    write_dataclass(path, KIND, FORMAT, table, compact=True)


def read_table(path: Path) -> MeasuredTable:
    """Return the measured transfers in a file.

    Raises RecordError if the file is missing, damaged, edited, newer, or has a row that does not make sense.
    """
    remedy = "run nnUNetv2_seq_calibrate again"
    table = read_dataclass(path, MeasuredTable, KIND, FORMAT, remedy)
    for number, row in enumerate(table.rows, start=1):
        if len(row.evidence) != len(row.sources) or not (0 <= row.scratch <= 1 and 0 <= row.dice <= 1):
            raise RecordError(f"row {number} of the measured transfers does not make sense: {path}; {remedy}")
    return table


@lru_cache(maxsize=1)
def shipped_table() -> MeasuredTable:
    """Return the measured transfers that come with this package."""
    return read_table(SHIPPED)

"""Run record: the request, the devices and the stages, so that any process can continue it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import RecordError, StageError
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, own_command, results_folder
from nnunet_seqtransfer.storage import from_json, read_record, to_json, write_record
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.recipe import MixedDataset, Recipe
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import ChainRequest, Role, Stage, previous_stage

if TYPE_CHECKING:
    from nnunet_seqtransfer.training.decide import Outlook

RUN_FORMAT = 4
"""Format 2 called the pretrained model landmark, and could share source stages with another target (sources_for).
Format 3 is still written if no stage is mixed, so that older versions refuse only what they cannot train."""
RECORD, REPORT = "run.json", "report.html"
_REMEDY = "run the nnUNetv2_seq_train command of this run again, which rewrites it"


@dataclass(frozen=True)
class StageEntry:
    """One stage in a run, by the names that it has on disk."""

    key: str
    "Identifier that the commands take: DATASET/PLANS/fold_K."
    dataset: str
    "Dataset that the stage's network and plans are for."
    plans_name: str
    "Plans name."
    fold: str
    "Fold: a number or all."
    output: str
    "Fold's results folder, relative to nnUNet_results."
    after: str | None
    "Key for the stage that hands weights to this one; None for the first stage."
    recipe: Recipe
    "Recipe for the stage."
    excluded: tuple[str, ...] = ()
    "Cases in `dataset` that are excluded from training."
    mixed: tuple[MixedDataset, ...] = ()
    "Further datasets; the block in the plans file has their channels and heads too."

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return all datasets that the stage trains on, its own first."""
        return (self.dataset, *self.shares)

    @property
    def shares(self) -> dict[str, float]:
        """Return further dataset -> share of the batches."""
        return {one.dataset: one.share for one in self.mixed}

    @property
    def excluded_count(self) -> int:
        """Return the number of excluded cases in all datasets."""
        return len(self.excluded) + sum(len(one.excluded) for one in self.mixed)

    @property
    def files(self) -> StageFiles:
        """Return all file names."""
        return StageFiles(results_folder() / self.output)


@dataclass(frozen=True)
class Run:
    """A recorded run."""

    folder: Path
    "Run folder below nnUNet_results."
    version: str
    "Package version that wrote the record."
    started: str
    "Last write time: ISO 8601, UTC."
    request: ChainRequest
    "Chain to train."
    options: DeviceOptions
    "Devices to train on."
    processes: int
    "Worker processes for preprocessing."
    stages: tuple[StageEntry, ...]
    "All stages in order."

    @property
    def name(self) -> str:
        """Return TARGET/NAME, by which the commands know the run."""
        return run_name(self.folder)

    def role(self, entry: StageEntry) -> Role:
        """Return whether a stage is a source or the target."""
        return "target" if entry.dataset == self.request.target else "source"


def run_name(folder: Path) -> str:
    """Return TARGET/NAME for the run that is recorded in ``folder``."""
    return f"{folder.parents[1].name}/{folder.name}"


def run_folder(request: ChainRequest, stages: tuple[Stage, ...]) -> Path:
    """Return the folder for a chain's record and logs."""
    name = f"{stages[-1].plans_name}_{request.configuration}"
    return results_folder() / request.target / SEQTRANSFER_FOLDER / name


def stage_command(outlook: Outlook, stage: Stage, processes: int, *options: str, wait: bool) -> tuple[str, ...]:
    """Return the command that does one stage in a recorded run, from the record alone."""
    command = [own_command("continue"), run_name(outlook.folder), "-stage", stage.key, *["--wait"] * wait]
    return (*command, "-np", str(processes), *options)


def write_run(
    request: ChainRequest,
    stages: tuple[Stage, ...],
    options: DeviceOptions,
    processes: int,
    before_replacing: Callable[[Path], None] | None = None,
) -> Run:
    """Record a run and return it. Folds from earlier calls stay part of it if nothing else has changed.

    If anything else has changed, the earlier record is replaced. ``before_replacing`` is then called with the run's
    folder before, and may raise.
    """
    folder = run_folder(request, stages)
    with locked_in_turn(folder / f".{RECORD}.lock", f"the record {folder / RECORD}", lambda _: None):
        folds, entries = request.folds, tuple(_entry(stages, stage) for stage in stages)
        earlier = None
        with suppress(RecordError):  # there is none, or it cannot be read
            earlier = read_run(folder)
        if earlier is not None and replace(earlier.request, folds=folds) == request:
            known = {entry.key for entry in entries}
            entries = (*entries, *(entry for entry in earlier.stages if entry.key not in known))
            folds = tuple(dict.fromkeys((*earlier.request.folds, *folds)))
        elif earlier is not None and before_replacing is not None:
            before_replacing(folder)
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run = Run(folder, __version__, started, replace(request, folds=folds), options, processes, entries)
        content = to_json(run)
        del content["folder"]  # folders may be moved
        write_record(folder / RECORD, "run", RUN_FORMAT if any(entry.mixed for entry in entries) else 3, content)
    return run


def read_run(folder: Path) -> Run:
    """Return the run recorded in ``folder``. Raises RecordError if the record is missing, damaged or newer."""
    path = folder / RECORD
    content = read_record(path, "run", RUN_FORMAT, _REMEDY)
    try:
        request = content["request"]
        if request.get("sources_for") not in (None, request["target"]):
            raise RecordError(
                f"the run shares source stages with {request['sources_for']}, which this version does not support: "
                f"{path}; continue it with version 0.1.0"
            )
        if "landmark" in request:  # format 2
            request["pretrained"] = request.pop("landmark")
        return from_json({**content, "folder": str(folder)}, Run)
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise RecordError(f"the run file does not match this version ({error}): {path}; {_REMEDY}") from None


def find_runs() -> Iterator[Path]:
    """Yield all run folders below nnUNet_results, sorted."""
    yield from sorted(path.parent for path in results_folder().glob(f"*/{SEQTRANSFER_FOLDER}/*/{RECORD}"))


def find_run(*words: str) -> Path:
    """Return a run's folder: the newest that all words fit.

    The first word is a folder, the name (TARGET/NAME, NAME alone or the plans name) or the target (name or number);
    further words are configurations, folds and plans names.

    Raises StageError that lists runs if no run fits, or runs of several targets do.
    """
    runs, given = list(find_runs()), Path(words[0])
    if (given / RECORD).is_file():  # return it as `find_runs` names it: other records go by those names
        same = (folder for folder in runs if folder.is_dir() and folder.samefile(given))
        return next(same, given.resolve())
    fitting = [folder for folder in runs if _fits(folder, words)]
    if len({folder.parents[1] for folder in fitting}) == 1:
        return max(fitting, key=lambda folder: (folder / RECORD).stat().st_mtime_ns)
    listed = ", ".join(run_name(folder) for folder in (fitting or runs)[:10]) or "none"
    asked = " ".join(words)
    reason = f"several targets have a run {asked!r}" if fitting else f"there is no run {asked!r}"
    raise StageError(f"{reason}; give one of: {listed}")


def _fits(folder: Path, words: Sequence[str]) -> bool:
    first, *others = words
    target = folder.parents[1].name
    names, known = {target, folder.name, run_name(folder)}, {folder.name}
    with suppress(RecordError):
        run = read_run(folder)
        plans = {entry.plans_name for entry in run.stages if run.role(entry) == "target"}
        names, known = names | plans, known | plans | {run.request.configuration, *run.request.folds}
    is_number = first.isdecimal() and target.startswith(f"Dataset{int(first):03d}_")
    return (is_number or first in names) and known.issuperset(others)


def _entry(stages: tuple[Stage, ...], stage: Stage) -> StageEntry:
    previous = previous_stage(stages, stage)
    return StageEntry(
        key=stage.key,
        dataset=stage.dataset,
        plans_name=stage.plans_name,
        fold=stage.fold,
        output=str(stage.output.relative_to(results_folder())),
        after=previous.key if previous else None,
        recipe=stage.recipe,
        excluded=stage.excluded,
        mixed=stage.mixed,
    )

"""The record of a run: everything that was asked for, so that any process can go on with it, and its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import RecordError, StageError
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, own_command, results_folder
from nnunet_seqtransfer.storage import read_record, write_record
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, Stage
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

if TYPE_CHECKING:
    from nnunet_seqtransfer.training.chain import Chain

RUN_FORMAT = 2
RECORD = "run.json"
_REMEDY = "run the nnUNetv2_seq_train command of this run again, which writes it anew"


@dataclass(frozen=True)
class StageEntry:
    """One stage of a run, by the names that it has on disk."""

    key: str
    "DATASET/PLANS/fold_K, which the commands take."
    dataset: str
    "The dataset that it trains on."
    plans_name: str
    "Name of its plans."
    fold: str
    "Its fold."
    output: str
    "Its results folder, relative to nnUNet_results."
    after: str | None
    "The key of the stage whose weights it starts from."
    recipe: Recipe
    "How it is trained."
    excluded: tuple[str, ...]
    "Cases that it is trained without."


@dataclass(frozen=True)
class Run:
    """A run as it is recorded."""

    folder: Path
    "Its folder below nnUNet_results."
    version: str
    "Of this package, which wrote the record."
    started: str
    "When the record was written last: ISO 8601, UTC."
    request: ChainRequest
    "What is to be trained."
    options: DeviceOptions
    "Where."
    processes: int
    "Worker processes for preprocessing."
    stages: tuple[StageEntry, ...]
    "All stages in their order."

    @property
    def name(self) -> str:
        """TARGET/NAME, by which the commands know it."""
        return run_name(self.folder)


def run_name(folder: Path) -> str:
    """TARGET/NAME of the run that is recorded in ``folder``."""
    return f"{folder.parents[1].name}/{folder.name}"


def stage_command(chain: Chain, stage: Stage, processes: int, *options: str, wait: bool) -> tuple[str, ...]:
    """Return the command that does one stage of a recorded run, from the record alone."""
    command = [own_command("continue"), run_name(chain.folder), "-stage", stage.key, *["--wait"] * wait]
    return (*command, "-np", str(processes), *options)


def write_run(
    chain: Chain, options: DeviceOptions, processes: int, before_replacing: Callable[[Path], None] | None = None
) -> None:
    """Records a run; folds that were asked for in earlier calls, and nothing else having changed, stay part of it.

    Where something else has changed the earlier record is replaced; ``before_replacing`` is called with its folder, and
    may raise.
    """
    path = chain.folder / RECORD
    with locked_in_turn(path.with_name(f".{RECORD}.lock"), f"the record {path}", lambda _: None):
        folds, entries = chain.request.folds, tuple(_entry(chain, stage) for stage in chain.stages)
        earlier = _earlier(path)
        if earlier is not None and replace(earlier.request, folds=folds) == chain.request:
            known = {entry.key for entry in entries}
            entries = (*entries, *(entry for entry in earlier.stages if entry.key not in known))
            folds = tuple(dict.fromkeys((*earlier.request.folds, *folds)))
        elif earlier is not None and before_replacing is not None:
            before_replacing(path.parent)
        content = {
            "version": __version__,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "request": _request_content(replace(chain.request, folds=folds)),
            "options": asdict(options),
            "processes": processes,
            "stages": [{**asdict(entry), "excluded": list(entry.excluded)} for entry in entries],
        }
        write_record(path, "run", RUN_FORMAT, content)


def read_run(folder: Path) -> Run:
    """The run recorded in ``folder``. Raises RecordError where its record is missing, damaged or older."""
    path = folder / RECORD
    content = read_record(path, "run", RUN_FORMAT, _REMEDY)
    try:
        return Run(
            folder=folder,
            version=content["version"],
            started=content["started"],
            request=_read_request(content["request"]),
            options=DeviceOptions(**content["options"]),
            processes=content["processes"],
            stages=tuple(_read_entry(entry) for entry in content["stages"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(f"the run file is of an older version ({error} is missing): {path}; {_REMEDY}") from None


def find_runs() -> Iterator[Path]:
    """The folders of all runs below nnUNet_results, sorted."""
    yield from sorted(path.parent for path in results_folder().glob(f"*/{SEQTRANSFER_FOLDER}/*/{RECORD}"))


def find_run(name: str) -> Path:
    """The folder of a run, from its name (TARGET/NAME, or NAME alone where it is unique) or its path.

    Raises StageError, naming what there is, where no run or more than one is called that.
    """
    runs = list(find_runs())
    given = Path(name)
    if (given / RECORD).is_file():  # under whatever name: what is kept of the runs goes by the names of `find_runs`
        same = (folder for folder in runs if folder.is_dir() and folder.samefile(given))
        return next(same, given.resolve())
    found = [folder for folder in runs if name in (run_name(folder), folder.name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(run_name(folder) for folder in (found or runs)[:10]) or "none"
    reason = f"{len(found)} runs are called {name!r}" if found else f"there is no run {name!r}"
    raise StageError(f"{reason}; give one of: {listed}")


def _entry(chain: Chain, stage: Stage) -> StageEntry:
    previous = chain.previous(stage)
    return StageEntry(
        key=stage.key,
        dataset=stage.dataset,
        plans_name=stage.plans_name,
        fold=stage.fold,
        output=str(stage.output.relative_to(results_folder())),
        after=previous.key if previous else None,
        recipe=stage.recipe,
        excluded=stage.excluded,
    )


def _read_entry(content: Mapping[str, Any]) -> StageEntry:
    changed = {"recipe": Recipe(**content["recipe"]), "excluded": tuple(content["excluded"])}
    return StageEntry(**{**content, **changed})


def _request_content(request: ChainRequest) -> dict[str, Any]:
    content = asdict(request)
    if request.landmark is not None:
        content["landmark"] |= {"file": str(request.landmark.file)}
    return content


def _read_request(content: Mapping[str, Any]) -> ChainRequest:
    # Version 0.1.0 also recorded another target whose source stages were shared, which is not possible any more.
    content = {name: value for name, value in content.items() if name != "sources_for"}
    landmark = content["landmark"]
    changed = {
        "sources": tuple(content["sources"]),
        "folds": tuple(content["folds"]),
        "source_recipe": Recipe(**content["source_recipe"]),
        "source_recipes": tuple(Recipe(**recipe) for recipe in content["source_recipes"]),
        "target_recipe": Recipe(**content["target_recipe"]),
        "compared": {source: tuple((a, b) for a, b in pairs) for source, pairs in content["compared"].items()},
        "landmark": PretrainedModel(**{**landmark, "file": Path(landmark["file"])}) if landmark is not None else None,
    }
    return ChainRequest(**{**content, **changed})


def _earlier(path: Path) -> Run | None:
    """The run that is recorded there, or None where there is none that can be read: it is only added to."""
    try:
        return read_run(path.parent)
    except RecordError:
        return None

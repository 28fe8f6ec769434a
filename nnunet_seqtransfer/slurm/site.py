"""What a site's Slurm wants to be told: options of sbatch, checked by their names before anything is submitted."""

from __future__ import annotations

import configparser
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer.errors import SeqTransferError

Work = Literal["train", "affinity"]
VALUED = frozenset(
    name
    for names in (
        "account acctg-freq batch bb bbf begin cluster-constraint comment constraint container core-spec",
        "cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot exclude gpu-bind gpu-freq",
        "gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint licenses mail-type mail-user",
        "mcs-label mem mem-bind mem-per-cpu mem-per-gpu network nice nodefile nodelist partition power prefer",
        "priority profile propagate qos reservation sockets-per-node switches threads-per-core time time-min",
        "tmp wckey",
    )
    for name in names.split()
)
"""Long options of sbatch that take a value and say where and how a job runs."""
SWITCHES = frozenset(("exclusive", "hold", "oversubscribe", "overcommit", "contiguous", "use-min-nodes"))
"""Those that need none."""
OWN: Mapping[str, str] = {
    "array": "signatures are an array, stages are not",
    "chdir": "jobs start in the folder of the run's logs",
    "dependency": "stages follow each other in the order of the chain",
    "error": "the output goes to the run's logs",
    "export": "the job gets nnU-Net's variables and this shell's environment",
    "job-name": "the name is how a stage is found in the queue",
    "kill-on-invalid-dep": "a stage whose stage before has failed leaves the queue",
    "no-requeue": "a stage is requeued and goes on from its checkpoint",
    "nodes": "a stage runs on one node",
    "ntasks": "a stage is one task; use cpus-per-task and gres",
    "open-mode": "the output is appended to",
    "output": "it goes to the run's logs",
    "requeue": "it is always given",
    "signal": "give warning=SECONDS for the time between the warning and the end",
}
"""Options of sbatch that the submission sets itself, with the reason."""
WARNING = "warning"
WARNING_SECONDS = 300
"""Between Slurm's warning and the time limit. A guess: enough for an iteration and a checkpoint."""


@dataclass(frozen=True)
class SiteOptions:
    """How jobs are submitted at one site."""

    options: tuple[tuple[str, str | None], ...] = ()
    "Long options of sbatch, without dashes, and their values; None for a switch."
    warning: int = WARNING_SECONDS
    "Seconds before the time limit at which a stage is asked to stop at a checkpoint."

    @property
    def arguments(self) -> tuple[str, ...]:
        """As sbatch takes them."""
        return tuple(f"--{name}" if value is None else f"--{name}={value}" for name, value in self.options)

    def get(self, name: str) -> str | None:
        """The value of an option, None where it is not given."""
        return dict(self.options).get(name)


def site_options(given: Iterable[str], file: Path | None, work: Work) -> SiteOptions:
    """The options of a configuration file and, over them, those given as NAME=VALUE.

    ``file``: a file that has to exist; None for the user's own, which may be missing. Its section [slurm] is for all
    jobs, [slurm.train] and [slurm.affinity] for those of one kind.

    Raises SeqTransferError, naming the valid ones, for an option that there is not.
    """
    settings = _from_file(file, work)
    for text in given:
        written, equals, after = text.partition("=")
        settings[_valid(written, "-slurm")] = after if equals else None
    for name, value in settings.items():
        if not value and name not in SWITCHES:
            raise SeqTransferError(f"-slurm {name} needs a value: -slurm {name}=VALUE")
        if value is not None and not value.isprintable():
            raise SeqTransferError(f"the value of -slurm {name} holds characters that cannot be printed: {value!r}")
    warning = _warning(settings.pop(WARNING, None), settings.get("time"))
    return SiteOptions(tuple((name, value or None) for name, value in settings.items()), warning)


def user_file() -> Path:
    """The user's own configuration file."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "nnunet_seqtransfer" / "slurm.ini"


def seconds(time: str) -> int | None:
    """Seconds of a time as sbatch takes it ("90", "24:00:00", "1-12"); None where it has no limit or is none."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, last = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, last = numbers
    else:  # minutes[:seconds]
        hours, (minutes, last) = 0, (*numbers, 0)[:2]
    return (int(days or 0) * 24 + hours) * 3600 + minutes * 60 + last


def _from_file(file: Path | None, work: Work) -> dict[str, str | None]:
    path = user_file() if file is None else file
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, allow_no_value=True, default_section="")
    try:
        parser.read_string(path.read_text(), str(path))
    except FileNotFoundError:
        if file is not None:
            raise SeqTransferError(f"there is no file {path}; correct -slurm_config") from None
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise SeqTransferError(f"{path} cannot be read ({error}); its lines are NAME = VALUE below [slurm]") from None
    known = ("slurm", "slurm.train", "slurm.affinity")
    for section in parser.sections():
        if section not in known:
            raise SeqTransferError(f"{path} has a section [{section}]; valid are [{'], ['.join(known)}]")
    sections = [section for section in ("slurm", f"slurm.{work}") if parser.has_section(section)]
    return {_valid(name, str(path)): value for section in sections for name, value in parser.items(section)}


def _valid(given: str, where: str) -> str:
    """The name of an option; underscores count as dashes. Raises SeqTransferError where there is none of that name."""
    name = given.strip().removeprefix("--").replace("_", "-")
    if name in OWN:
        raise SeqTransferError(f"{where}: {name} cannot be set, {OWN[name]}")
    valid = sorted(VALUED | SWITCHES | {WARNING})
    if name not in valid:
        close = difflib.get_close_matches(name, valid, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SeqTransferError(f"{where}: Slurm jobs have no option {given!r}{hint} Valid are: {', '.join(valid)}")
    return name


def _warning(given: str | None, time: str | None) -> int:
    """Seconds before the end: those given, else the default, but not more than a quarter of the time limit."""
    limit = seconds(time) if time else None
    if given is None:
        return WARNING_SECONDS if limit is None else max(1, min(WARNING_SECONDS, limit // 4))
    if not given.isdecimal() or not 1 <= int(given) <= 65535:
        raise SeqTransferError(f"-slurm {WARNING}={given}: give whole seconds from 1 to 65535")
    if limit is not None and 2 * int(given) > limit:
        raise SeqTransferError(f"-slurm {WARNING}={given} is more than half of the time limit {time}; give less")
    return int(given)

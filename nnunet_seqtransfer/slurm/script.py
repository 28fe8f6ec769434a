"""A Slurm job as text: site options, batch script and sbatch command. Pure functions, tested without Slurm."""

import configparser
import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.errors import SeqTransferError, raise_collected
from nnunet_seqtransfer.nnunet.folders import external_trainers, scripts_folder
from nnunet_seqtransfer.signals import STOPPED

RESERVED: Mapping[str, str] = {
    "array": "a stage is one job",
    "chdir": "jobs start in the folder of the run's logs",
    "dependency": "stages follow the order of the chain",
    "error": "the output goes to the run's logs",
    "export": "the job gets nnU-Net's variables and this shell's environment",
    "job-name": "the name is used to find a stage in the queue",
    "kill-on-invalid-dep": "a stage leaves the queue if the stage before it has failed",
    "no-requeue": "a requeued stage resumes from its checkpoint",
    "nodes": "a stage runs on one node",
    "ntasks": "a stage is one task; use cpus-per-task and gres",
    "open-mode": "the output of a requeued stage is appended",
    "output": "the output goes to the run's logs",
    "requeue": "it is always set",
    "signal": "use warning=SECONDS for the time between the warning and the end",
    "wait": "jobs are submitted without waiting",
    "wrap": "a job runs the command of its stage",
}
"""Option of sbatch that the submission sets itself -> the reason."""
WARNING = "warning"
WARNING_SECONDS = 300
"""Default seconds between Slurm's warning and the time limit. A guess: enough for an epoch and a checkpoint."""
MAX_STOPS = 3
"""A stage that stops so often in a row without a new checkpoint is not requeued: it would never end. A guess."""
_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_PASSED_ON = re.compile(
    r"nnUNet_(?!seq_driver$)\w+|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|PYTHONPATH|\w+_NUM_THREADS|MPLCONFIGDIR"
)
"""Variables that change what a stage does. The script sets them itself, because sites may empty a job's environment."""
_SPECIAL_IN_OUTPUT = re.compile(r"[%\\]")
"""Characters that Slurm interprets in the path of an output file."""

_BODY = """\
start=$((${{SLURM_RESTART_COUNT:-0}} + 1))
printf '\\njob %s, start %d, on %s, %s\\n' "$SLURM_JOB_ID" "$start" "$(hostname)" "$(date)"
checkpoints() {{ stat --format='%n %s %y' {output}/checkpoint_*.pth 2>/dev/null; }}
before=$(checkpoints)
stopped=.$SLURM_JOB_ID.stopped
[ "$start" -gt 1 ] || rm -f "$stopped"
asked=
ended=
child=
# The warning before the time limit reaches this shell alone. SIGTERM from whatever ends the job reaches the command
# too, which would take a second one for a request to stop without a checkpoint.
trap 'asked=yes; interrupted=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1
trap 'interrupted=yes; asked=yes' TERM
# From nnUNetv2_seq_cancel: stop at a checkpoint, and do not requeue.
trap 'ended=yes; interrupted=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR2
{command} </dev/null &
child=$!
[ -z "$asked$ended" ] || kill -TERM "$child" 2>/dev/null
while :; do  # a signal interrupts the waiting
    interrupted=
    wait "$child"
    status=$?
    [ -n "$interrupted" ] || break
done
if [ -n "$ended" ]; then
    echo "cancelled"
elif [ "$status" -eq {stopped} ] || {{ [ -n "$asked" ] && [ "$status" -eq 143 ]; }}; then
    # Do not requeue a job that is being ended: by scancel, or because its time is over.
    if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
        [ "$(checkpoints)" = "$before" ] || rm -f "$stopped"
        echo "$start" >>"$stopped"
        if [ "$(wc -l <"$stopped")" -ge {most} ]; then
            echo "error: stopped {most} times in a row without a new checkpoint; give a longer -slurm time"
        else
            scontrol requeue "$SLURM_JOB_ID" && sleep 60
        fi
    fi
fi
[ "$status" -ne 0 ] || rm -f "$stopped"
printf 'ended with exit status %d\\n' "$status"
exit "$status"
"""


@dataclass(frozen=True)
class SiteOptions:
    """Options to submit jobs at one site."""

    options: tuple[tuple[str, str | None], ...] = ()
    "Long options of sbatch, without dashes, with their values; None for a switch."
    warning: int = WARNING_SECONDS
    "Seconds before the time limit at which a stage is asked to stop at a checkpoint."

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options as sbatch takes them."""
        return tuple(f"--{name}" if value is None else f"--{name}={value}" for name, value in self.options)

    def get(self, name: str) -> str | None:
        """Return the value of an option, None if it is not set."""
        return dict(self.options).get(name)


def site_options(given: Iterable[str], file: Path | None) -> SiteOptions:
    """Return the options of a configuration file, replaced by those given as NAME=VALUE or NAME.

    Options are passed through; sbatch judges them (see `require_accepted`). Without a ``file``, which must exist,
    `user_file` is read if there is one.

    Raises SeqTransferError for options that the submission sets itself and for values that cannot be passed on.
    """
    path = user_file() if file is None else file
    errors: list[SeqTransferError] = []
    settings = _checked(_from_file(path, required=file is not None), str(path), errors)
    pairs = [text.partition("=") for text in given]
    settings |= _checked({name: value if equals else None for name, equals, value in pairs}, "-slurm", errors)
    raise_collected(errors)
    warning = _warning(settings.pop(WARNING, None), settings.get("time"))
    return SiteOptions(tuple(settings.items()), warning)


def user_file() -> Path:
    """Return the path of the user's configuration file."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "nnunet_seqtransfer" / "slurm.ini"


def seconds(time: str) -> int | None:
    """Return the seconds of a time as sbatch takes it ("90", "24:00:00", "1-12"); None if it is no limit."""
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


def _from_file(path: Path, *, required: bool) -> dict[str, str | None]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, allow_no_value=True, default_section="")
    try:
        parser.read_string(path.read_text(), str(path))
    except FileNotFoundError:
        if required:
            raise SeqTransferError(f"there is no file {path}; correct -slurm_config") from None
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise SeqTransferError(f"cannot read {path} ({error}); write NAME = VALUE below [slurm]") from None
    unknown = [section for section in parser.sections() if section != "slurm"]
    if unknown:
        raise SeqTransferError(f"{path} has a section [{unknown[0]}]; only [slurm] is valid")
    return dict(parser.items("slurm")) if parser.has_section("slurm") else {}


def _checked(settings: Mapping[str, str | None], source: str, errors: list[SeqTransferError]) -> dict[str, str | None]:
    """Return the settings with sbatch's spelling of the names; append what is wrong to ``errors``."""
    checked = {name.strip().removeprefix("--").replace("_", "-"): value for name, value in settings.items()}
    for name, value in checked.items():
        if name in RESERVED:
            errors.append(SeqTransferError(f"{source}: {name} cannot be set, {RESERVED[name]}"))
        elif not name or value == "":
            errors.append(SeqTransferError(f"{source}: {name}= lacks a name or a value; write NAME=VALUE"))
        elif not f"{name}{value}".isprintable():
            errors.append(SeqTransferError(f"{source}: unprintable characters in {name!r} or its value {value!r}"))
    return checked


def _warning(given: str | None, time: str | None) -> int:
    """Return the seconds given, else the default, but at most a quarter of the time limit."""
    limit = seconds(time) if time else None
    if given is None:
        return WARNING_SECONDS if limit is None else max(1, min(WARNING_SECONDS, limit // 4))
    if not given.isdecimal() or not 1 <= int(given) <= 65535:  # as sbatch's --signal takes it
        raise SeqTransferError(f"-slurm {WARNING}={given} is not a whole number from 1 to 65535; give seconds")
    if limit is not None and 2 * int(given) > limit:
        raise SeqTransferError(f"-slurm {WARNING}={given} is more than half of the time limit {time}; give less")
    return int(given)


@dataclass(frozen=True)
class BatchJob:
    """One job before it is submitted."""

    key: str
    "Key of the stage, to which later jobs refer."
    name: str
    "Name in the queue, the same for the same work."
    folder: Path
    "Folder for the start and the output."
    command: tuple[str, ...]
    "Program and arguments."
    after: str | None = None
    "Key of the job that must succeed first."
    output: Path | None = None
    "Folder of the stage's checkpoints."

    @property
    def log(self) -> str:
        """Name of the output file in the folder."""
        return f"{self.name}.log"


def job_name(readable: str, *identity: object) -> str:
    """Return a name that is the same for the same work, and safe for files and squeue whatever folders are called."""
    digest = hashlib.sha256("\0".join(str(part) for part in identity).encode(errors="surrogateescape")).hexdigest()
    return f"seq-{re.sub(r'[^A-Za-z0-9_-]', '-', readable)[:40]}-{digest[:12]}"


def sbatch_command(job: BatchJob, site: SiteOptions, ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sbatch command, which reads the script from stdin; ``ids``: key -> number of jobs in the queue."""
    command = [
        *("sbatch", "--parsable", "--requeue", "--open-mode=append", "--export=ALL", "--nodes=1", "--ntasks=1"),
        f"--signal=B:USR1@{site.warning}",
        f"--job-name={job.name}",
        f"--chdir={job.folder}",
        f"--output={'/dev/null' if _opens_log_itself(job) else job.log}",
        *site.arguments,
    ]
    if job.after is not None and job.after in ids:
        command += [f"--dependency=afterok:{ids[job.after]}", "--kill-on-invalid-dep=yes"]
    return tuple(command)


def batch_script(job: BatchJob, environment: Mapping[str, str]) -> str:
    """Return the script of a job: it sets nnU-Net's variables, runs the command, passes signals on and requeues."""
    lines = ["#!/usr/bin/env bash", f"# Written by nnunet-seqtransfer {__version__}."]
    if _opens_log_itself(job):
        lines.append(f"exec >>'{job.log}' 2>&1")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in passed_on(environment).items()]
    output = shlex.quote(str(job.output or job.folder))
    body = _BODY.format(command=shlex.join(job.command), stopped=STOPPED, most=MAX_STOPS, output=output)
    return "\n".join([*lines, body])


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job needs, with absolute folders, and this environment's commands and trainers."""
    chosen = {name: value for name, value in sorted(environment.items()) if _PASSED_ON.fullmatch(name)}
    chosen |= {name: str(Path(chosen[name]).absolute()) for name in _FOLDERS if chosen.get(name)}
    trainers = external_trainers(chosen).split(os.pathsep)
    chosen["nnUNet_extTrainer"] = _absolute(trainers)
    chosen["PATH"] = _absolute([str(scripts_folder()), *environment.get("PATH", os.defpath).split(os.pathsep)])
    return chosen


def _absolute(folders: Sequence[str]) -> str:
    return os.pathsep.join(dict.fromkeys(str(Path(folder).absolute()) for folder in folders if folder))


def _opens_log_itself(job: BatchJob) -> bool:
    """Return whether the script opens the log, because Slurm would misread the path."""
    return _SPECIAL_IN_OUTPUT.search(str(job.folder)) is not None

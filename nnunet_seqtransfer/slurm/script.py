"""A job of Slurm as text: the batch script and the sbatch command. Pure functions, tested without Slurm."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.nnunet.folders import external_trainers, scripts_folder
from nnunet_seqtransfer.slurm.site import SiteOptions
from nnunet_seqtransfer.training.stop_signals import STOPPED

MOST_STARTS = 3
"""A stage that was stopped so often in a row without a new checkpoint is not requeued: it would never end. A guess."""
_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_PASSED_ON = re.compile(
    r"nnUNet_(?!seq_driver$)\w+|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|PYTHONPATH|\w+_NUM_THREADS|MPLCONFIGDIR"
)
"""Variables that decide what a stage does, set in the script itself: sites may empty a job's environment."""
_NOT_IN_OUTPUT = re.compile(r"[%\\]")
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
# The warning before the time limit comes to this shell alone; SIGTERM, from whatever ends the job, to the command too,
# which would take a second one for a request to stop without a checkpoint.
trap 'asked=yes; interrupted=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1
trap 'interrupted=yes; asked=yes' TERM
# nnUNetv2_seq_cancel: stop at a checkpoint, and for good.
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
    # Not where the job itself is being ended: by scancel, or because its time is over.
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
class BatchJob:
    """One job, or an array of jobs, before it is submitted."""

    key: str
    "What it does, by the name that others depend on: a stage's key."
    name: str
    "Its name in the queue, the same for the same work."
    folder: Path
    "Where it starts and writes its output."
    command: tuple[str, ...]
    "What it runs."
    after: str | None = None
    "The key of the job that must have ended first."
    after_any: bool = False
    "Whether that one may also have failed."
    output: Path | None = None
    "Where a stage leaves its checkpoints."
    array: tuple[str, ...] = ()
    "The last argument of each job of an array; none for a single job."

    @property
    def log(self) -> str:
        """The name of its output in its folder; of an array, Slurm's pattern for it."""
        return f"{self.name}{'_%a' if self.array else ''}.log"


def job_name(readable: str, *identity: object) -> str:
    """A name that is the same for the same work, and fit for a file and for squeue whatever the folders are called."""
    digest = hashlib.sha256("\0".join(str(part) for part in identity).encode(errors="surrogateescape")).hexdigest()
    return f"seq-{re.sub(r'[^A-Za-z0-9_-]', '-', readable)[:40]}-{digest[:12]}"


def sbatch_command(job: BatchJob, site: SiteOptions, ids: Mapping[str, str]) -> tuple[str, ...]:
    """The command that reads the script on its standard input; ``ids``: of the jobs that are in the queue, by key."""
    command = [
        *("sbatch", "--parsable", "--requeue", "--open-mode=append", "--export=ALL", "--nodes=1", "--ntasks=1"),
        f"--signal=B:USR1@{site.warning}",
        f"--job-name={job.name}",
        f"--chdir={job.folder}",
        f"--output={'/dev/null' if _writes_itself(job) else job.log}",
        *site.arguments,
    ]
    if job.array:
        command.append(f"--array=0-{len(job.array) - 1}")
    if job.after is not None and job.after in ids:
        command += [f"--dependency={'afterany' if job.after_any else 'afterok'}:{ids[job.after]}"]
        command += ["--kill-on-invalid-dep=yes"]
    return tuple(command)


def batch_script(job: BatchJob, environment: Mapping[str, str]) -> str:
    """The script of a job: sets nnU-Net's variables, runs the command, passes signals on, and asks to be requeued."""
    lines = ["#!/usr/bin/env bash", f"# Written by nnunet-seqtransfer {__version__}."]
    if _writes_itself(job):
        name = job.log.replace("%a", "'$SLURM_ARRAY_TASK_ID'")
        lines.append(f"exec >>'{name}' 2>&1")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in passed_on(environment).items()]
    command = shlex.join(job.command)
    if job.array:
        lines.append(f"arguments=({shlex.join(job.array)})")
        command += ' "${arguments[$SLURM_ARRAY_TASK_ID]}"'
    body = _BODY.format(
        command=command,
        stopped=STOPPED,
        most=MOST_STARTS,
        output=shlex.quote(str(job.output or job.folder)),
    )
    return "\n".join([*lines, body])


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job needs, folders absolute: this environment's commands and trainers can be found."""
    chosen = {name: value for name, value in sorted(environment.items()) if _PASSED_ON.fullmatch(name)}
    chosen |= {name: str(Path(chosen[name]).absolute()) for name in _FOLDERS if chosen.get(name)}
    trainers = external_trainers(chosen).split(os.pathsep)
    chosen["nnUNet_extTrainer"] = _absolute(trainers)
    chosen["PATH"] = _absolute([str(scripts_folder()), *environment.get("PATH", os.defpath).split(os.pathsep)])
    return chosen


def _absolute(folders: Sequence[str]) -> str:
    return os.pathsep.join(dict.fromkeys(str(Path(folder).absolute()) for folder in folders if folder))


def _writes_itself(job: BatchJob) -> bool:
    """Whether Slurm would not find the output file, so that the script opens it."""
    return _NOT_IN_OUTPUT.search(str(job.folder)) is not None

"""Options of a site, and the batch script run by bash without Slurm: arguments, signals, exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import scripts_folder, shim_folder
from nnunet_seqtransfer.slurm.script import (
    MAX_STOPS,
    WARNING_SECONDS,
    BatchJob,
    SiteOptions,
    batch_script,
    job_name,
    passed_on,
    sbatch_command,
    seconds,
    site_options,
)

HOSTILE = ["plain", "a'; echo foo", "new\nline", 'q"uo$HOME`x`', "back\\slash", "per%jcent%%", "-dash", "ünï 字"]
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


class FakeSlurm:
    """squeue that says the job's state, and scontrol that writes down what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.asked = folder / "bin", folder / "asked"
        self.bin.mkdir()
        self.state("RUNNING")
        self._write("scontrol", f'echo "$@" >> {self.asked}; exit 1')

    def state(self, state: str) -> None:
        self._write("squeue", f"echo {state}")

    def _write(self, name: str, line: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{line}\n")
        (self.bin / name).chmod(0o755)

    @property
    def requeued(self) -> bool:
        return self.asked.is_file() and self.asked.read_text() == "requeue 7\n"


@pytest.fixture
def fake(tmp_path):
    return FakeSlurm(tmp_path)


def job_of(folder: Path, *command: str) -> BatchJob:
    return BatchJob(key="D/p/fold_0", name="seq-x", folder=folder, command=command)


def start(
    job: BatchJob, fake: FakeSlurm, *, session: bool = False, restarts: int = 0, **environment: str
) -> subprocess.Popen[str]:
    """As Slurm would: bash, in the job's folder, with no environment but Slurm's."""
    script = batch_script(job, {"PATH": f"{fake.bin}:{os.environ['PATH']}", **environment})
    file = fake.bin / "script"
    file.write_bytes(os.fsencode(script))
    return subprocess.Popen(
        ["/bin/bash", str(file)],
        cwd=job.folder,
        env={"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=session,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_the_command_unharmed(tmp_path, fake, name):
    """In arguments, in folders, in variables."""
    import json

    folder = tmp_path / name
    folder.mkdir()
    child = start(job_of(folder, sys.executable, "-c", TELL, name), fake, nnUNet_raw=f"/data/{name}", nnUNet_x=name)
    out = child.communicate()[0]
    assert child.returncode == 0, out
    written = "".join(path.read_text() for path in folder.iterdir())  # where Slurm itself could not open the log
    arguments, environment = json.loads(next(line for line in (out + written).splitlines() if line.startswith("[")))
    assert arguments == [name]
    assert environment["nnUNet_raw"] == f"/data/{name}" and environment["nnUNet_x"] == name
    assert ("%" in name or "\\" in name) == bool(written)


def test_the_environment_of_the_commands_goes_along_with_absolute_folders(monkeypatch, tmp_path):
    """nnU-Net's variables, the commands of this environment, and its trainers, which stand beside the user's."""
    monkeypatch.chdir(tmp_path)
    given = {"nnUNet_raw": "raw", "nnUNet_extTrainer": "mine", "nnUNet_compile": "f", "OMP_NUM_THREADS": "4"}
    passed = passed_on({**given, "PATH": "/bin", "nnUNet_seq_driver": "5", "SECRET": "x", "CUDA_VISIBLE_DEVICES": "3"})
    assert passed["nnUNet_raw"] == str(tmp_path / "raw")
    assert passed["nnUNet_extTrainer"].split(os.pathsep) == [str(tmp_path / "mine"), str(shim_folder())]
    assert passed["PATH"].split(os.pathsep)[0] == str(scripts_folder())
    assert passed["nnUNet_compile"] == "f" and passed["OMP_NUM_THREADS"] == "4"
    assert not {"SECRET", "nnUNet_seq_driver", "CUDA_VISIBLE_DEVICES"} & set(passed)


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_stage_that_stopped_at_a_checkpoint_is_requeued_unless_the_job_is_cancelled(tmp_path, fake, state):
    """Exit status 75 while the job is not being ended; scancel sends SIGTERM too, but the job is COMPLETING then."""
    fake.state(state)
    assert start(job_of(tmp_path, "bash", "-c", "exit 75"), fake).wait() == 75
    assert fake.requeued == (state == "RUNNING")


def test_a_stage_that_gets_no_further_is_not_requeued_for_ever(tmp_path, fake):
    """Stopped three times in a row without a new checkpoint; with a new one the count begins anew."""
    job = job_of(tmp_path, "bash", "-c", "exit 75")
    further = job_of(tmp_path, "bash", "-c", f"echo x >> {tmp_path}/checkpoint_latest.pth; exit 75")
    for restarts, work in enumerate([job] * (MAX_STOPS - 1) + [further] + [job] * (MAX_STOPS - 2)):
        fake.asked.unlink(missing_ok=True)
        assert start(work, fake, restarts=restarts).wait() == 75
        assert fake.requeued, restarts
    fake.asked.unlink()
    child = start(job, fake, restarts=9)
    assert "error: stopped 3 times in a row" in child.communicate()[0]
    assert child.returncode == 75 and not fake.requeued
    start(job, fake, restarts=0).wait()
    assert fake.requeued, "a new job begins anew"


def test_a_failed_stage_fails_the_job(tmp_path, fake):
    """With its status, so that what depends on it leaves the queue."""
    child = start(job_of(tmp_path, "bash", "-c", "echo error: no disk >&2; exit 2"), fake)
    out = child.communicate()[0]
    assert child.returncode == 2 and not fake.requeued
    assert "error: no disk" in out and "ended with exit status 2" in out


LISTENS = """
trap 'echo asked; sleep 0.5; echo checkpoint written; exit 75' TERM
echo ready; while :; do sleep 0.05; done
"""


def ready(child: subprocess.Popen[str]) -> None:
    while child.stdout.readline() != "ready\n":
        pass


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_is_passed_on_and_waited_for(tmp_path, fake, number):
    """To the shell alone, from the time limit (USR1) or nnUNetv2_seq_cancel (USR2, not requeued), for a checkpoint."""
    child = start(job_of(tmp_path, "bash", "-c", LISTENS), fake)
    ready(child)
    child.send_signal(number)
    out = child.communicate()[0]
    assert out.count("asked") == 1 and "checkpoint written" in out and child.returncode == 75
    assert fake.requeued == (number == signal.SIGUSR1) == ("\ncancelled\n" not in out)


def test_sigterm_which_all_processes_get_reaches_the_command_once(tmp_path, fake):
    """As from scancel: a second one would mean to stop without a checkpoint."""
    command = "import signal, sys, time\ngot = []\nsignal.signal(15, lambda *_: got.append(1))"
    command += "\nprint('ready', flush=True)\nwhile not got: time.sleep(0.02)"
    command += "\ntime.sleep(0.5)\nprint('asked', len(got))\nsys.exit(75)"
    child = start(job_of(tmp_path, sys.executable, "-c", command), fake, session=True)
    ready(child)
    os.killpg(child.pid, signal.SIGTERM)
    assert "asked 1" in child.communicate()[0] and child.returncode == 75
    assert fake.requeued


def test_a_command_that_dies_of_the_signal_before_it_listens_is_requeued_too(tmp_path, fake):
    """Python that is still importing has no handler yet."""
    child = start(job_of(tmp_path, "sleep", "30"), fake)
    while "job 7" not in child.stdout.readline():
        pass
    time.sleep(0.2)
    child.send_signal(signal.SIGUSR1)
    assert child.wait() == 143
    assert fake.requeued


def test_the_command_names_folder_output_and_dependency(tmp_path):
    """As a list, whatever the folder is called; site options stand as they are."""
    site = SiteOptions((("partition", "gpu"), ("exclusive", None)), warning=60)
    job = BatchJob("b", "seq-b", tmp_path / "a'; echo foo", ("x",), after="a")
    command = sbatch_command(job, site, {"a": "12"})
    assert f"--chdir={tmp_path}/a'; echo foo" in command and "--output=seq-b.log" in command
    assert "--dependency=afterok:12" in command and "--kill-on-invalid-dep=yes" in command
    assert "--signal=B:USR1@60" in command and "--partition=gpu" in command and "--exclusive" in command
    assert not [word for word in sbatch_command(job, site, {}) if "dependency" in word], "that one is finished"


def test_names_of_jobs_are_the_same_for_the_same_work_and_fit_squeue():
    """Letters, digits, dashes, whatever the dataset is called; other results, another name."""
    name = job_name("Dataset001_a'; echo,\n_fold_0", "/results", "key")
    assert name == job_name("Dataset001_a'; echo,\n_fold_0", "/results", "key")
    assert name != job_name("Dataset001_a'; echo,\n_fold_0", "/other", "key")
    assert all(character.isascii() and (character.isalnum() or character in "-_") for character in name)


@pytest.fixture(autouse=True)
def no_user_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_options_become_arguments_of_sbatch():
    """Values with '=', switches, and underscores; sbatch judges unknown ones, see `require_accepted`."""
    site = site_options(["partition=gpu", "gres=gpu:1", "exclusive", "cpus_per_task=4", "x=a=b"], None)
    expected = ("--partition=gpu", "--gres=gpu:1", "--exclusive", "--cpus-per-task=4", "--x=a=b")
    assert site.arguments == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("dependency=afterok:3", "-slurm: dependency cannot be set, stages follow"),
        ("array=0-3", "array cannot be set"),
        ("kill_on_invalid_dep", "kill-on-invalid-dep cannot be set"),
        ("time=", "write NAME=VALUE"),
        ("=5", "write NAME=VALUE"),
        ("comment=a\nb", "unprintable characters"),
        ("warning=soon", "is not a whole number"),
    ],
)
def test_options_that_cannot_be_passed_through_are_refused(given, says):
    """With the reason, before anything is submitted."""
    with pytest.raises(SeqTransferError) as raised:
        site_options([given], None)
    assert says in str(raised.value)


def test_all_wrong_options_are_reported_together(tmp_path):
    """Those of the file too, which is named."""
    file = tmp_path / "site.ini"
    file.write_text("[slurm]\nsignal = 3\n")
    with pytest.raises(SeqTransferError) as raised:
        site_options(["array=0-3", "mem="], file)
    assert len(raised.value.problems) == 3 and str(file) in raised.value.problems[0]


def test_the_command_line_replaces_the_file(tmp_path):
    """Percent signs and colons stay as they are."""
    file = tmp_path / "site.ini"
    file.write_text("[slurm]\naccount = 50%lab\ncpus_per_task = 2\ngres = gpu:a100:1\nexclusive\n")
    expected = {"account": "50%lab", "cpus-per-task": "2", "gres": "gpu:2", "exclusive": None}
    assert dict(site_options(["gres=gpu:2"], file).options) == expected


def test_the_users_own_file_is_found_and_may_be_missing(tmp_path):
    """nnunet_seqtransfer/slurm.ini in the configuration folder."""
    assert site_options([], None).options == ()
    file = tmp_path / "config" / "nnunet_seqtransfer" / "slurm.ini"
    file.parent.mkdir(parents=True)
    file.write_text("[slurm]\nqos = long\n")
    assert site_options([], None).arguments == ("--qos=long",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "correct -slurm_config"),
        ("partition = gpu\n", "cannot read"),
        ("[slurm]\noutput = x\n", "output cannot be set"),
        ("[slrum]\npartition = gpu\n", "only [slurm] is valid"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, says):
    """With what is wrong in it."""
    file = tmp_path / "site.ini"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SeqTransferError) as raised:
        site_options([], file)
    assert says in str(raised.value) and str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("24:00:00", 86400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-0:0:5", 86405),
        ("UNLIMITED", None),
        ("", None),
        ("2-", None),
    ],
)
def test_times_are_read_as_sbatch_reads_them(text, expected):
    """All six forms; a limit that is none, and what is no time, give None."""
    assert seconds(text) == expected


def test_the_warning_leaves_most_of_a_short_time():
    """A quarter of the time limit at most, unless it is given; then half."""
    assert site_options(["time=24:00:00"], None).warning == WARNING_SECONDS
    assert site_options(["time=10"], None).warning == 150
    assert site_options(["time=10", "warning=300"], None).warning == 300
    with pytest.raises(SeqTransferError, match="more than half of the time limit 10"):
        site_options(["time=10", "warning=301"], None)

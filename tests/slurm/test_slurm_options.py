"""Options for a site's Slurm: which there are, where they come from, and how a wrong one is answered."""

from __future__ import annotations

import pytest

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.slurm.site import WARNING_SECONDS, seconds, site_options


@pytest.fixture(autouse=True)
def no_user_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_options_become_arguments_of_sbatch():
    """Values with '=', switches without a value, and underscores as submitit writes them."""
    site = site_options(["partition=gpu", "gres=gpu:1", "exclusive", "cpus_per_task=4", "comment=a=b"], None, "train")
    expected = ("--partition=gpu", "--gres=gpu:1", "--exclusive", "--cpus-per-task=4", "--comment=a=b")
    assert site.arguments == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("partitoin=gpu", "did you mean partition? Valid are: account,"),
        ("foo", "Valid are: account,"),
        ("dependency=afterok:3", "dependency cannot be set, stages follow each other"),
        ("array=0-3", "array cannot be set"),
        ("partition", "partition needs a value"),
        ("time=", "time needs a value"),
        ("comment=a\nb", "cannot be printed"),
        ("warning=soon", "whole seconds"),
    ],
)
def test_a_wrong_option_is_answered_with_the_valid_ones_or_the_reason(given, says):
    """Before anything is submitted."""
    with pytest.raises(SeqTransferError) as raised:
        site_options([given], None, "train")
    assert says in str(raised.value)


def test_the_file_is_for_all_jobs_or_those_of_one_kind_and_the_command_line_goes_before_it(tmp_path):
    """[slurm], then [slurm.train] or [slurm.affinity], then -slurm."""
    file = tmp_path / "site.ini"
    file.write_text(
        "[slurm]\naccount = 50%lab\npartition = cpu\n[slurm.train]\npartition = gpu\ngres = gpu:a100:1\nexclusive\n"
    )
    assert dict(site_options([], file, "affinity").options) == {"account": "50%lab", "partition": "cpu"}
    train = dict(site_options(["gres=gpu:2"], file, "train").options)
    assert train == {"account": "50%lab", "partition": "gpu", "gres": "gpu:2", "exclusive": None}


def test_the_users_own_file_is_found_and_may_be_missing(tmp_path):
    """nnunet_seqtransfer/slurm.ini in the configuration folder."""
    assert site_options([], None, "train").options == ()
    file = tmp_path / "config" / "nnunet_seqtransfer" / "slurm.ini"
    file.parent.mkdir(parents=True)
    file.write_text("[slurm]\nqos = long\n")
    assert site_options([], None, "train").arguments == ("--qos=long",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partition = gpu\n", "cannot be read"),
        ("[slurm]\npartitoin = gpu\n", "did you mean partition?"),
        ("[slrum]\npartition = gpu\n", "valid are [slurm]"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, says):
    """With what is wrong in it."""
    file = tmp_path / "site.ini"
    file.write_text(text)
    with pytest.raises(SeqTransferError) as raised:
        site_options([], file, "train")
    assert says in str(raised.value) and str(file) in str(raised.value)


def test_a_file_that_is_given_must_be_there(tmp_path):
    """Unlike the user's own."""
    with pytest.raises(SeqTransferError, match="correct -slurm_config"):
        site_options([], tmp_path / "none.ini", "train")


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
    assert site_options(["time=24:00:00"], None, "train").warning == WARNING_SECONDS
    assert site_options(["time=10"], None, "train").warning == 150
    assert site_options(["time=10", "warning=300"], None, "train").warning == 300
    with pytest.raises(SeqTransferError, match="more than half of the time limit 10"):
        site_options(["time=10", "warning=301"], None, "train")

"""Share options and error handling between commands: nnU-Net's style of options, one line per user error."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC, metric_names
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.signals import STOPPED, Stopped, raising_on_signals
from nnunet_seqtransfer.storage import disk_errors_as_user_errors
from nnunet_seqtransfer.training.job import CHECKPOINT_MINUTES, CHECKPOINT_VARIABLE

MOST_SEED = 2**31 - 1
USER_ERROR = 2
INTERRUPTED = 130


class SeqArgumentParser(argparse.ArgumentParser):
    """Parse options in the style of nnU-Net: one dash for values, two for switches, no abbreviations.

    argparse reads ``-source_epochz 3`` as ``-s ource_epochz`` where there is a ``-s``. Every word that begins with a
    dash is therefore compared with the options that exist before argparse sees it.
    """

    def __init__(self, description: str, example: str) -> None:
        super().__init__(
            description=description,
            epilog=f"Example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="help", help="[OPTIONAL] Show this help and exit")
        self.add_argument(
            "--version", action="version", version=__version__, help="[OPTIONAL] Show the version and exit"
        )

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse the arguments, or the command line if None. Exits with status 2 if one is wrong."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        known = list(self._option_string_actions)
        for word in given:
            name = word.split("=", 1)[0]
            if name.startswith("-") and not _is_number(name) and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                self.error(f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else ""))
        return self.parse_args(given)

    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage that argparse prints, and exit with status 2."""
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def positive_int(text: str) -> int:
    """Return a whole number above 0, as an argparse type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """Return a whole number of at least 0, as an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def case_count(text: str) -> int:
    """Return a number of cases, or 0 for "auto", as an argparse type."""
    return 0 if text == "auto" else positive_int(text)


def seed(text: str) -> int:
    """Return a seed that all random number generators accept, as an argparse type."""
    if not text.isdecimal() or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MOST_SEED}")
    return int(text)


def positive_float(text: str) -> float:
    """Return a finite number above 0, as an argparse type."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative_float(text: str) -> float:
    """Return a finite number of at least 0, as an argparse type."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value


def minutes(text: str) -> float:
    """Return minutes of at least 0, as an argparse type; the error names the environment variable too."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, given so or by {CHECKPOINT_VARIABLE}, is not a number from 0 on")
    return value


def share(text: str) -> float:
    """Return a number from 0 to 1, as an argparse type."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def share_below_one(text: str) -> float:
    """Return a number from 0 to below 1, as an argparse type."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def positive_share(text: str) -> float:
    """Return a number above 0 and up to 1, as an argparse type."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def tag_name(text: str) -> str:
    """Return a tag for plans names, as an argparse type. A tag must not read like a part of a path."""
    if not re.fullmatch(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} becomes part of folder names; use letters, digits, '-' and single '_' between them"
        )
    if re.match(r"((via|without|with)?\d+|replay[\dp]+|disjoint|init[0-9a-f]{8})(_|$)", text):
        raise argparse.ArgumentTypeError(f"{text!r} reads like a part of the path; begin with another word")
    return text


def default_processes() -> int:
    """Return the default of -np: nnUNet_def_n_proc or 8, but at most the number of cores."""
    wanted = os.environ.get("nnUNet_def_n_proc", "8")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(wanted) if wanted.isdecimal() else 8, available))


Options = argparse.ArgumentParser | argparse._ArgumentGroup
"""A parser, or a group of options in its help."""


def add_metric(parser: Options, default: str | None = DEFAULT_METRIC) -> None:
    """Add the option -m; the help names `DEFAULT_METRIC` as the default."""
    parser.add_argument(
        "-m",
        type=metric_name,
        default=default,
        metavar="METRIC",
        help=f"[OPTIONAL] Metric, one of: {', '.join(metric_names())}. Default: {DEFAULT_METRIC}",
    )


def metric_name(text: str) -> str:
    """Check the name of a metric, as an argparse type."""
    if text not in metric_names():
        raise argparse.ArgumentTypeError(f"there is no metric {text!r}; choose one of: {', '.join(metric_names())}")
    return text


def add_plans_and_configuration(parser: Options) -> None:
    """Add the options -p and -c."""
    parser.add_argument(
        "-p",
        default=DEFAULT_PLANS,
        metavar="PLANS",
        help=f"[OPTIONAL] Plans identifier of the target. Default: {DEFAULT_PLANS}",
    )
    parser.add_argument(
        "-c",
        default=DEFAULT_CONFIGURATION,
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres. Default: {DEFAULT_CONFIGURATION}",
    )


def add_seed(parser: Options) -> None:
    """Add the option -seed."""
    parser.add_argument(
        "-seed", type=seed, default=0, metavar="N", help="[OPTIONAL] Seed of the sample of cases. Default: 0"
    )


def add_processes(parser: Options) -> None:
    """Add the option -np."""
    parser.add_argument(
        "-np",
        type=positive_int,
        default=default_processes(),
        metavar="N",
        help="[OPTIONAL] Worker processes. Default: nnUNet_def_n_proc or 8, at most the number of cores",
    )


def add_device(parser: argparse.ArgumentParser, *, recorded: bool = False) -> None:
    """Add the options -device and -num_gpus; with ``recorded`` the run's record has their defaults."""
    device, gpus = (None, None) if recorded else ("cuda", 1)
    parser.add_argument(
        "-device",
        choices=["cuda", "cpu", "mps"],
        default=device,
        help=f"[OPTIONAL] Where to train. Default: {device or 'as the run began'}",
    )
    parser.add_argument(
        "-num_gpus",
        dest="gpus",
        type=positive_int,
        default=gpus,
        metavar="N",
        help=f"[OPTIONAL] GPUs for one training. Default: {gpus or 'as the run began'}",
    )


def add_checkpoint_minutes(parser: argparse.ArgumentParser) -> None:
    """Add the option -checkpoint_minutes; the environment variable that trainings read is the default."""
    parser.add_argument(
        "-checkpoint_minutes",
        type=minutes,  # argparse applies it to a default that is text, where the option is not given
        default=os.environ.get(CHECKPOINT_VARIABLE, "").strip() or f"{CHECKPOINT_MINUTES:g}",
        metavar="X",
        help="[OPTIONAL] After an epoch, write a checkpoint if the last one is this many minutes old; 0: only as often "
        f"as nnU-Net. Default: {CHECKPOINT_VARIABLE}, else {CHECKPOINT_MINUTES:g}",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options --wait and -np_ahead."""
    parser.add_argument(
        "--wait",
        action="store_true",
        help="[OPTIONAL] Where another process is at a stage, wait for it; without it an error",
    )
    parser.add_argument(
        "-np_ahead",
        type=natural,
        default=None,
        metavar="N",
        help="[OPTIONAL] Worker processes that preprocess the next sources while one trains, 0 for none. Default: half "
        "of -np, and as many as fit into half of the free memory",
    )


def notify(line: str) -> None:
    """Print one line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def run_command(action: Callable[[], None]) -> NoReturn:
    """Run a command and exit.

    The status is 0 after success, 2 after errors that a user can act on (one line per problem), 130 after Ctrl-C, and
    75 after another request to stop, such as a scheduler's.
    """
    try:
        with raising_on_signals(), disk_errors_as_user_errors("nnU-Net's folders"):
            action()
    except SeqTransferError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command goes on from here", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)

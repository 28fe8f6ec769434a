"""Share options and error handling between commands: nnU-Net's style of options, one line per user error."""

import argparse
import difflib
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nnunet_seqtransfer import __version__
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC, metric_names
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_id, registered_datasets
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.parallel import cores
from nnunet_seqtransfer.report.words import is_number
from nnunet_seqtransfer.signals import STOPPED, Stopped, raising_on_signals
from nnunet_seqtransfer.storage import disk_errors_as_user_errors
from nnunet_seqtransfer.training.job import CHECKPOINT_MINUTES, CHECKPOINT_VARIABLE

Number = TypeVar("Number", int, float)
MOST_SEED = 2**31 - 1
DEVICES = ("cuda", "cpu", "mps")
USER_ERROR = 2
INTERRUPTED = 130


class _Help(argparse.RawDescriptionHelpFormatter):
    """Write "-d, -t TARGET", and options of up to 26 characters on the line of their text."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = str(action.metavar or "|".join(map(str, action.choices or ())))
        return f"{', '.join(action.option_strings)} {value}{' ...' * (action.nargs == '+')}"


class SeqArgumentParser(argparse.ArgumentParser):
    """Parse options in the style of nnU-Net: one dash for values, two for switches, no abbreviations.

    argparse reads ``-source_epochz 3`` as ``-s ource_epochz`` where there is a ``-s``. Every word that begins with a
    dash is therefore compared with the options that exist before argparse sees it.

    ``-h`` shows all groups of options but `expert`, which ``--help_all`` adds, with -h and --version.
    """

    def __init__(self, description: str, example: str, usage: str = "") -> None:
        super().__init__(
            usage=f"%(prog)s {usage}[options]",
            description=description,
            epilog=f"Example:\n  {example}",
            formatter_class=_Help,
            allow_abbrev=False,
            add_help=False,
        )
        self.expert = self.add_argument_group("more options")
        self._shows_all = False
        self.add_argument("-h", "--help", action="help", help="Show this help and exit")
        self.add_argument("--help_all", action=_HelpAll, nargs=0, help="Show every option and exit")
        self.add_argument("--version", action="version", version=__version__, help="Show the version and exit")
        self._own = tuple(self._actions)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse the arguments, or the command line if None. Exits with status 2 if one is wrong."""
        if "_ARGCOMPLETE" in os.environ:  # the shell asks for words that may follow
            import argcomplete

            argcomplete.autocomplete(self)
        given = list(sys.argv[1:] if arguments is None else arguments)
        if "-recipe" in given[:-1] and "-recipe" in self._option_string_actions:
            place = given.index("-recipe")
            given = [*_recipe_words(self, given[place + 1]), *given[:place], *given[place + 2 :]]
        known = list(self._option_string_actions)
        for word in given:
            name = word.split("=", 1)[0]
            if name.startswith("-") and not is_number(name) and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                self.error(f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else ""))
        return self.parse_intermixed_args(given)

    def format_help(self) -> str:
        """Return the help, without `expert` unless --help_all was given."""
        formatter = self._get_formatter()
        formatter.add_text(textwrap.fill(str(self.description), formatter._width))
        formatter.add_usage(self.usage, self._actions, [], "usage: ")
        # argparse's own group, with -h, comes last but one
        groups = [group for group in self._action_groups if group not in (self._optionals, self.expert)]
        for group in (*groups, *([self.expert] if self._shows_all else []), self._optionals):
            formatter.start_section(group.title)
            own = () if self._shows_all else self._own
            formatter.add_arguments([action for action in group._group_actions if action not in own])
            formatter.end_section()
        formatter.add_text(self.epilog)
        hidden = 0 if self._shows_all else len(self.expert._group_actions)
        return formatter.format_help() + (f"\n{hidden} more options: {self.prog} --help_all\n" if hidden else "")

    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage that argparse prints, and exit with status 2."""
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        if isinstance(parser, SeqArgumentParser):
            parser._shows_all = True
        parser.print_help()
        parser.exit()


def _recipe_words(parser: SeqArgumentParser, path: str) -> list[str]:
    """Return the options that lines such as ``epochs = 100`` in a recipe file stand for; the command line overrides."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read the recipe {path} ({error}); correct -recipe")
    words = []
    for line in lines:
        name, _, value = line.partition("#")[0].partition("=")
        if name.strip():
            words += [f"-{name.strip()}", *value.split()]
    return words


def numbers(kind: Callable[[str], Number], words: str, holds: Callable[[Number], bool]) -> Callable[[str], Number]:
    """Return an argparse type for numbers of which ``holds`` is true; ``words`` say in errors which these are."""

    def read(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if holds(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")

    return read


def whole(text: str) -> int:
    """Return a number of digits alone; int() also takes signs, spaces and underscores."""
    return int(text if text.isdecimal() else "no number")


# NaN and infinity fulfil none of these
positive_int = numbers(whole, "a whole number above 0", lambda value: value >= 1)
natural = numbers(whole, "a whole number from 0 on", lambda value: value >= 0)
seed = numbers(whole, f"a whole number from 0 to {MOST_SEED}", lambda value: value <= MOST_SEED)
positive_float = numbers(float, "a number above 0", lambda value: 0 < value < math.inf)
share = numbers(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
share_below_one = numbers(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
positive_share = numbers(float, "a number above 0 and up to 1", lambda value: 0 < value <= 1)
minutes = numbers(
    float, f"a number from 0 on (given so or by {CHECKPOINT_VARIABLE})", lambda value: 0 <= value < math.inf
)


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
    return max(1, min(int(wanted) if wanted.isdecimal() else 8, cores()))


Options = argparse._ActionsContainer
"""A parser, or a group of options in its help."""


def add(
    options: Options, form: str, text: str, kind: Any = None, default: Any = None, **settings: Any
) -> argparse.Action:
    """Add an option.

    Args:
        options: parser or group.
        form: the option as the help shows it: "--json" (a switch), "-np N", "-d, -t TARGET", or "-s SOURCE ..." for one
            or more values. Words called TARGET, SOURCE or DATASET are completed by tab.
        text: what the option does; a default that is a word or number is added to it.
        kind: argparse type, or all choices.
        default: value without the option.
        settings: more arguments of argparse's add_argument.
    """
    words = form.split()
    flags = [word.rstrip(",") for word in words if word.startswith("-")]
    value = words[len(flags) :]
    if not value and kind is None:
        return options.add_argument(*flags, action="store_true", help=text, **settings)
    if isinstance(kind, Sequence):
        settings, kind = {"choices": kind, **settings}, type(kind[0])
    if isinstance(default, str | int | float) and "efault:" not in text:
        text += f". Default: {default:g}" if isinstance(default, float) else f". Default: {default}"
    if value[1:] == ["..."]:
        settings["nargs"] = "+"
    metavar = value[0] if value else None
    added = options.add_argument(*flags, type=kind, default=default, metavar=metavar, help=text, **settings)
    if metavar in ("TARGET", "SOURCE", "DATASET"):
        added.completer = dataset_numbers  # type: ignore[attr-defined] # argcomplete reads it
    return added


def add_metric(parser: Options, default: str | None = DEFAULT_METRIC) -> None:
    """Add the option -m; the help names `DEFAULT_METRIC` as the default."""
    text = f"Metric, one of: {', '.join(metric_names())}. Default: {DEFAULT_METRIC}"
    add(parser, "-m METRIC", text, metric_name, default)


def metric_name(text: str) -> str:
    """Check the name of a metric, as an argparse type."""
    if text not in metric_names():
        raise argparse.ArgumentTypeError(f"there is no metric {text!r}; choose one of: {', '.join(metric_names())}")
    return text


def add_plans_and_configuration(parser: Options, configuration: str | None = DEFAULT_CONFIGURATION) -> None:
    """Add the options -c and -p; without a default ``configuration`` a chain's is searched or required."""
    shown = f"; default: {configuration}" if configuration else ""
    add(parser, "-c CONFIGURATION", f"2d, 3d_fullres or 3d_lowres{shown}", default=configuration)
    add(parser, "-p PLANS", f"Target's plans; default: {DEFAULT_PLANS}", default=DEFAULT_PLANS)


def add_target(parser: SeqArgumentParser, *, folds: bool = False, configuration: bool = True) -> Options:
    """Add the words TARGET CONFIGURATION FOLD and the options that say the same; `target_of` joins them.

    Return the group, for further options that say what is asked for.
    """
    group = parser.add_argument_group("what")
    metavar = "TARGET" + " CONFIGURATION" * configuration + " FOLD ..." * folds
    flags = "-d" + ", -c" * configuration + ", -f" * folds
    text = f"As for nnUNetv2_train, or by {flags}" + "; other plans by -p" * configuration
    words = group.add_argument("words", nargs="*", metavar=metavar, help=text)
    words.completer = dataset_numbers  # type: ignore[attr-defined]
    add(parser.expert, "-d, -t TARGET", "Name or number of the target dataset")
    if configuration:
        add_plans_and_configuration(parser.expert, None)
    if folds:
        add(parser.expert, "-f FOLD ...", "Folds of the target: 0 to 4, or all")
    return group


def target_of(parser: SeqArgumentParser, options: argparse.Namespace, needed: str = "") -> None:
    """Set ``d``, ``c`` and ``f`` of ``options`` from the words TARGET CONFIGURATION FOLD, in any order after TARGET.

    Exits with status 2 if something is named twice, unknown, or missing: the target, and what ``needed`` lists.
    """
    words = list(options.words)
    if options.d is None:
        options.d = words.pop(0) if words else None
    if hasattr(options, "c") and options.c is None:
        options.c = next((word for word in words if word != "all" and not word.isdecimal()), None)
        words = [word for word in words if word != options.c]
    if words and (not hasattr(options, "f") or options.f):
        parser.error(f"unexpected word {words[-1]!r}; give the target, then {'-c and -f' if needed else '-c'} once")
    if words:
        options.f = words
    if options.d is None or any(not getattr(options, name) for name in needed):
        example = str(parser.epilog).split(maxsplit=1)[1]
        parser.error(f"name the target{', configuration and folds' * bool(needed)}, for example: {example}")
    if hasattr(options, "c"):
        options.c = options.c or DEFAULT_CONFIGURATION


def dataset_numbers(**_: object) -> list[str]:
    """Return the numbers of all registered datasets, for tab completion; none if a folder is missing."""
    with suppress(SeqTransferError):
        return [str(dataset_id(name)) for name in registered_datasets()]
    return []


def add_run(parser: SeqArgumentParser) -> None:
    """Add the words and options that name a run; `run_words` joins them for `find_run`."""
    group = parser.add_argument_group("what")
    text = "TARGET [CONFIGURATION [FOLD]] for the newest such run, its name in nnUNetv2_seq_status, or its folder"
    group.add_argument("words", nargs="*", metavar="RUN", help=text)
    add(group, "-d, -t TARGET", "Name or number of the target dataset")
    add(group, "-c CONFIGURATION", "Configuration of the run")
    add(group, "-p PLANS", "Plans of the run, such as nnUNetPlans_via21_24")
    add(group, "-f FOLD ...", "Folds of the run", default=[])


def run_words(parser: SeqArgumentParser, options: argparse.Namespace, *, required: bool = True) -> tuple[str, ...]:
    """Return the words that name a run, the target first. Exits with status 2 if there are none, but one is needed."""
    words = [*options.words, options.c, options.p, *options.f]
    named = tuple(word for word in (options.d, *words) if word is not None)
    if required and not named:
        parser.error(f"name the run: {parser.prog} TARGET, or as nnUNetv2_seq_status lists it")
    return named


def add_json(parser: Options) -> None:
    """Add the switch --json."""
    add(parser, "--json", "Print the record as JSON; progress goes to stderr")


def add_seed(parser: Options, what: str = "sample of cases") -> None:
    """Add the option -seed."""
    add(parser, "-seed N", f"Seed of the {what}", seed, 0)


def add_processes(parser: Options) -> None:
    """Add the option -np."""
    text = "Worker processes. Default: nnUNet_def_n_proc or 8, at most the cores"
    add(parser, "-np N", text, positive_int, default_processes())


def add_device(parser: Options, *, recorded: bool = False) -> None:
    """Add the options -device and -num_gpus; with ``recorded`` the run's record has their defaults."""
    device, gpus = (None, None) if recorded else ("cuda", 1)
    add(parser, "-device", f"Where to train. Default: {device or 'as the run began'}", DEVICES, device)
    text = f"GPUs for one training. Default: {gpus or 'as the run began'}"
    add(parser, "-num_gpus N", text, positive_int, gpus, dest="gpus")


def add_checkpoint_minutes(parser: Options) -> None:
    """Add the option -checkpoint_minutes; the environment variable that trainings read is the default."""
    text = "After an epoch, write a checkpoint if the last one is this many minutes old; 0: only as often as nnU-Net. "
    text += f"Default: {CHECKPOINT_VARIABLE}, else {CHECKPOINT_MINUTES:g}"
    # argparse applies the type to a default that is text, where the option is not given
    default = os.environ.get(CHECKPOINT_VARIABLE, "").strip() or f"{CHECKPOINT_MINUTES:g}"
    add(parser, "-checkpoint_minutes X", text, minutes, default)


def add_execution(parser: Options) -> None:
    """Add the options --wait and -np_ahead."""
    add(parser, "--wait", "If another process is training a stage, wait for it instead of stopping")
    text = "Worker processes that preprocess the next sources during a training, 0 for none. Default: half of -np, as "
    add(parser, "-np_ahead N", text + "far as memory allows", natural)


def notify(line: str) -> None:
    """Print one line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def command(
    parse: Callable[[Sequence[str] | None], argparse.Namespace], run: Callable[..., None]
) -> Callable[..., NoReturn]:
    """Return the main function of a command: parse the arguments, by default the command line, run, and exit.

    What else main is given, such as a test's queue, goes on to ``run``.
    """

    def main(arguments: Sequence[str] | None = None, *more: Any) -> NoReturn:
        options = parse(arguments)
        run_command(lambda: run(options, *more))

    return main


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

"""Write reference/commands.md from the parsers of the commands. Run it whenever an option has changed."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import patch

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEAD = """\
<!-- Written by docs/generate_commands.py from the parsers of the commands; change it there. -->

# Commands

Options that take a value have one dash, switches have two, as in nnU-Net. Options cannot be abbreviated, and an unknown
option is an error. Every command also has `-h`, `--help_all` and `--version`. See also
[exit statuses](exit-statuses.md).
"""
OPTION = re.compile(r"(?<![\w`-])--?[a-zA-Z]\w*")
IN_ORDER = "affinity plan train status report compare calibrate derive overlap signature clean continue cancel env demo"
"""Commands in the order of use."""


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    flag: str
    "Option string, or the name of a positional argument."
    value: str
    "Placeholder or choices of the value; empty for a switch."
    required: bool
    "True if the command does not run without it."
    text: str
    "Meaning and default."

    def line(self) -> str:
        """Return the option as an item of a list."""
        words = f"`{f'{self.flag} {self.value}'.strip()}`{' (required)' if self.required else ''}: {self.text}"
        return _filled(f"- {words.rstrip('.')}.")


class _CapturedError(Exception):
    """Carries a parser out of the command that made it, before the command does anything."""

    def __init__(self, parser: SeqArgumentParser) -> None:
        self.parser = parser


def commands() -> dict[str, Callable[[list[str]], object]]:
    """Return name -> main function of every installed command, in the order of use."""
    own = [point for point in entry_points(group="console_scripts") if point.value.startswith("nnunet_seqtransfer.")]
    place = {f"nnUNetv2_seq_{name}": index for index, name in enumerate(IN_ORDER.split())}
    ordered = sorted(own, key=lambda point: (place.get(point.name, len(place)), point.name))
    return {point.name: point.load() for point in ordered}


def parser_of(name: str, main: Callable[[list[str]], object]) -> SeqArgumentParser:
    """Return the parser that a command makes. The command itself is not run."""

    def capture(parser: SeqArgumentParser, arguments: object) -> argparse.Namespace:
        raise _CapturedError(parser)

    with patch.object(SeqArgumentParser, "parse", capture):
        try:
            main([])
        except _CapturedError as captured:
            captured.parser.prog = name
            return captured.parser
    raise RuntimeError(f"{name} does not parse its arguments with SeqArgumentParser")


def page() -> str:
    """Return the whole page."""
    parsers = [parser_of(name, main) for name, main in commands().items()]
    options = {parser.prog: list(_options(parser)) for parser in parsers}
    counts = Counter(option for found in options.values() for option in found)
    shared = {option for option, count in counts.items() if count > 1}
    sections = [_section(parser, options[parser.prog], shared) for parser in parsers]
    listed = [option.line() for option in sorted(shared, key=lambda option: (option.flag, option.text))]
    common = ["## Options of several commands", "", "The commands below list by name the options that they share.", ""]
    return "\n".join([HEAD, *common, *listed, "", *sections])


def _section(parser: SeqArgumentParser, options: Sequence[Option], shared: set[Option]) -> str:
    example = str(parser.epilog).removeprefix("Example:").strip()
    lines = [f"## {parser.prog}", "", _filled(_marked(str(parser.description))), "", "```bash", example, "```", ""]
    own = [option.line() for option in options if option not in shared]
    if own:
        lines += [*own, ""]
    names = [f"`{option.flag}`" for option in options if option in shared]
    if names:
        lines += [_filled(f"Shared: {', '.join(names)}."), ""]
    return "\n".join(lines)


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if action.dest not in ("help", "help_all", "version"):
            flag = "`, `".join(action.option_strings) if action.option_strings else str(action.metavar or action.dest)
            required = action.required and action.dest != "words"
            yield Option(flag, _value(action), required, _marked(action.help or ""))


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.option_strings:
        name = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or "TEXT")
        return name + (" ..." if action.nargs in ("+", "*") else "")
    return "..." if action.nargs == "+" else ""


def _marked(text: str) -> str:
    """Mark options as code, so that two dashes stay two dashes."""
    return OPTION.sub(lambda found: f"`{found[0]}`", " ".join(text.split()))


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page())

"""Writes reference/commands.md from the parsers of the commands: run it whenever an option has changed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import patch

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEAD = """\
<!-- Written by docs/generate_commands.py from the parsers of the commands; change it there. -->

# Commands

Options that take a value have one dash, switches have two, as in nnU-Net. Nothing is abbreviated, and an unknown
option is an error. Every command also knows `-h` and `--version`. See also [exit statuses](exit-statuses.md).
"""
HELP = re.compile(r"(?:\[(?:REQUIRED|OPTIONAL)\] )?(?P<text>.*?)(?:[.:;,]? ?Default: (?P<default>.*))?", re.DOTALL)
IN_ORDER = (
    "derive",
    "signature",
    "overlap",
    "affinity",
    "calibrate",
    "plan",
    "train",
    "continue",
    "status",
    "clean",
    "cancel",
    "report",
    "compare",
    "continue",
    "env",
    "demo",
)


class _CapturedError(Exception):
    """Carries a parser out of the command that made it, before the command does anything."""

    def __init__(self, parser: SeqArgumentParser) -> None:
        self.parser = parser


def commands() -> dict[str, Callable[[list[str]], object]]:
    """Name -> main function of every installed command, in the order of their use."""
    own = [point for point in entry_points(group="console_scripts") if point.value.startswith("nnunet_seqtransfer.")]
    place = {f"nnUNetv2_seq_{name}": index for index, name in enumerate(IN_ORDER)}
    ordered = sorted(own, key=lambda point: (place.get(point.name, len(place)), point.name))
    return {point.name: point.load() for point in ordered}


def parser_of(name: str, main: Callable[[list[str]], object]) -> SeqArgumentParser:
    """The parser that a command makes; the command itself is not run."""

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
    """The whole page."""
    sections = [_section(parser_of(name, main)) for name, main in commands().items()]
    return "\n".join([HEAD, *sections])


def _section(parser: SeqArgumentParser) -> str:
    example = str(parser.epilog).removeprefix("Example:").strip()
    lines = [f"## {parser.prog}", "", str(parser.description), "", "```bash", example, "```", ""]
    rows = list(_rows(parser))
    if rows:
        lines += ["| option | value | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    else:
        lines += ["It has no options of its own.", ""]
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest in ("help", "version"):
            continue
        found = HELP.fullmatch(action.help or "")
        text, default = (found["text"], found["default"]) if found else ("", None)
        option = f"`{action.option_strings[0]}`" if action.option_strings else f"`{action.metavar or action.dest}`"
        required = action.required or not (action.option_strings or action.nargs == "*")
        cells = (option, _value(action), "required" if required else default or "off", text)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    name = ", ".join(f"`{choice}`" for choice in action.choices) if action.choices else f"`{action.metavar or 'text'}`"
    many = {"+": ", one or more", "*": ", any number", "?": ", or nothing"}
    return name + many.get(str(action.nargs), "")


if __name__ == "__main__":
    PAGE.write_text(page())

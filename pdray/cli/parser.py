"""What the parsers of all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from pdray.errors import UserError, printable
from pdray.paths import holds_secret, is_utf8

Commands = Any  # argparse does not name the type of what add_subparsers returns
Action = Callable[[argparse.Namespace], int]
TEXT = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """Says on one line what is wrong, whatever the words of the command line hold."""

    def error(self, message: str) -> NoReturn:
        """See :meth:`argparse.ArgumentParser.error`."""
        super().error("an argument holds a key or password" if holds_secret(message) else printable(message))


def add_command(commands: Commands, name: str, act: Action, only_prints: bool = False, **parser: Any) -> Parser:
    """A command and what it does.

    Args:
        commands: what ``add_subparsers`` has returned.
        name: of the command.
        act: does it, and returns its exit code.
        only_prints: a reader that goes before everything is read has missed nothing else, as with ``| head``.
        parser: arguments of the parser.
    """
    command: Parser = commands.add_parser(name, formatter_class=TEXT, **parser)
    command.set_defaults(act=act, only_prints=only_prints)
    return command


def take_config(parser: Parser) -> None:
    """Let a command take a config and settings that override it: ``config`` and ``overrides``."""
    parser.add_argument("config", help="YAML file (see pdray init)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="override a setting, for example --set selection.budget=0.1; may be repeated",
    )


def license_of(args: argparse.Namespace) -> str | None:
    """The ``--license`` of a command, None where it was left out.

    Raises:
        UserError: no file could hold it.
    """
    name: str | None = args.license
    if name is not None and not is_utf8(name):
        raise UserError(f"--license is {name!r}, which is not UTF-8; write it in UTF-8")
    return name

"""The command line: parse, call, print. Nothing is computed here; a module for each group of commands."""

from __future__ import annotations

import argparse
import os

from pdray.cli import data, jobs, look, plan, run, sharing, start
from pdray.cli.ending import exit_code
from pdray.cli.parser import TEXT, Parser
from pdray.cli.streams import ready_streams
from pdray.errors import UserError
from pdray.paths import holds_secret

TOLD_ELSEWHERE = ("overrides", "address")  # as what they are

EPILOG = """\
examples:
  pdray demo                                        the whole pipeline on an embedded corpus, in minutes
  pdray init > run.yaml                             a commented configuration to edit
  pdray run run.yaml --dry-run                      check it, start nothing
  pdray plan run.yaml --on 8xH100                   what it will cost there, before it is started
  pdray run run.yaml                                run what is not done yet
  pdray select run.yaml --set selection.budget=0.1  cut again at another budget; nothing is rescored
  pdray show runs/my-run                            what came out
  pdray report runs/my-run                          the same and more as one HTML page, with pairs to read
  pdray export runs/my-run my-data                  the kept pairs as a data set with a card
  pdray data ultrafeedback --conflict 0.1 --out data/uf10   build a corpus from a published data set
  pdray submit run.yaml --address http://127.0.0.1:8265 --follow

exit codes:
  0  done, or nothing to do
  1  something failed that pdray did not foresee; the log under <run>/logs/latest says what
  2  the configuration, the input or the command line is wrong; the message says how to mend it
  3  another process is using the run folder
  129, 130, 143  ended by SIGHUP, Ctrl-C or SIGTERM; the same command continues where it stopped

completions:
  eval "$(register-python-argcomplete pdray)"       in ~/.bashrc or ~/.zshrc; --shell fish for fish
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``act`` of what it parses does the command."""
    parser = Parser(
        prog="pdray",
        description="Select preference data by preference divergence, on Ray: corpus to policy and its evaluation.",
        epilog=EPILOG,
        formatter_class=TEXT,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (start, run, look, plan, sharing, data, jobs):
        group.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    ready_streams()
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    return exit_code(_dispatch, parser.parse_args(argv))


def _dispatch(args: argparse.Namespace) -> int:
    _refuse_secrets(args)
    code: int = args.act(args)
    return code


def _refuse_secrets(args: argparse.Namespace) -> None:
    """Refuse a URI with a key or password, which results, messages and the list of processes would show.

    Raises:
        UserError: one holds a secret, which is not repeated.
    """
    for name, value in vars(args).items():
        texts = value if isinstance(value, list) else [value]
        if name not in TOLD_ELSEWHERE and any(isinstance(text, str) and holds_secret(text) for text in texts):
            raise UserError(
                f"the argument {name} holds a key or password, which messages and logs would show; take it out and "
                "give the credentials by environment variables or a profile of the storage"
            )

"""Running a config: all of it, up to the selection, or not at all but checked."""

from __future__ import annotations

import argparse
import contextlib

from pdray.cli.parser import Commands, Parser, add_command, take_config
from pdray.errors import EXIT_OK

STAGES = ("corpus", "proxies", "scores", "logprobs", "crossfit", "selection", "alignment", "evaluation")


def add(commands: Commands) -> None:
    """Add ``run`` and ``select``."""
    run = add_command(commands, "run", run_config, help="run every stage that is not done yet")
    take_run(run)
    run.add_argument("--until", choices=STAGES, help="stop after this stage")

    select = add_command(commands, "select", run_config, help="run up to the selection, without the alignment")
    take_run(select)
    select.set_defaults(until="selection")


def take_run(parser: Parser) -> None:
    """Let a command take what :func:`run_config` reads, but for ``until``."""
    take_config(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and the stages, start nothing"
    )
    parser.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS", help="for another driver of it to end")
    parser.set_defaults(run_folder=_run_folder)


def seconds(text: str) -> float:
    """A number of seconds on the command line."""
    found = float(text)
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds, 0 or more")
    return found


def run_config(args: argparse.Namespace) -> int:
    """What ``pdray run`` does with ``config``, ``overrides``, ``until``, ``dry_run`` and ``wait``."""
    if args.dry_run:
        from pdray.dryrun import dry_run

        print(dry_run(args.config, args.overrides, args.until))
        return EXIT_OK
    from pdray.api import Run

    Run(args.config, args.overrides).run(args.until, args.wait)
    return EXIT_OK


def _run_folder(args: argparse.Namespace) -> str | None:
    from pdray.config import load_config

    with contextlib.suppress(Exception):  # what it was is being told already
        return load_config(args.config, args.overrides).run
    return None

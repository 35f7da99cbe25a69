"""Handing the kept pairs on: as a folder, or to a hub."""

from __future__ import annotations

import argparse

from pdray.cli.parser import Commands, add_command, license_of
from pdray.errors import EXIT_OK

EPILOG = """\
examples:
  pdray export runs/my-run my-data --test 0.05                    data/*.parquet and README.md, the card
  pdray export runs/my-run my-data --format jsonl --license mit
  pdray push runs/my-run me/my-data --license cc-by-4.0           private, unless --public is given

The folder loads with datasets.load_dataset("my-data") and trains with trl dpo as it is.
"""


def add(commands: Commands) -> None:
    """Add ``export`` and ``push``."""
    export = add_command(
        commands, "export", _export, help="write the kept pairs as a data set with a card", epilog=EPILOG
    )
    export.add_argument("run", help="run folder, local or on object storage")
    export.add_argument("out", help="new or empty folder")
    export.add_argument("--format", choices=("parquet", "jsonl", "lance"), default="parquet", help="default: parquet")

    push = add_command(commands, "push", _push, help="upload the kept pairs with a card to a hub", epilog=EPILOG)
    push.add_argument("run", help="run folder, local or on object storage")
    push.add_argument("name", help="owner/name of the data set")
    push.add_argument("--public", action="store_true", help="a new data set is for everybody (default: private)")

    for command in (export, push):
        command.add_argument("--test", type=float, default=0.0, metavar="SHARE", help="share of prompts set aside")
        command.add_argument("--license", metavar="NAME", help="of the texts (default: as pdray data wrote it down)")


def _export(args: argparse.Namespace) -> int:
    from pdray.sharing.export import export

    print(export(args.run, args.out, args.format, args.test, license_of(args)))
    return EXIT_OK


def _push(args: argparse.Namespace) -> int:
    from pdray.sharing.push import push

    address, done = push(args.run, args.name, args.test, license_of(args), args.public)
    print(f"{address}: {sum(done.pairs.values()):,} pairs; licence: {done.license}")
    return EXIT_OK

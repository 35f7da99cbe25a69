"""Building a corpus from a published data set."""

from __future__ import annotations

import argparse

from pdray.cli.parser import Commands, add_command, license_of
from pdray.errors import EXIT_OK, UserError

DATA_SETS = (
    "ultrafeedback",
    "ultrafeedback-cleaned",
    "helpsteer",
    "helpsteer2",
    "helpsteer3",
    "pku-saferlhf",
    "shp",
    "rated",
)
EPILOG = """\
examples:
  pdray data ultrafeedback --conflict 0.1 --out data/uf10                from the hub
  pdray data ultrafeedback --input UltraFeedback/*.jsonl --conflict 0.3 --pairs 20000 --out data/uf30
  pdray data helpsteer2 --input train.jsonl.gz --seed 1 --out data/hs2   no level: the share that the draws give
  pdray data rated --input mine.parquet --out data/mine --license cc-by-4.0 \\
      --column prompt=question --column response=answer --column rating.helpfulness=help --column rating.safety=safe

A pair is in conflict where the other aspects' ratings oppose its label. docs/data.md states the rules.
"""


def add(commands: Commands) -> None:
    """Add ``data``."""
    data = add_command(
        commands,
        "data",
        _data,
        help="build a corpus from a published rated data set",
        description="One pair a prompt, labelled by one aspect, with the share of conflicts that you ask for.",
        epilog=EPILOG,
    )
    data.add_argument("name", choices=DATA_SETS, metavar="NAME", help=f"one of {', '.join(DATA_SETS)}")
    data.add_argument("--out", required=True, help="new or empty folder for pairs-*.parquet and manifest.yaml")
    data.add_argument("--input", nargs="+", metavar="PATH", help="files, folders or globs; left out: from the hub")
    data.add_argument("--conflict", type=float, metavar="SHARE", help="share of pairs in conflict, for example 0.1")
    data.add_argument("--pairs", type=int, metavar="N", help="how many pairs; left out: as many as there are")
    data.add_argument("--seed", type=int, default=0, help="of the draws of pairs and aspects (default: 0)")
    data.add_argument("--split", default="train", help="split of the data set on the hub (default: train)")
    data.add_argument("--license", metavar="NAME", help="licence of the rows, in place of the one that is known")
    data.add_argument(
        "--column",
        dest="columns",
        action="append",
        metavar="OURS=YOURS",
        default=[],
        help="rated: what a column is called in your files, for example rating.safety=harmless; may be repeated",
    )


def _data(args: argparse.Namespace) -> int:
    from pdray.builders.build import build, tell

    columns = dict(column.partition("=")[::2] for column in args.columns)
    if odd := [ours for ours, yours in columns.items() if not yours]:
        raise UserError(f"--column {odd[0]} names no column of yours; write it as OURS=YOURS")
    numbers = {"conflict": args.conflict, "pairs": args.pairs, "seed": args.seed}
    manifest = build(
        args.name, args.out, args.input, **numbers, split=args.split, columns=columns, license=license_of(args)
    )
    print(tell(manifest))
    print(f"written to {args.out}; set corpus.path to it")
    return EXIT_OK

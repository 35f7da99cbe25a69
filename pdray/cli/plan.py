"""What a run will cost, before it is started."""

from __future__ import annotations

import argparse
import json
import sys

from pdray.cli.parser import Commands, add_command, take_config
from pdray.errors import EXIT_OK, UserError

EPILOG = """\
examples:
  pdray plan run.yaml                                     on this machine: rows, tokens, time, memory, disk
  pdray plan run.yaml --on 8xH100                         on one node of eight; also H200, A100-80, A100-40, L40S
  pdray plan run.yaml --address http://HEAD:8265          on the Ray cluster that answers there, which is not joined
  pdray plan run.yaml --on 64xH100 --price 2.5            at your price of a GPU-hour, in dollars
  pdray plan run.yaml --calibrate                         measure this machine first, by finished runs or a small one
  pdray plan run.yaml --on 2xL40S --set alignment.num_workers=2 --json

Nothing is started, but by --calibrate. What does not fit is told with the setting that mends it; figures with ~ rest on
assumptions, which stand below the table. docs/plan.md states how they are made.
"""


def add(commands: Commands) -> None:
    """Add ``plan``."""
    plan = add_command(
        commands,
        "plan",
        _plan,
        only_prints=True,
        help="say what a run will cost before it is started",
        description="Rows and tokens by a sample of the corpus; time, GPU-hours, memory and disk of each stage.",
        epilog=EPILOG,
    )
    take_config(plan)
    plan.add_argument("--on", metavar="COUNTxGPU", help="hardware, for example 8xH100; left out: this machine")
    plan.add_argument("--address", metavar="URL", help="dashboard of a Ray cluster, whose nodes are the hardware")
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="of a GPU-hour; left out: a round figure")
    plan.add_argument(
        "--calibrate", action="store_true", help="measure this machine with the config's models, and keep the rates"
    )
    plan.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def _plan(args: argparse.Namespace) -> int:
    from pdray.api import Run

    run = Run(args.config, args.overrides)
    if args.calibrate:
        from pdray.plan.calibrate import calibrate

        if args.on is not None or args.address is not None:
            other = "--on" if args.on is not None else "--address"
            raise UserError(f"--calibrate measures this machine, and {other} names another; leave one of the two out")
        calibrate(run.config, lambda text: print(f"calibrate  {text}", file=sys.stderr, flush=True))
    plan = run.estimate(args.on, args.price, args.address)
    print(json.dumps(plan.as_json(), indent=2) if args.json else plan)
    return EXIT_OK

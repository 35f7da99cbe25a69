"""Looking at runs: figures in a terminal, and pages."""

from __future__ import annotations

import argparse
import json

from pdray.cli.parser import Commands, add_command
from pdray.errors import EXIT_OK

REPORT_EPILOG = """\
examples:
  pdray report runs/my-run                                writes runs/my-run/report.html
  pdray report s3://bucket/runs/mine --out mine.html      of a run on object storage
  pdray report runs/pd runs/random --out two.html         what differs, which pairs both keep, the curves of both
"""


def add(commands: Commands) -> None:
    """Add ``show`` and ``report``."""
    show = add_command(commands, "show", _show, only_prints=True, help="print what a run has produced")
    show.add_argument("run", help="run folder")
    show.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    report = add_command(
        commands,
        "report",
        _report,
        only_prints=True,
        help="write one HTML page about a run, or about two side by side",
        description="One self-contained HTML file about runs, finished or not; it loads nothing from a network.",
        epilog=REPORT_EPILOG,
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="run folder, local or on object storage; one or two")
    report.add_argument(
        "--out",
        metavar="FILE",
        help="file to write (default: report.html in the run folder; of two, report-SECOND.html in that of the first)",
    )


def _show(args: argparse.Namespace) -> int:
    from pdray.summary import summarise, table

    summary = summarise(args.run)
    print(json.dumps(summary, indent=2) if args.json else table(summary))
    return EXIT_OK


def _report(args: argparse.Namespace) -> int:
    from pdray.report.page import write_report

    print(write_report(args.runs, args.out))
    return EXIT_OK

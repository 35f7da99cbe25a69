"""The command line: parse, call, print. Nothing is computed here."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from pdray import __version__
from pdray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Stopped, UserError, printable, reason
from pdray.garbage import collect_garbage_less_often
from pdray.signals import stopped_by_signals

STAGES = ("corpus", "proxies", "scores", "logprobs", "crossfit", "selection", "alignment", "evaluation")
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
"""
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
DATA_EPILOG = """\
examples:
  pdray data ultrafeedback --conflict 0.1 --out data/uf10                from the hub
  pdray data ultrafeedback --input UltraFeedback/*.jsonl --conflict 0.3 --pairs 20000 --out data/uf30
  pdray data helpsteer2 --input train.jsonl.gz --seed 1 --out data/hs2   no level: the share that the draws give
  pdray data rated --input mine.parquet --out data/mine --license cc-by-4.0 \\
      --column prompt=question --column response=answer --column rating.helpfulness=help --column rating.safety=safe

A pair is in conflict where the other aspects' ratings oppose its label. docs/data.md states the rules.
"""
REPORT_EPILOG = """\
examples:
  pdray report runs/my-run                                writes runs/my-run/report.html
  pdray report s3://bucket/runs/mine --out mine.html      of a run on object storage
  pdray report runs/pd runs/random --out two.html         what differs, which pairs both keep, the curves of both
"""
JOBS_EPILOG = """\
examples:
  pdray submit run.yaml --address http://127.0.0.1:8265            prints the name of the job
  pdray status --address http://127.0.0.1:8265
  pdray logs pdray-20260101-120000-a1b2c3 --address http://127.0.0.1:8265 --follow
  pdray stop pdray-20260101-120000-a1b2c3 --address http://127.0.0.1:8265

The token is that of RAY_AUTH_TOKEN or of the file that RAY_AUTH_TOKEN_PATH names. Submitting a config again goes on in
the same run folder.
"""
SHARING_EPILOG = """\
examples:
  pdray export runs/my-run my-data --test 0.05                    data/*.parquet and README.md, the card
  pdray export runs/my-run my-data --format jsonl --license mit
  pdray push runs/my-run me/my-data --license cc-by-4.0           private, unless --public is given

The folder loads with datasets.load_dataset("my-data") and trains with trl dpo as it is.
"""
PLAN_EPILOG = """\
examples:
  pdray plan run.yaml                                     on this machine: rows, tokens, time, memory, disk
  pdray plan run.yaml --on 8xH100                         on one node of eight; also H200, A100-80, L40S
  pdray plan run.yaml --on 64xH100 --price 2.5            at your price of a GPU-hour, in dollars
  pdray plan run.yaml --calibrate                         measure this machine first, by finished runs or a small one
  pdray plan run.yaml --on 2xL40S --set alignment.num_workers=2 --json

Nothing is started, but by --calibrate. What does not fit is told with the setting that mends it; figures with ~ rest on
assumptions, which stand below the table. docs/plan.md states how they are made.
"""


class Parser(argparse.ArgumentParser):
    """Says on one line what is wrong, whatever the words of the command line hold."""

    def error(self, message: str) -> NoReturn:
        """See :meth:`argparse.ArgumentParser.error`."""
        super().error(printable(message))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="pdray",
        description="Select preference data by preference divergence, on Ray: corpus to policy and its evaluation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    commands.add_parser("init", help="print a commented configuration")

    run = _with_config(commands.add_parser("run", help="run every stage that is not done yet"))
    run.add_argument("--until", choices=STAGES, help="stop after this stage")
    run.add_argument("--dry-run", action="store_true", help="print the resolved config and the stages, start nothing")

    select = _with_config(commands.add_parser("select", help="run up to the selection, without the alignment"))
    select.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and the stages, start nothing"
    )

    show = commands.add_parser("show", help="print what a run has produced")
    show.add_argument("run", help="run folder")
    show.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    _add_report(commands)
    _add_plan(commands)
    _add_sharing(commands)

    demo = commands.add_parser("demo", help="run the stages on an embedded corpus")
    demo.add_argument("--folder", default="runs/demo", help="run folder (default: runs/demo)")
    demo.add_argument("--write-only", action="store_true", help="write corpus, models and run.yaml, and stop")

    models = commands.add_parser("models", help="build a model folder from an installed package, without a hub")
    models.add_argument("name", choices=("minilm", "smollm2"), help="minilm: proxy backbone; smollm2: policy")
    models.add_argument("folder", help="where to write it")

    _add_data(commands)

    _add_jobs(commands)

    commands.add_parser("version", help="print the version")
    return parser


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write one HTML page about a run, or about two side by side",
        description="One self-contained HTML file about runs, finished or not; it loads nothing from a network.",
        epilog=REPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="run folder, local or on object storage; one or two")
    report.add_argument("--out", metavar="FILE", help="file to write (default: report.html in the first run folder)")


def _add_jobs(commands: Any) -> None:
    made = {"epilog": JOBS_EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    submit = _with_config(commands.add_parser("submit", help="run on a Ray cluster through its jobs API", **made))
    submit.add_argument("--follow", action="store_true", help="print the job's log and exit with its code")
    status = commands.add_parser("status", help="list the jobs that were submitted to a cluster", **made)
    status.add_argument("job", nargs="?", help="name of a job; left out: all of pdray's")
    logs = commands.add_parser("logs", help="print what a submitted job has printed", **made)
    logs.add_argument("job", help="name of the job")
    logs.add_argument("--follow", action="store_true", help="go on until the job ends, and exit with its code")
    stop = commands.add_parser("stop", help="end a submitted job; submitting it again goes on", **made)
    stop.add_argument("job", help="name of the job")
    for command in (submit, status, logs, stop):
        command.add_argument("--address", required=True, help="jobs API of the head, as http://127.0.0.1:8265")


def _add_sharing(commands: Any) -> None:
    made = {"epilog": SHARING_EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    export = commands.add_parser("export", help="write the kept pairs as a data set with a card", **made)
    export.add_argument("run", help="run folder, local or on object storage")
    export.add_argument("out", help="new or empty folder")
    export.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="default: parquet")
    push = commands.add_parser("push", help="upload the kept pairs with a card to a hub", **made)
    push.add_argument("run", help="run folder, local or on object storage")
    push.add_argument("name", help="owner/name of the data set")
    push.add_argument("--public", action="store_true", help="a new data set is for everybody (default: private)")
    for command in (export, push):
        command.add_argument("--test", type=float, default=0.0, metavar="SHARE", help="share of prompts set aside")
        command.add_argument("--license", metavar="NAME", help="of the texts (default: as pdray data wrote it down)")


def _add_plan(commands: Any) -> None:
    plan = _with_config(
        commands.add_parser(
            "plan",
            help="say what a run will cost before it is started",
            description="Rows and tokens by a sample of the corpus; time, GPU-hours, memory and disk of each stage.",
            epilog=PLAN_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    plan.add_argument("--on", metavar="COUNTxGPU", help="hardware, for example 8xH100; left out: this machine")
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="of a GPU-hour; left out: a round figure")
    plan.add_argument(
        "--calibrate", action="store_true", help="measure this machine with the config's models, and keep the rates"
    )
    plan.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def _add_data(commands: Any) -> None:
    data = commands.add_parser(
        "data",
        help="build a corpus from a published rated data set",
        description="One pair a prompt, labelled by one aspect, with the share of conflicts that you ask for.",
        epilog=DATA_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def _with_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", help="YAML file (see pdray init)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="override a setting, for example --set selection.budget=0.1; may be repeated",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    collect_garbage_less_often()
    args = build_parser().parse_args(argv)
    _never_ask()
    try:
        with stopped_by_signals():
            code = _dispatch(args)
        sys.stdout.flush()  # here, where a reader that has gone is noticed, and not when Python ends
        return code
    except UserError as error:
        for sentence in error.sentences:
            print(f"pdray: {printable(sentence)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # a terminal that was closed hears nothing more
            print("pdray: interrupted; the same command continues where it stopped", file=sys.stderr, flush=True)
        return stop.exit_code if isinstance(stop, Stopped) else EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in `pdray show RUN | head`; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK if args.command in ("init", "show", "report", "plan", "version") else EXIT_FAILED
    except Exception as error:
        print(f"pdray: failed: {printable(reason(error))}", file=sys.stderr)
        _point_to_log(args)
        return EXIT_FAILED


def _never_ask() -> None:
    """Empty standard input, here and for whatever this starts: no library can wait for an answer."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "version":
        print(f"pdray {__version__}")
    elif args.command == "init":
        from pdray.template import render

        print(render(), end="")
    elif args.command == "show":
        from pdray.summary import summarise, table

        summary = summarise(args.run)
        print(json.dumps(summary, indent=2) if args.json else table(summary))
    elif args.command == "report":
        from pdray.report.page import write_report

        print(write_report(args.runs, args.out))
    elif args.command == "export":
        from pdray.sharing.export import export

        print(export(args.run, args.out, args.format, args.test, args.license))
    elif args.command == "push":
        from pdray.sharing.push import push

        address, done = push(args.run, args.name, args.test, args.license, args.public)
        print(f"{address}: {sum(done.pairs.values()):,} pairs; licence: {done.license}")
    elif args.command == "plan":
        _plan(args)
    elif args.command == "demo":
        from pdray.demo import run_demo

        return run_demo(args.folder, write_only=args.write_only)
    elif args.command == "models":
        from pdray.models.packaged import build

        build(args.name, args.folder)
    elif args.command == "data":
        _build_data(args)
    elif args.command == "submit":
        from pdray.submission.submit import submit

        return submit(args.config, args.overrides, args.address, args.follow)
    elif args.command == "status":
        from pdray.submission.jobs import status

        print(status(args.address, args.job))
    elif args.command == "logs":
        from pdray.submission.jobs import logs

        return logs(args.address, args.job, args.follow)
    elif args.command == "stop":
        from pdray.submission.jobs import stop

        print(stop(args.address, args.job))
    else:
        return _run(args)
    return EXIT_OK


def _plan(args: argparse.Namespace) -> None:
    from pdray.config import load_config
    from pdray.plan.estimate import estimate

    config = load_config(args.config, args.overrides)
    if args.calibrate:
        from pdray.plan.calibrate import calibrate

        if args.on is not None:
            raise UserError("--calibrate measures this machine, and --on names another; leave one of the two out")
        calibrate(config, lambda text: print(f"calibrate  {text}", file=sys.stderr, flush=True))
    plan = estimate(config, args.on, args.price)
    print(json.dumps(plan.as_json(), indent=2) if args.json else plan)


def _build_data(args: argparse.Namespace) -> None:
    from pdray.builders.build import build, tell

    columns = dict(column.partition("=")[::2] for column in args.columns)
    if odd := [ours for ours, yours in columns.items() if not yours]:
        raise UserError(f"--column {odd[0]} names no column of yours; write it as OURS=YOURS")
    numbers = {"conflict": args.conflict, "pairs": args.pairs, "seed": args.seed}
    manifest = build(
        args.name, args.out, args.input, **numbers, split=args.split, columns=columns, license=args.license
    )
    print(tell(manifest))
    print(f"written to {args.out}; set corpus.path to it")


def _run(args: argparse.Namespace) -> int:
    until = "selection" if args.command == "select" else args.until
    if args.dry_run:
        from pdray.dryrun import dry_run

        print(dry_run(args.config, args.overrides, until))
        return EXIT_OK
    from pdray.config import load_config
    from pdray.rounds import run

    return run(load_config(args.config, args.overrides), until)


def _point_to_log(args: argparse.Namespace) -> None:
    import traceback

    log = _log_of(args)
    if log is None:
        traceback.print_exc()
        return
    with open(log, "a") as file:
        traceback.print_exc(file=file)
    print(f"pdray: the full report stands at the end of {log}", file=sys.stderr)


def _log_of(args: argparse.Namespace) -> Path | None:
    """The log of the run that failed; None where there is none on this machine."""
    from pdray.paths import is_remote

    run = getattr(args, "folder", None)
    if args.command in ("run", "select"):
        from pdray.config import load_config

        with contextlib.suppress(Exception):  # what it was is being told already
            run = load_config(args.config, args.overrides).run
    log = Path(run or ".") / "logs" / "latest" / "ray.log"
    return log if run and not is_remote(run) and log.is_file() else None

"""Jobs on a Ray cluster, through its jobs API."""

from __future__ import annotations

import argparse

from pdray.cli.parser import Commands, add_command, take_config
from pdray.cli.run import STAGES, seconds
from pdray.errors import EXIT_OK

EPILOG = """\
examples:
  pdray submit run.yaml --address http://127.0.0.1:8265            prints the name of the job
  pdray submit run.yaml --address http://127.0.0.1:8265 --project . --follow    with the pdray of this folder
  pdray status --address http://127.0.0.1:8265
  pdray logs pdray-20260101-120000-a1b2c3 --address http://127.0.0.1:8265 --follow
  pdray stop pdray-20260101-120000-a1b2c3 --address http://127.0.0.1:8265

The token is that of RAY_AUTH_TOKEN or of the file that RAY_AUTH_TOKEN_PATH names. Submitting a config again goes on in
the same run folder.
"""


def add(commands: Commands) -> None:
    """Add ``submit``, ``status``, ``logs`` and ``stop``."""
    submit = add_command(commands, "submit", _submit, help="run on a Ray cluster through its jobs API", epilog=EPILOG)
    take_config(submit)
    submit.add_argument("--until", choices=STAGES, help="stop after this stage")
    submit.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS", help="for another driver of it to end")
    after = submit.add_mutually_exclusive_group()
    after.add_argument("--follow", action="store_true", help="print the job's log and exit with its code")
    after.add_argument("--detach", action="store_true", help="print the job's name and end (default)")
    submit.add_argument("--project", metavar="PATH", help="ship this wheel or folder of pdray (default: the installed)")
    submit.add_argument("--runtime-env", metavar="FILE", help="YAML of a Ray runtime environment: pip, env_vars, ...")
    submit.add_argument("--driver-cpus", type=float, default=0.0, metavar="N", help="reserved for the driver")
    submit.add_argument("--driver-memory", type=float, default=0.0, metavar="GIB", help="reserved for the driver")

    status = add_command(
        commands, "status", _status, help="list the jobs that were submitted to a cluster", epilog=EPILOG
    )
    status.add_argument("job", nargs="?", help="name of a job; left out: all of pdray's")

    logs = add_command(commands, "logs", _logs, help="print what a submitted job has printed", epilog=EPILOG)
    logs.add_argument("job", help="name of the job")
    logs.add_argument("--follow", action="store_true", help="go on until the job ends, and exit with its code")

    stop = add_command(commands, "stop", _stop, help="end a submitted job; submitting it again goes on", epilog=EPILOG)
    stop.add_argument("job", help="name of the job")

    for command in (submit, status, logs, stop):
        command.add_argument("--address", required=True, help="jobs API of the head, as http://127.0.0.1:8265")


def _submit(args: argparse.Namespace) -> int:
    from pdray.submission.shipment import Shipment
    from pdray.submission.submit import submit_and_tell

    shipment = Shipment(args.project, args.runtime_env, args.driver_cpus, args.driver_memory)
    return submit_and_tell(
        args.config, args.overrides, args.address, args.follow, shipment, until=args.until, wait=args.wait
    )


def _status(args: argparse.Namespace) -> int:
    from pdray.submission.jobs import status

    print(status(args.address, args.job))
    return EXIT_OK


def _logs(args: argparse.Namespace) -> int:
    from pdray.submission.jobs import logs

    return logs(args.address, args.job, args.follow)


def _stop(args: argparse.Namespace) -> int:
    from pdray.submission.jobs import stop

    print(stop(args.address, args.job))
    return EXIT_OK

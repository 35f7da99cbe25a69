"""How an action ends: its exit code, and what is said where it failed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pdray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Stopped, UserError, printable, reason
from pdray.garbage import collect_garbage_less_often
from pdray.signals import stopped_by_signals


def exit_code(act: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Act, and turn whatever comes of it into sentences and an exit code.

    Args:
        act: returns the exit code of what succeeds.
        args: for ``act``. ``only_prints`` says whether a reader that goes early is no failure; ``run_folder``, where
            there is one, finds the run whose log is told of.
    """
    collect_garbage_less_often()
    _never_ask()
    try:
        with stopped_by_signals():
            code = act(args)
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
        return EXIT_OK if args.only_prints else EXIT_FAILED
    except Exception as error:
        print(f"pdray: failed: {printable(reason(error))}", file=sys.stderr)
        _point_to_log(args)
        return EXIT_FAILED


def _never_ask() -> None:
    """Empty standard input, here and for whatever this starts: no library can wait for an answer."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


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

    find = getattr(args, "run_folder", None)
    run = find(args) if find else None
    if not run or is_remote(run):
        return None
    log = Path(run) / "logs" / "latest" / "ray.log"
    return log if log.is_file() else None

"""How an action ends: its exit code, and what is said where it failed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from pdray.cli.streams import check_surroundings, give_up_output, told_of_output
from pdray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, Stopped, UserError, printable, reason
from pdray.garbage import collect_garbage_less_often
from pdray.signals import stopped_by_signals

# What the system refuses, and what helps; no errors that a mistake of pdray's own might lead to.
CURES = {
    errno.EACCES: "open it to this user, or name another place",
    errno.EPERM: "open it to this user, or name another place",
    errno.EROFS: "nothing can be written there: name another place",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOSPC: "make room there and run again",
    errno.EDQUOT: "make room there and run again",
    errno.ELOOP: "its links lead in a circle: mend them, or name another place",
    errno.EMFILE: "let this shell open more files: ulimit -n",
}


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
        check_surroundings()
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
        give_up_output()  # the reader has gone, as in `pdray show RUN | head`
        return EXIT_OK if args.only_prints else EXIT_FAILED
    except Exception as error:
        if told := _told_by_system(error):
            print(f"pdray: {printable(told)}", file=sys.stderr)
            _add_to_log(args)
            return EXIT_USER_ERROR
        print(f"pdray: failed: {printable(reason(error))}", file=sys.stderr)
        if not _add_to_log(args):
            traceback.print_exc()
        return EXIT_FAILED


def _told_by_system(error: Exception) -> str | None:
    """A sentence about what the system refuses; None of every other error."""
    if not isinstance(error, OSError):
        return None
    if error.filename is None and (told := told_of_output()):
        return told
    cure = CURES.get(error.errno or 0)
    return cure and f"{error.filename or 'standard output, or a file that is being written'}: {error.strerror}; {cure}"


def _never_ask() -> None:
    """Empty standard input, here and for whatever this starts: no library can wait for an answer."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:  # where standard input is closed, it is that number already
        os.dup2(null, 0)
        os.close(null)


def _add_to_log(args: argparse.Namespace) -> bool:
    """Write the traceback to the log of the run, and say so; whether there is one that takes it."""
    log = _log_of(args)
    if log is None:
        return False
    try:
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    except OSError:  # perhaps what has failed
        return False
    print(f"pdray: the full report stands at the end of {log}", file=sys.stderr)
    return True


def _log_of(args: argparse.Namespace) -> Path | None:
    """The log of the run that failed; None where there is none on this machine."""
    from pdray.paths import is_remote

    find = getattr(args, "run_folder", None)
    run = find(args) if find else None
    if not run or is_remote(run):
        return None
    log = Path(run) / "logs" / "latest" / "ray.log"
    return log if os.path.isfile(log) else None

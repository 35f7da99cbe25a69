"""Standard output and standard error, whatever the shell has made of them."""

from __future__ import annotations

import io
import os
import sys

from pdray.errors import UserError

ELSEWHERE = "redirect it to a file or a pipe, or to /dev/null"


def ready_streams() -> None:
    """Let standard output take every letter, escaped if need be, and open a standard error that is closed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        # Number 2 itself: it would go to the next file that is opened, and libraries write there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.set_inheritable(2, True)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process


def check_surroundings() -> None:
    """Refuse a process that nobody can hear, or that stands nowhere.

    Raises:
        UserError: standard output is closed, or the working directory is gone.
    """
    if sys.stdout is None:
        raise UserError(f"standard output is closed; {ELSEWHERE}")
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working directory is gone or closed to this user; cd to another one") from None


def told_of_output() -> str | None:
    """A sentence where standard output takes nothing; what was meant for it is then given up."""
    try:
        sys.stdout.flush()
    except OSError as error:
        give_up_output()
        return f"standard output cannot be written ({error.strerror or error}); make room, or {ELSEWHERE}"
    return None


def give_up_output() -> None:
    """Let what is still meant for standard output vanish; Python would complain once more when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

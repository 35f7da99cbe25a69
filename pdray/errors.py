"""The errors a user can mend, the exit codes that the command line gives them, and their way back from workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_BUSY = 3
EXIT_INTERRUPTED = 130
EXIT_SIGNAL = 128  # plus the number of the signal, as shells count
MOST_SHOWN = 1500  # characters of a sentence


class Stopped(KeyboardInterrupt):
    """The process was asked to end: Ctrl-C, SIGTERM, or SIGHUP of a terminal that was closed.

    Attributes:
        exit_code: 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = EXIT_SIGNAL + number


class UserError(ValueError):
    """Something the user can mend: one sentence or several, each with the value, the rule and the cure."""

    exit_code = EXIT_USER_ERROR

    @property
    def sentences(self) -> list[str]:
        """What is wrong, one by one; a sentence may quote a line break."""
        return [str(sentence) for sentence in self.args]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


class RunFolderBusyError(UserError):
    """Another live process holds the run folder."""

    exit_code = EXIT_BUSY


def check_together(checks: Iterable[Callable[[], object]]) -> None:
    """Run every check, also after one has refused.

    Raises:
        UserError: all that they refused, a sentence a line, each once.
    """
    refused: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            refused += error.sentences
    if refused:
        raise UserError(*dict.fromkeys(refused))


def printable(text: str) -> str:
    """A sentence as one line of a terminal, of very long ones both ends."""
    shown = escaped(text)
    if len(shown) <= MOST_SHOWN:
        return shown
    return f"{shown[: MOST_SHOWN // 2]} … {shown[-MOST_SHOWN // 2 :]}"


def escaped(text: str) -> str:
    """One line of a terminal of what may hold line breaks, control characters or halves of characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def reason(error: BaseException) -> str:
    """What went wrong at first, on one line: the cause below the wrapping of Ray, Ray Data and Ray Train."""
    causes = [one for one in _causes(error) if not hasattr(one, "cause")] or [error]
    cause = causes[-1]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # A wrapper without its cause carries a traceback, whose last line names the error.
    text = (lines[-1] if lines[0].startswith(TRACEBACKS) else lines[0]) if lines else "no message"
    return text if text.startswith(type(cause).__name__) else f"{type(cause).__name__}: {text}"


TRACEBACKS = ("Traceback (most recent call last)", "\x1b[36mray::", "ray::")
QUOTED = ("RemoteTraceback", "_RemoteTraceback")  # of a pool's process, whose error stands before it


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what led to it, the first cause last."""
    chain: list[BaseException] = []
    current: Any = error
    while isinstance(current, BaseException) and current not in chain:
        chain.append(current)
        failures = list((getattr(current, "worker_failures", None) or {}).values())
        below = [getattr(current, name, None) for name in ("cause", "controller_failure")] + failures
        below.append(None if type(current.__cause__).__name__ in QUOTED else current.__cause__)
        current = next((one for one in below if isinstance(one, BaseException)), None)
    return chain


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise a worker's :class:`UserError` as itself, without the wrapping of Ray, Ray Data or Ray Train."""
    try:
        yield
    except Exception as error:
        mendable = _user_error_in(error)
        if mendable is None or mendable is error:
            raise
        raise mendable from None


def _user_error_in(error: BaseException) -> UserError | None:
    """The UserError that a failure of Ray tasks, Ray Data or Ray Train goes back to, if it does."""
    seen: list[BaseException] = []
    pending: list[Any] = [error]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or current in seen:
            continue
        # Ray's own wrappers inherit from the cause and carry a traceback for a message.
        if type(current) is UserError:
            return current
        seen.append(current)
        pending += [getattr(current, name, None) for name in ("cause", "controller_failure", "__cause__")]
        pending += list(getattr(current, "worker_failures", {}).values())
        pending.append(current.__context__)
    return None

"""The errors a user can mend, the exit codes that the command line gives them, and their way back from workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_BUSY = 3
EXIT_INTERRUPTED = 130


class UserError(ValueError):
    """Something the user can mend. The message names the value, the rule and the cure."""

    exit_code = EXIT_USER_ERROR


class RunFolderBusyError(UserError):
    """Another live process holds the run folder."""

    exit_code = EXIT_BUSY


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

"""SIGTERM, SIGHUP and Ctrl-C end a command alike: through every ``finally``, with one line and an exit code."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from pdray.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`~pdray.errors.Stopped` in the main thread when the process is asked to end.

    The first request counts; while the block is cleared up after it, others are not heard. A signal that the caller
    has ignored, as ``nohup`` does with SIGHUP and a shell with the SIGINT of what runs in its background, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that the block replaces: Ray installs its own for SIGTERM.

    Ray's exits with the number of the signal; one that comes while it stands is handed to the handler before it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in STOPPING if (handler := signal.getsignal(number)) is not None}
    missed = False
    try:
        yield
    except SystemExit as stop:
        missed = stop.code == signal.SIGTERM and callable(before.get(signal.SIGTERM))
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if missed:
            signal.raise_signal(signal.SIGTERM)


def _stop(number: int, frame: Any) -> NoReturn:
    for other in STOPPING:
        if signal.getsignal(other) is _stop:
            signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)

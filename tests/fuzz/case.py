"""One case: a command run in this process, and the property that every case has to keep.

It runs, or it ends in sentences for the user with an exit code of docs/first-hour.md: never a traceback, never a hang.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from pdray.cli import main

LIMIT = 60.0  # seconds of a case, which takes some hundredths of one: the machine may be busy
MEMORY = 4 << 30  # bytes that a tiny model may take
LONGEST = 2_000  # characters of a sentence; one path alone may have 4096, but none here has
STARTS_RAY = -1  # in place of an exit code: everything was accepted, and Ray would have been started
TALLY: Counter[tuple[str, str]] = Counter()


class Hang(BaseException):
    """A case took longer than its limit; no handler of ordinary errors takes it for one."""


class RayReached(BaseException):
    """A run has come as far as Ray."""


class FakeRaySession:
    """Stands in for the session of Ray, which takes seconds to start: ends the run where it would begin."""

    def __init__(self, cluster: Any) -> None:
        pass

    def __enter__(self) -> NoReturn:
        raise RayReached

    def __exit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        words: of the command.
        code: its exit code, or :data:`STARTS_RAY`.
        out, err: what it printed.
    """

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def name(self) -> str:
        """For the count of cases."""
        return {0: "ran", 1: "failed", 2: "refused", 3: "in use", STARTS_RAY: "would start Ray"}.get(
            self.code, f"code {self.code}"
        )


@contextlib.contextmanager
def time_limit(seconds: float = LIMIT) -> Iterator[None]:
    """Raise :class:`Hang` in the block when its time is over, and again, for as long as it does not end.

    What hangs in native code hears no signal; it ends the whole process, with a traceback of every thread.
    """

    def over(number: int, frame: object) -> NoReturn:
        raise Hang(f"longer than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    faulthandler.dump_traceback_later(4 * seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory_limit() -> Iterator[None]:
    """No more than :data:`MEMORY` more of address space in the block: what asks for it gets an error,
    not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_command(*words: str) -> Outcome:
    """Run a command line in this process, with streams like those of a terminal: strict UTF-8 out,
    escapes in errors."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit():
        try:
            code = main(list(words))
        except RayReached:
            code = STARTS_RAY
        except SystemExit as end:  # argparse's
            code = end.code if isinstance(end.code, int) else 1
    return Outcome(words, code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def check(kind: str, *words: str) -> Outcome:
    """Run a case, count it, and fail unless the property holds."""
    try:
        outcome = run_command(*words)
    except BaseException as error:
        TALLY[kind, "hung" if isinstance(error, Hang) else "raised"] += 1
        raise
    TALLY[kind, outcome.name] += 1
    judge(outcome)
    return outcome


def judge(outcome: Outcome) -> None:
    """Fail unless a command ended as docs/first-hour.md says."""
    told = f"pdray {' '.join(map(repr, outcome.words))}\n{outcome.err}"
    assert outcome.code in (0, 2, 3, STARTS_RAY), told
    assert "Traceback" not in outcome.err + outcome.out, told
    if outcome.code in (0, STARTS_RAY):
        return
    sentences = outcome.err.splitlines()
    if sentences and sentences[0].startswith("usage: "):  # argparse's: how the command is used, then what is wrong
        sentences = sentences[-1:]
    assert sentences, told
    for sentence in sentences:
        assert sentence.startswith("pdray"), told
        assert len(sentence.split()) > 3, told
        assert len(sentence) < LONGEST, told

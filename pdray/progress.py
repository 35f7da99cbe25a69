"""Progress of long stages: workers count in a process beside the driver, the driver draws the line."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from pdray import metrics, tracing
from pdray.background import repeated
from pdray.console import Console, clock
from pdray.live import StepState
from pdray.runtime.beside import Kept, kept_beside
from pdray.watchdog import TASK, UnderWay, Watchdog

POLL_SECONDS = 0.5
SETTLE_SECONDS = 1.0
ANSWER_SECONDS = 10.0  # of the process beside the driver that counts


# Name and unit.
Part = tuple[str, str]
# Done, the total where it is known, the part under way, and workers that are at a shard, where they say so.
Counts = tuple[int, int | None, Part | None, int | None]


class Counted:
    """What is done so far."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None
        self.part: Part | None = None
        self.begun: dict[str, tuple[str, float]] | None = None
        self.asked: float | None = None
        self.up: float | None = None

    def add(self, count: int) -> None:
        """So many more rows or steps are done."""
        self.done += count

    def set(self, done: int, total: int, part: Part | None = None) -> None:
        """So many are done, of so many, in a part of the step that has its own name and unit."""
        self.done, self.total, self.part = done, total, part

    def get(self) -> Counts:
        """What is done, by whom; see :data:`Counts`."""
        begun = self.begun
        # A worker may be at several shards, and a task is one of its own.
        busy = None if begun is None else len({label if who == TASK else who for label, (who, _) in begun.items()})
        return self.done, self.total, self.part, busy

    def ask(self) -> None:
        """Workers are asked for now."""
        self.asked = time.monotonic()

    def started(self) -> None:
        """The workers are up; the first time counts."""
        self.up = self.up or time.monotonic()

    def start_seconds(self) -> float | None:
        """From asking for workers until they were up, by the clock of this process; None where they never were."""
        return None if self.asked is None or self.up is None else round(self.up - self.asked, 3)

    def begin(self, label: str, who: str) -> None:
        """Somebody is at a shard now; whoever was at it before has been lost."""
        self.begun = {**(self.begun or {}), label: (who, time.monotonic())}

    def end(self, label: str) -> None:
        """A shard is done, or has failed."""
        self.begun = {other: value for other, value in (self.begun or {}).items() if other != label}

    def under_way(self) -> list[UnderWay] | None:
        """The shards that were begun and not ended; None where nobody ever began one."""
        now, begun = time.monotonic(), self.begun
        return None if begun is None else [(label, who, now - since) for label, (who, since) in begun.items()]


class Counter:
    """The workers' end: picklable, and never waits there."""

    def __init__(self, counted: Kept) -> None:
        self._counted = counted

    def add(self, count: int) -> None:
        """So many more rows or steps are done."""
        self._counted.tell("add", count)

    def set(self, done: int, total: int, part: Part | None = None) -> None:
        """So many are done, of so many, in a part of the step that has its own name and unit."""
        self._counted.tell("set", done, total, part)

    def started(self) -> None:
        """The workers are up."""
        self._counted.tell("started")

    def ask(self) -> None:
        """Workers are asked for now."""
        self._counted.tell("ask")

    def start_seconds(self) -> float | None:
        """From asking for workers until they were up, None where that is not known; the driver waits for it."""
        import ray

        try:
            seconds: float | None = self._counted.ask("start_seconds", timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return None  # a figure must not fail what it is of
        return seconds

    @contextlib.contextmanager
    def working(self, label: str) -> Iterator[None]:
        """This process is at a shard while the block runs; the watchdog names it when nothing goes on."""
        self._counted.tell("begin", label, f"process {os.getpid()} on {os.uname().nodename}")
        try:
            yield
        finally:
            self._counted.tell("end", label)


class Progress:
    """The driver's end.

    Args:
        console: where the line is drawn.
        stage: name at the start of the line.
    """

    def __init__(self, console: Console, stage: str) -> None:
        self.console = console
        self.stage = stage
        self.watchdog = Watchdog(self.note)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The stage runs while the block does: it is watched, and what is measured and traced is of this stage."""
        with self.watchdog.watching(), metrics.of_stage(self.stage), tracing.span(f"stage {self.stage}"):
            yield

    @contextlib.contextmanager
    def counting(self, what: str, total: int | None = None, unit: str = "rows") -> Iterator[Counter]:
        """Draw a line for a step of the stage while the block runs.

        Args:
            what: the step in a word or two.
            total: rows or steps expected, if known.
            unit: what is counted.
        """
        import ray

        with kept_beside(Counted) as counted:

            def ask(method: str) -> Any:
                try:
                    return counted.ask(method, timeout=ANSWER_SECONDS)
                except ray.exceptions.RayError:
                    return None  # a line that cannot be drawn must not hide why the stage failed, nor fail it

            def settle() -> None:
                """Counts that workers sent last may still be on their way."""
                end = time.monotonic() + SETTLE_SECONDS
                while total and (found := ask("get")) and found[0] < total and time.monotonic() < end:
                    time.sleep(SETTLE_SECONDS / 20)

            with self._drawing(what, total, unit, lambda: ask("get"), lambda: ask("under_way")):
                yield Counter(counted)
                settle()

    @contextlib.contextmanager
    def counting_here(self, what: str, total: int | None = None, unit: str = "rows") -> Iterator[Counted]:
        """The same for a step that the driver itself counts."""
        counted = Counted()
        with self._drawing(what, total, unit, counted.get, counted.under_way):
            yield counted

    @contextlib.contextmanager
    def _drawing(
        self,
        what: str,
        total: int | None,
        unit: str,
        get: Callable[[], Counts | None],
        under_way: Callable[[], list[UnderWay] | None],
    ) -> Iterator[None]:
        begun: dict[Part, tuple[float, Pace]] = {(what, unit): (time.monotonic(), Pace())}
        ended = False

        def draw(final: bool = False) -> None:
            found = get()
            if found is None:
                return
            now = time.monotonic()
            done, reported, part, workers = found
            name, counted = part or (what, unit)
            start, pace = begun.setdefault((name, counted), (now, Pace()))
            expected = reported or total
            line = describe(done, expected, counted, now - start, pace.rate(done, now), ended)
            self.watchdog.saw(f"{name}: {line.partition(' · ')[0]}", (name, done), under_way)
            share = min(1.0, done / expected) if expected else None
            step = StepState(name, line, share, workers, self.watchdog.silence)
            self.console.progress(f"{self.stage:<10} {name}: {line}", final, step)
            metrics.level(metrics.DONE, done, step=name, unit=counted)
            metrics.level(metrics.QUEUE, 0 if final else max(0, (expected or done) - done), step=name, unit=counted)
            metrics.level(metrics.WORKERS, 0 if final else workers or 0)

        try:
            with repeated(draw, POLL_SECONDS):
                yield
            ended = True
        finally:
            draw(final=True)
            self.watchdog.saw(f"after {what}", (what, "ended"))

    def note(self, text: str) -> None:
        """A line that stays, for example why a stage was degraded."""
        self.console.say(f"{self.stage:<10} {text}")


class Pace:
    """The rate since the first count, so that starting the workers does not count as slow work."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def rate(self, done: int, now: float) -> float | None:
        """Per second; None until there are two different counts.

        Args:
            done: rows or steps so far.
            now: seconds on a monotonic clock.
        """
        if not done:
            return None
        if self._first is None:
            self._first = done, now
        counted, since = done - self._first[0], now - self._first[1]
        return counted / since if counted and since > 0 else None


def describe(done: int, total: int | None, unit: str, seconds: float, rate: float | None, ended: bool = False) -> str:
    """``1,200/4,642 rows · 12.5 rows/s · 4:35 left``.

    Args:
        done: rows or steps so far; a retried task may count twice, so it is cut at ``total``.
        total: rows or steps expected, or None.
        unit: what is counted.
        seconds: time since the start.
        rate: rows or steps per second, None while it is not known.
        ended: the step has; that tells it where no total does.
    """
    if total is not None:
        done = min(done, total)
    parts = [f"{done:,}{f'/{total:,}' if total is not None else ''} {unit}"]
    if rate:
        parts.append(f"{rate:{',.1f' if rate >= 1 else '.2g'}} {unit}/s")
    if done >= total if total is not None else ended:
        parts.append(f"done in {clock(seconds)}")
    elif total is not None and rate:
        parts.append(f"{clock((total - done) / rate)} left")
    else:
        parts.append(f"{clock(seconds)} so far")
    return " · ".join(parts)

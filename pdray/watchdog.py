"""Says what stands still: a stage that came no further for minutes, with the shards that wait, where and since when."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from pdray.background import repeated
from pdray.console import clock

STALL_SECONDS = 300.0
LOOK_SECONDS = 1.0
SHOWN = 5
TASK = "a Ray task"

# Label, who is at it, and for how many seconds.
UnderWay = tuple[str, str, float]


class Watchdog:
    """Of one stage. It ends nothing: what may take how long is for the deadlines of the workers.

    Args:
        tell: the user.
        stall: seconds without progress after which it speaks, and again after twice as many, and so on.
        now: seconds, monotonic.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        stall: float = STALL_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._stall, self._now = tell, stall, now
        self._at = "nothing was counted yet"
        self._seen: object = None
        self._under_way: Callable[[], list[UnderWay] | None] | None = None
        self._since, self._next = now(), stall

    def saw(self, at: str, count: object, under_way: Callable[[], list[UnderWay] | None] | None = None) -> None:
        """Where the stage is now.

        Args:
            at: the step and how far it is, in words.
            count: what changes when the stage has come further.
            under_way: asks for the shards that workers are at; None where nobody says.
        """
        self._at, self._under_way = at, under_way
        if count == self._seen:
            return
        silence = self.silence
        self._seen, self._since = count, self._now()
        if self._next > self._stall:
            self._tell(f"goes on after {clock(silence)}: {at}")
        self._next = self._stall

    @property
    def silence(self) -> float:
        """Seconds since the stage came further."""
        return self._now() - self._since

    def look(self) -> None:
        """Speak, if it is time to."""
        silence = self.silence
        if silence < self._next:
            return
        self._next = 2 * self._next
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - silence))
        self._tell(f"no progress for {clock(silence)} (since {since}): {self._at}{self._workers()}")

    def _workers(self) -> str:
        found = self._under_way() if self._under_way else None
        if found is None:
            return ""
        if not found:
            return "; no worker is at a shard, Ray may be waiting for CPUs or GPUs"
        longest = sorted(found, key=lambda one: -one[2])
        shown = [f"{label} in {who} for {clock(seconds)}" for label, who, seconds in longest[:SHOWN]]
        return "; " + ", ".join(shown + ([f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look once a second while the block runs."""
        with repeated(self.look, LOOK_SECONDS):
            yield

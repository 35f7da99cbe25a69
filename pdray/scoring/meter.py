"""Counts what the scoring actors did, for the rates in the manifest."""

from __future__ import annotations

import time
from typing import Any

import ray

from pdray.runtime import driver_node

RATES = ("pairs_per_second", "texts_per_second", "tokens_per_second", "scoring_seconds")


class Meter:
    """Adds up the batches of all actors on one clock.

    The clock starts when the first batch enters an engine and stops when the last one leaves: engine load, parity
    and the start of Ray are outside. A batch that Ray repeats counts twice, as it was computed twice.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._end = 0.0
        self._pairs = self._texts = self._tokens = 0

    def add(self, seconds: float, pairs: int, texts: int, tokens: int) -> None:
        """A batch that took ``seconds`` has just ended."""
        now = time.monotonic()
        begun = now - seconds
        self._start = begun if self._start is None else min(self._start, begun)
        self._end = now
        self._pairs += pairs
        self._texts += texts
        self._tokens += tokens

    def rates(self) -> dict[str, float]:
        """Pairs, texts and tokens per second, and the seconds they rest on; zeros before the first batch."""
        seconds = self._end - self._start if self._start is not None else 0.0
        per = 1 / seconds if seconds > 0 else 0.0
        values = (self._pairs * per, self._texts * per, self._tokens * per, seconds)
        return {name: round(value, 3) for name, value in zip(RATES, values, strict=True)}


def start_meter() -> Any:
    """A meter as a Ray actor, on the driver's node: no other node's end takes it away."""
    return ray.remote(num_cpus=0, scheduling_strategy=driver_node())(Meter).remote()

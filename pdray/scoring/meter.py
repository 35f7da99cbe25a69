"""Counts what the scoring actors did, for the rates in the manifest."""

from __future__ import annotations

import time
from typing import Any

from pdray.runtime import driver_node


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
        return {
            "pairs_per_second": round(self._pairs * per, 3),
            "texts_per_second": round(self._texts * per, 3),
            "tokens_per_second": round(self._tokens * per, 1),
            "scoring_seconds": round(seconds, 3),
        }


def start_meter() -> Any:
    """A meter as a Ray actor on the driver's node: a worker node that is lost does not take it away."""
    import ray

    return ray.remote(num_cpus=0, scheduling_strategy=driver_node())(Meter).remote()


def stop_meter(meter: Any) -> dict[str, float | None]:
    """The rates of :meth:`Meter.rates`, and the end of the actor.

    Returns:
        None for every rate where the actor was lost: the rows are written, only the measure of them is gone.
    """
    import ray

    try:
        rates: dict[str, float | None] = ray.get(meter.rates.remote())
    except ray.exceptions.RayActorError:
        return dict.fromkeys(Meter().rates())
    ray.kill(meter)
    return rates

"""What a run tells Prometheus through Ray: counted in the driver alone, where the counts of all workers come together.

Ray puts ``ray_`` before the names and ``_total`` behind those of counters, and serves them from the node of the driver.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number that Ray exports.

    Attributes:
        name: as given to Ray.
        about: what it is, in a sentence without an end.
        is_counter: whether it only grows; else it is what there is now.
        tags: beside ``stage``, which all of them have.
    """

    name: str
    about: str
    is_counter: bool
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """As Prometheus knows it."""
        return f"ray_{self.name}_total" if self.is_counter else f"ray_{self.name}"


PAIRS = Metric("pdray_pairs", "Pairs in shards that a stage has finished", True)
TEXTS = Metric("pdray_texts", "Texts that models have read", True)
TOKENS = Metric("pdray_tokens", "Tokens that models have read", True)
FAILURES = Metric(
    "pdray_failures", "Attempts at a shard that failed, texts without an output, rows set aside", True, ("what",)
)
DONE = Metric("pdray_done", "What the progress line counts", False, ("step", "unit"))
QUEUE = Metric("pdray_queue", "What the progress line still expects", False, ("step", "unit"))
WORKERS = Metric("pdray_workers", "Workers at a shard", False)
METRICS = (PAIRS, TEXTS, TOKENS, FAILURES, DONE, QUEUE, WORKERS)

_made: dict[str, Any] = {}
_stage = [""]


@contextlib.contextmanager
def of_stage(name: str) -> Iterator[None]:
    """What is told while the block runs is of this stage; a process runs one at a time."""
    _stage[0] = name
    _made.clear()  # Ray forgets them with its session, of which several rounds have one each
    try:
        yield
    finally:
        _stage[0] = ""


def count(metric: Metric, number: float, **tags: str) -> None:
    """So many more; nothing without a stage or without a Ray to tell it to."""
    if number > 0 and _stage[0] and _has_ray():
        _found(metric).inc(number, {"stage": _stage[0], **tags})


def level(metric: Metric, number: float, **tags: str) -> None:
    """So many now; see :func:`count`."""
    if _stage[0] and _has_ray():
        _found(metric).set(number, {"stage": _stage[0], **tags})


def _has_ray() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _found(metric: Metric) -> Any:
    if metric.name not in _made:
        from ray.util.metrics import Counter, Gauge

        kind = Counter if metric.is_counter else Gauge
        _made[metric.name] = kind(metric.name, metric.about, ("stage", *metric.tags))
    return _made[metric.name]

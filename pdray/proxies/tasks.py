"""Ray tasks of one CPU, as many at a time as the cluster has CPUs; nothing waits in Ray's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pdray.shards import deadline

Result = TypeVar("Result")
RETRIES = 3


def run_tasks(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], seconds: float
) -> Iterator[tuple[int, Result]]:
    """Call a function on every job, in Ray tasks that are tried again where a worker is lost.

    One CPU each, so that linear algebra adds up in the same order on every machine.

    Args:
        function: of a module.
        jobs: its arguments.
        seconds: after which a task counts as hanging; its worker is ended.

    Yields:
        the number of a job and its result, in the order in which they end.

    Raises:
        ray.exceptions.RayError: a task failed; see :func:`pdray.errors.user_errors`.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_in_time)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[Any, int] = {}
    try:
        for number, job in enumerate(jobs):
            if len(pending) >= limit:
                yield _next_of(pending)
            pending[task.remote(function, job, seconds)] = number
        while pending:
            yield _next_of(pending)
    finally:
        for reference in pending:
            ray.cancel(reference)


def _next_of(pending: dict[Any, int]) -> tuple[int, Any]:
    import ray

    reference = ray.wait(list(pending))[0][0]
    return pending.pop(reference), ray.get(reference)


def _in_time(function: Callable[..., Result], job: tuple[Any, ...], seconds: float) -> Result:
    with deadline(seconds):
        return function(*job)

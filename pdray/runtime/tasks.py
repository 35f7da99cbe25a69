"""Ray tasks, a bounded number at a time: passes over all shards, and jobs of any other kind."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pdray.errors import user_errors

if TYPE_CHECKING:
    from pdray.progress import Counted, Progress
from pdray.runtime.labels import remote
from pdray.runtime.placement import nodes_may_come
from pdray.runtime.session import living
from pdray.shards import Outcome, deadline, error_text
from pdray.watchdog import TASK

T = TypeVar("T")

TASKS_PER_CPU = 2
LEAST_ASKED = 64  # tasks: what an autoscaler sees of a pass, whose groups of nodes may stand at zero
RETRIES = 2
SHARD_SECONDS = 900.0


def sum_over_shards(work: Callable[[int], T], num_shards: int, progress: Progress, what: str) -> T:
    """Add up what a pass finds in each shard.

    Args:
        work: picklable; takes a shard and returns something small that can be added, in any order.
        num_shards: S.
        progress: draws the line.
        what: the pass, in a word or two.

    Raises:
        UserError: as raised by the pass.
    """
    with progress.counting_here(what, num_shards, "shards") as counter, user_errors():
        return added_up(work, num_shards, counter)


def added_up(work: Callable[[int], T], num_shards: int, counter: Counted | None = None) -> T:
    """As :func:`sum_over_shards`, without a line.

    Args:
        work: see there.
        num_shards: S, from 1.
        counter: counts the shards.

    Raises:
        ray.exceptions.RayError: a task failed; see :func:`pdray.errors.user_errors`.
    """
    import ray

    sums: list[T] = []
    calls = [(work, group) for group in shard_groups(num_shards)]
    for (_, group), ref in finished(_add_up, calls, counter, lambda call: _named(call[1])):
        if counter is not None:
            counter.add(len(group))
        sums = [reduce(operator.add, [*sums, ray.get(ref)])]
    return sums[0]


def shard_groups(num_shards: int, most: int | None = None) -> list[list[int]]:
    """The shards in as many groups as :func:`num_tasks`, or in more where one would have more than ``most``."""
    groups = max(num_tasks(), math.ceil(num_shards / (most or num_shards)))
    return [group.tolist() for group in np.array_split(np.arange(num_shards), min(num_shards, groups))]


def _named(shards: list[int]) -> str:
    return f"shards {shards[0]} to {shards[-1]}" if len(shards) > 1 else f"shard {shards[0]}"


def num_tasks() -> int:
    """Tasks that keep the cluster busy to the end without costing much themselves."""
    busy = max(1, TASKS_PER_CPU * int(living("CPU")))
    return LEAST_ASKED if busy < LEAST_ASKED and nodes_may_come() else busy


def finished(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    counter: Counted | None = None,
    label: Callable[[tuple[Any, ...]], str] = str,
    num_gpus: float = 0,
    num_cpus: float = 1,
    alone: bool = False,
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run a function as Ray tasks and give each call with the reference to its result as it ends.

    A bounded number is under way. What is left when the caller stops early ends by itself or with the driver: to cancel
    a task that is just ending can abort the driver (Ray 2.60, "Tried to complete task that was not pending"). A task
    whose worker is lost, or that storage failed, is run again at most :data:`RETRIES` times. A task has one CPU
    unless it asks for more, so that linear algebra adds up in the same order on every machine.

    Args:
        function: of a module.
        calls: its arguments.
        counter: is told what is under way, for the watchdog.
        label: names a call there.
        num_gpus, num_cpus: of each task.
        alone: whether each has a process of its own, which ends with it and lets go of what an engine holds.
    """
    import ray

    options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus} | ({"max_calls": 1} if alone else {})
    task = remote(_call, max_retries=RETRIES, retry_exceptions=[OSError], **options)
    running: dict[Any, tuple[Any, ...]] = {}

    def next_ready() -> tuple[tuple[Any, ...], Any]:
        ready, _ = ray.wait(list(running), num_returns=1)
        call = running.pop(ready[0])
        if counter is not None:
            counter.end(label(call))
        return call, ready[0]

    for call in calls:
        if len(running) >= num_tasks():
            yield next_ready()
        running[task.remote(function, *call)] = call
        if counter is not None:
            counter.begin(label(call), TASK)
    while running:
        yield next_ready()


def run_tasks(
    function: Callable[..., T],
    jobs: Iterable[tuple[Any, ...]],
    seconds: float,
    num_gpus: float = 0,
    num_cpus: float = 1,
    alone: bool = False,
) -> Iterator[tuple[int, T]]:
    """Call a function on every job; see :func:`finished`.

    Args:
        function: of a module.
        jobs: its arguments.
        seconds: after which a task counts as hanging; its worker is ended.
        num_gpus, num_cpus, alone: of each task; see :func:`finished`.

    Yields:
        the number of a job and its result, in the order in which they end.

    Raises:
        ray.exceptions.RayError: a task failed; see :func:`pdray.errors.user_errors`.
    """
    import ray

    calls = ((function, seconds, number, *job) for number, job in enumerate(jobs))
    for (_, _, number, *_), ref in finished(_in_time, calls, num_gpus=num_gpus, num_cpus=num_cpus, alone=alone):
        yield number, ray.get(ref)


def outcomes(function: Callable[[int], Outcome], shards: Sequence[int], counter: Counted) -> Iterator[Outcome]:
    """Run a function over shards, one task each; a shard whose worker is lost for good is one that failed."""
    import ray

    calls = [(shard,) for shard in shards]
    for (shard,), ref in finished(function, calls, counter, lambda call: f"shard {call[0]}"):
        try:
            yield ray.get(ref)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            yield Outcome(shard, error_text(error))


def _call(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


def _in_time(function: Callable[..., T], seconds: float, _number: int, *arguments: Any) -> T:
    with deadline(seconds):
        return function(*arguments)


def _add_up(work: Callable[[int], T], shards: list[int]) -> T:
    def found(shard: int) -> T:
        with deadline(SHARD_SECONDS):
            return work(shard)

    return reduce(operator.add, (found(shard) for shard in shards))

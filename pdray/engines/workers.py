"""The processes of a pass, where Ray alone does not do what a pass needs: that they end, and that one may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from pdray.engines.actor import ShardScorer, Work
from pdray.engines.failures import EngineBrokenError
from pdray.runtime import remote
from pdray.runtime.beside import Kept, kept_beside

NO_PROGRESS_SECONDS = 24 * 3600.0  # without a finished shard: what was waited for will not come
ALL_BUSY = 1.0  # calls that were handed to the actors, of those that they run at once


class Prober:
    """An actor that scores parts of a shard without writing, started anew whenever one ends it."""

    def __init__(self, work: Work, counter: Any, resources: dict[str, float]) -> None:
        self._work, self._counter, self._resources = work, counter, resources
        self._actor: Any = None

    def survives(self, shard: int, start: int, stop: int) -> bool:
        """Whether a process lives through these texts, and its engine; another exception of Python's ends neither."""
        import ray

        if self._actor is None:
            actor = remote(ShardScorer, max_restarts=0, max_task_retries=0, **self._resources)
            self._actor = actor.remote(self._work, self._counter)
        try:
            ray.get(self._actor.probe.remote(shard, start, stop))
        except ray.exceptions.RayActorError:
            self._actor = None
            return False
        except EngineBrokenError:
            self.end()
            self._actor = None
            return False
        except ray.exceptions.RayTaskError:
            return True
        return True

    def end(self) -> None:
        """Give back what the actor holds."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)


class Roll:
    """A list of workers."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def enter(self, handle: Any) -> None:
        """Another worker has started."""
        self.handles.append(handle)

    def all(self) -> list[Any]:
        """All that have."""
        return self.handles


@contextmanager
def all_ended() -> Iterator[Kept]:
    """A :class:`Roll` that workers enter; those on it are gone when the block ends.

    Ray Data only lets go of its actors. One that is being restarted in that moment stays, and keeps CPUs and GPUs from
    the next round.
    """
    import ray

    with kept_beside(Roll) as roll:
        try:
            yield roll
        finally:
            with suppress(ray.exceptions.RayError):  # the process that has the list may itself be lost
                for handle in roll.ask("all"):
                    ray.kill(handle)


@contextmanager
def tolerant() -> Iterator[None]:
    """Ray Data goes on when a block is lost, gives a shard time, and grows with the cluster, for the executions inside.

    The next round takes a lost shard. Ray Data would also end an execution from which nothing came for half an hour:
    less than a large shard may take, or nodes that have to be bought. And it adds actors where 1.75 times as many calls
    are handed over as run at once, which a shard that waits behind another on a busy actor would cost: here they are
    as many, so the pool would stay as it began while nodes come.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.max_errored_blocks, context.execution_no_progress_timeout_s, context.autoscaling_config
    context.max_errored_blocks, context.execution_no_progress_timeout_s = -1, NO_PROGRESS_SECONDS
    context.autoscaling_config = replace(before[-1], actor_pool_util_upscaling_threshold=ALL_BUSY)
    try:
        yield
    finally:
        context.max_errored_blocks, context.execution_no_progress_timeout_s, context.autoscaling_config = before

"""One process beside the driver that workers talk to: starting one for every purpose would cost seconds of CPU each."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_numbers = itertools.count()
_state: dict[str, Any] = {"actor": None, "name": ""}


class Beside:
    """The actor. An object is made when it is first spoken to, so that nobody has to wait for this process before."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._ended: set[int] = set()

    def call(self, number: int, kind: type[Any], method: str, *words: Any) -> Any:
        """What a method of an object returns; None once the object has been let go, as words of workers may be late."""
        if number in self._ended:
            return None
        return getattr(self._kept.setdefault(number, kind()), method)(*words)

    def end(self, number: int) -> None:
        """Let an object go."""
        self._ended.add(number)
        self._kept.pop(number, None)


@dataclass(frozen=True)
class Kept:
    """An object in the process beside the driver; picklable.

    Attributes:
        actor: the process.
        number: of the object in it.
        kind: its class, which is made without arguments.
    """

    actor: Any
    number: int
    kind: type[Any]

    def tell(self, method: str, *words: Any) -> Any:
        """Call a method and wait for nothing; the reference to what it returns."""
        return self.actor.call.remote(self.number, self.kind, method, *words)

    def ask(self, method: str, *words: Any, timeout: float | None = None) -> Any:
        """What a method returns.

        Args:
            method: its name.
            words: its arguments.
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            ray.exceptions.RayError: the process is lost, or does not answer in time.
        """
        import ray

        return ray.get(self.tell(method, *words), timeout=timeout)


@contextmanager
def kept_beside(kind: type[Any]) -> Iterator[Kept]:
    """An object beside the driver for the duration of the block."""
    kept = Kept(_process(), next(_numbers), kind)
    try:
        yield kept
    finally:
        kept.actor.end.remote(kept.number)


def _process() -> Any:
    """The one that runs, or another where it was lost and has no name any more."""
    import ray

    from pdray.runtime.session import driver_node

    with suppress(ValueError):
        if _state["actor"] is not None and ray.get_actor(_state["name"]):
            return _state["actor"]
    # Its own for every process: drivers may share a namespace of Ray's, and a process that ends keeps its for a while.
    name = f"pdray-beside-{uuid.uuid4().hex}"
    actor = ray.remote(num_cpus=0, scheduling_strategy=driver_node())(Beside).options(name=name).remote()
    _state.update(actor=actor, name=name)  # the first handle: with it the process would end, whoever else has one
    return actor


def end_beside() -> None:
    """End the process, where there is one."""
    import ray

    actor, _state["actor"] = _state["actor"], None
    if actor is not None and ray.is_initialized():
        ray.kill(actor)

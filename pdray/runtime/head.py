"""A head that is lost is said: Ray ends a driver a minute later, from its own threads and without a word."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from pdray.background import repeated

EVERY_SECONDS = 1.0  # a driver beside a head that was killed may have no more than five
ANSWER_SECONDS = 5.0
SILENCES = 3  # in a row, before it is spoken of: a busy head may miss one


@contextlib.contextmanager
def head_watched(note: Callable[[str], None]) -> Iterator[None]:
    """Watch the head of the Ray that this process is connected to while the block runs.

    Args:
        note: tells the user.
    """
    import ray

    with watched(ray.get_runtime_context().gcs_address, note):
        yield


@contextlib.contextmanager
def watched(address: str, note: Callable[[str], None], every: float = EVERY_SECONDS) -> Iterator[None]:
    """Watch a host and port; see :func:`head_watched`."""
    host, _, port = address.rpartition(":")
    silences = 0

    def answers() -> bool:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return False
        return True

    def watch() -> None:
        nonlocal silences
        if answers():
            if silences >= SILENCES:
                note(f"the head of the Ray cluster at {address} answers again")
            silences = 0
            return
        silences += 1
        if silences == SILENCES:
            note(
                f"the head of the Ray cluster at {address} does not answer, and Ray ends this process a minute after "
                "it was lost; start the cluster again, then the same command goes on where it stopped"
            )

    with repeated(watch, every):
        yield

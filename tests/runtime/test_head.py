"""A head that does not answer is said once, and once more when it answers again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from pdray.runtime.head import watched


def listen(port: int = 0) -> socket.socket:
    """Stands for the head: something that takes connections."""
    return socket.create_server(("127.0.0.1", port))


def wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not ready() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_head_that_is_lost_and_comes_back() -> None:
    head = listen()
    port = head.getsockname()[1]
    notes: list[str] = []
    with watched(f"127.0.0.1:{port}", notes.append, every=0.05):
        time.sleep(0.3)
        assert notes == []
        head.close()
        wait(lambda: len(notes) == 1)
        assert notes[0].startswith(f"the head of the Ray cluster at 127.0.0.1:{port} does not answer")
        time.sleep(0.3)
        with listen(port):
            wait(lambda: len(notes) == 2)
    assert notes[1:] == [f"the head of the Ray cluster at 127.0.0.1:{port} answers again"]


def test_one_silence_is_not_spoken_of() -> None:
    notes: list[str] = []
    with listen() as head:
        port = head.getsockname()[1]
    with watched(f"127.0.0.1:{port}", notes.append, every=0.2):
        time.sleep(0.3)
    assert notes == []

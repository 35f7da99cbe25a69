"""Something done again and again beside what the process is at."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(function: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a function every so many seconds in a thread of its own while the block runs; none is under way after it.

    Args:
        function: returns before long.
        seconds: between two calls, and before the first.
    """
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(seconds):
            function()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

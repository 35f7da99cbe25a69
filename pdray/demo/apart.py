"""Work in processes of its own: what libraries print goes to a file, and what they import and hold goes with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

PROCESSES = 2  # half a gigabyte each
LIMIT = 600.0  # seconds until the next job is done, on a machine that has much else to do


def carried_out(work: Callable[[Job], Result], jobs: Sequence[Job], log: Path) -> Iterator[Result]:
    """Do some jobs, one at a time in each process, on one thread.

    Args:
        work: what is done with each job; a function of a module.
        jobs: what is to be done; no process starts where there is none.
        log: file that is added to.

    Yields:
        what came of each job as it is done.

    Raises:
        RuntimeError: a job took longer than :data:`LIMIT`, or its process was killed.
    """
    if not jobs:
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # a fork would take over the threads of Ray
    with context.Pool(min(PROCESSES, len(jobs)), _begin, (str(log),)) as pool:
        done = pool.imap_unordered(work, jobs)
        for _ in jobs:
            try:
                yield done.next(LIMIT)
            except multiprocessing.TimeoutError:
                raise RuntimeError(f"nothing was done for {LIMIT:.0f} s; {log} may say why") from None
        pool.close()  # ended by force, they would leave semaphores, of which Python warns
        pool.join()


def _begin(log: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of Ctrl-C, and ends the pool
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every ``finally``: scratch folders go
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)

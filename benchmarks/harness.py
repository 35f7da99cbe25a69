"""How a contender is measured: in a process of its own, several times, and once more for its memory."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import load_average

SAMPLE_SECONDS = 0.2


class TreeMeter(threading.Thread):
    """Samples CPU time, or memory too, of this process and those below it, five times a second.

    The kernel walks every page table for a proportional set size, which with Ray's twenty processes takes a good part
    of a core: a run whose memory is sampled is not one whose seconds count.
    """

    def __init__(self, memory: bool) -> None:
        super().__init__(daemon=True)
        self.memory, self.peak = memory, 0
        self._cpu: dict[tuple[int, float], float] = {}
        self._finished = threading.Event()
        self._sample()
        self._before, self.peak = sum(self._cpu.values()), 0

    def run(self) -> None:
        while not self._finished.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        total = 0
        for process in [me := psutil.Process(), *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss if self.memory else 0
                times = process.cpu_times()
                self._cpu[process.pid, process.create_time()] = times.user + times.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        self.peak = max(self.peak, total)

    def finish(self) -> tuple[float, float]:
        """CPU seconds since the start, and the peak in GiB."""
        self._finished.set()
        self.join()
        self._sample()
        return round(sum(self._cpu.values()) - self._before, 2), round(self.peak / 2**30, 2)


def measure(function: Callable[[], Any], memory: bool = False) -> dict[str, float]:
    """Seconds and CPU seconds of a call and of the processes that it starts; or, with ``memory``, their peak alone."""
    meter = TreeMeter(memory)
    meter.start()
    start = time.monotonic()
    function()
    seconds = round(time.monotonic() - start, 2)
    cpu, peak = meter.finish()
    return {"peak_memory_gib": peak} if memory else {"seconds": seconds, "cpu_seconds": cpu}


def in_fresh_process(module: str, words: list[str], scratch: Path, seconds: float | None = None) -> dict[str, Any]:
    """Run ``python -m MODULE WORDS --out RESULT`` in an emptied folder.

    Args:
        module, words: see above.
        scratch: the folder.
        seconds: after which it is ended with all that it has started; None lets it take its time.

    Returns:
        the JSON object that it wrote, and the load of the machine before.

    Raises:
        SystemExit: it failed, or took too long; with the end of what it printed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    load, result, log = load_average(), scratch / "result.json", scratch / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", module, *words, "--out", str(result)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            what = "failed" if process.wait(seconds) else ""
        except subprocess.TimeoutExpired:
            what = f"took more than {seconds:.0f} s"
        finally:
            if process.poll() is None:
                _end(process)
    if what:
        raise SystemExit(f"{' '.join(words)} {what}:\n{log.read_text()[-4000:]}")
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured | {"load_average_before": load}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those below it, and see them gone: an engine that outlives it would keep its GPU."""
    below = psutil.Process(process.pid).children(recursive=True)
    for one in [*below, process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(below, timeout=10)


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one contender, and each run's seconds."""
    names = [name for name, value in runs[0].items() if isinstance(value, float)]
    middle = {name: round(statistics.median(run[name] for run in runs), 3) for name in names}
    return runs[0] | middle | {"seconds_of_each_run": [run["seconds"] for run in runs]}

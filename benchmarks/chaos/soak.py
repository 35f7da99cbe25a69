"""Runs without end on one cluster, with a fault a minute: what grows?"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from typing import Any

import psutil

from benchmarks.chaos.cluster import family, title
from benchmarks.chaos.isolation import cut, mend
from benchmarks.chaos.kills import at_work
from benchmarks.chaos.lab import Account, Lab
from benchmarks.chaos.runs import READY, Driver

FAULTS = ("driver", "worker process", "node", "network")
FAULT_SECONDS = 60.0
CUT_SECONDS = 10.0
GROWTH = 1.25  # of the last quarter over the first


def soak(lab: Lab, minutes: float) -> dict[str, Any]:
    """Run after run on the same nodes for so long.

    Returns:
        the row of the soak: runs and faults, memory and open files of the head, and peak memory of the drivers, each
        as the median of the first and of the last quarter.
    """
    rng = random.Random(0)
    end, next_fault = time.monotonic() + 60 * minutes, time.monotonic() + FAULT_SECONDS
    struck: dict[str, int] = dict.fromkeys(FAULTS, 0)
    samples: dict[str, list[float]] = {"head_mib": [], "head_files": [], "driver_mib": [], "driver_files": []}
    equal, num_runs, attempts, codes = True, 0, 0, []
    account = Account(lab, READY, lab.fresh(READY, "corpus", "soak"), "scores")
    while time.monotonic() < end:
        driver = lab.drive(READY, account.run.uri, "selection")
        while driver.process.poll() is None:
            if time.monotonic() > next_fault and (fault := rng.choice(FAULTS)) and strike(lab, driver, fault):
                struck[fault] += 1
                next_fault += FAULT_SECONDS
            sample(lab, driver, samples)
            time.sleep(1)
        codes.append(driver.process.returncode)
        if codes[-1] == 0:
            row = account.row()
            equal, num_runs, attempts = equal and row["ids_equal"], num_runs + 1, attempts + row["attempts"]
            shutil.rmtree(account.run.uri)
            account = Account(lab, READY, lab.fresh(READY, "corpus", "soak"), "scores")
    grown = {name: quarters(values) for name, values in samples.items()}
    orphans = lab.orphans()
    return {
        "case": "soak",
        "fault": f"a fault a minute for {minutes:g} minutes",
        "stage": "all",
        "seconds": round(60 * minutes, 1),
        "runs": num_runs,
        "faults": struck,
        "failed_runs": len(codes) - num_runs,
        "attempts": attempts,
        "ids_equal": equal,
        "orphans": len(orphans),
        **grown,
        "held": equal
        and not orphans
        and num_runs > 0
        and all(last <= GROWTH * first for first, last in grown.values()),
    }


def strike(lab: Lab, driver: Driver, fault: str) -> bool:
    """One fault; whether there was anything to strike at."""
    if fault == "driver":
        driver.process.kill()
        return True
    if fault == "network":
        cut()
        time.sleep(CUT_SECONDS)
        mend()
        return True
    if (found := at_work(lab, "scores")) is None:
        return False
    process, node = found
    if fault == "node":
        node.kill("raylet")
    else:
        process.kill()
    return True


def sample(lab: Lab, driver: Driver, samples: dict[str, list[float]]) -> None:
    """Memory in MiB and open files, of the head's own processes and of the driver."""
    head = [one for one in lab.nodes[0].members() if not title(one).startswith("ray::")]
    for name, processes in (("head", head), ("driver", family(driver.process.pid)[:1])):
        try:
            memory = sum(one.memory_info().rss for one in processes) / 2**20
            files = sum(one.num_fds() for one in processes)
        except psutil.Error:  # one has just ended
            continue
        if processes:
            samples[f"{name}_mib"].append(memory)
            samples[f"{name}_files"].append(files)


def quarters(values: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    part = max(1, len(values) // 4)
    first, last = statistics.median(values[:part]), statistics.median(values[-part:])
    return round(first, 1), round(last, 1)

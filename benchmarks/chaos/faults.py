"""What is not a kill: a cut network, a full disk, a storage in trouble, a clock that jumps, the same job twice."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos.cluster import JOBS_PORT
from benchmarks.chaos.isolation import cut, mend, small_disk
from benchmarks.chaos.kills import at_work, under_way
from benchmarks.chaos.lab import Account, Case, Lab
from benchmarks.chaos.runs import READY, SHORT, Driver, copy_before, manifest, markers, stage_folder, wait_for
from pdray.shards import MARKERS
from pdray.storage import StoragePath

FAKETIME = "faketime/libfaketime.so.1"  # where Debian puts it, below /usr/lib/<machine>


def fault_cases() -> dict[str, Case]:
    """The cases by name."""
    disks = {
        f"disk-{stage}": Case("full disk, freed, run again", stage, partial(full_disk, stage))
        for stage in ("corpus", "scores", "selection", "alignment")
    }
    return disks | {
        "lost-rows": Case("a file of scores cut short, a marker deleted", "scores", lost_rows),
        "network-15s": Case("network between two nodes cut for 15 s", "scores", partial(network, 15)),
        "network-120s": Case("network between two nodes cut for 120 s", "scores", partial(network, 120)),
        "frozen-worker": Case("SIGSTOP of a scoring actor for 20 s", "scores", frozen),
        "storage-tenth": Case("object storage refuses every tenth request", "corpus", partial(storage, every=10)),
        "storage-slow": Case("object storage takes 0.1 s longer", "corpus", partial(storage, seconds=0.1)),
        "storage-minute": Case("object storage refuses for a minute", "scores", partial(storage, outage=60.0)),
        "clock-forward": Case("clock jumps 3 hours forward", "scores", partial(clock, "+3h")),
        "clock-back": Case("clock jumps 3 hours back", "scores", partial(clock, "-3h")),
        "twice-jobs": Case("same job submitted twice", "scores", twice_as_jobs),
        "twice-local": Case("same run started twice at once", "corpus", twice_at_once),
    }


def lost_rows(lab: Lab) -> dict[str, Any]:
    """After the scores were finished, a disk or a hand has damaged two of their shards."""
    account = Account(lab, READY, lab.fresh(READY, "selection", "lost"), "scores")
    folder = stage_folder(account.run, "scores")
    assert folder is not None
    first, second = sorted(markers(account.run, "scores"))[:2]
    account.struck()
    del account.before[second]
    table = folder.local / "texts" / f"{Path(first).stem}.parquet"
    del account.before[first]
    table.write_bytes(table.read_bytes()[:-100])
    (folder / MARKERS / second).delete()
    driver = lab.drive(READY, account.run.uri, "selection", on_cluster=False)
    account.finish(driver, on_cluster=False)
    told = f"2 of {len(account.before) + 2} shards in {folder.name} are missing or damaged"
    assert told in driver.said(), driver.said()
    return account.row()


def network(seconds: float, lab: Lab) -> dict[str, Any]:
    """The cable between the two hosts is pulled in the middle of scoring and plugged in later."""
    account = Account(lab, READY, lab.fresh(READY, "scores", "network"), "scores")
    driver = lab.drive(READY, account.run.uri, "selection")
    wait_for("the middle of scores", lambda: under_way(account), driver)
    cut()
    account.struck()
    time.sleep(seconds)
    mend()
    account.finish(driver)
    return account.row()


def frozen(lab: Lab) -> dict[str, Any]:
    """A scoring actor stands still for a while, as one does that waits for a mount."""
    account = Account(lab, READY, lab.fresh(READY, "scores", "frozen"), "scores")
    driver = lab.drive(READY, account.run.uri, "selection")
    wait_for("the middle of scores", lambda: under_way(account), driver)
    process, _ = wait_for("a scoring actor", lambda: at_work(lab, "scores"), driver)
    process.suspend()
    account.struck()
    time.sleep(20)
    process.resume()
    account.finish(driver)
    return account.row()


def full_disk(stage: str, lab: Lab) -> dict[str, Any]:
    """The run folder is on a small disk that something else fills in the middle of a stage."""
    source = lab.undisturbed(READY)
    disk = lab.scratch / f"disk-{stage}"
    with small_disk(disk, 256):
        folder = disk / "run"
        copy_before(source, folder, stage)
        account = Account(lab, READY, StoragePath(str(folder)), stage)
        until = "alignment" if stage == "alignment" else "selection"
        driver = lab.drive(READY, account.run.uri, until, on_cluster=False)
        wait_for(f"the middle of {stage}", lambda: under_way(account), driver)
        ballast = fill(disk)
        account.struck()
        code = account.ended(driver)
        said = driver.said()
        ballast.unlink()
        assert code != 0, "the disk was full and the run did not notice"
        assert "Traceback" not in said, said[-1500:]
        account.finish(None, until, on_cluster=False)
        return account.row() | {"said": said.strip().splitlines()[-1][:300]}


def fill(disk: Path) -> Path:
    """Leave nothing of a disk, whoever else is writing to it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(65536)):
            pass
    return ballast


def storage(lab: Lab, every: int = 0, seconds: float = 0.0, outage: float = 0.0) -> dict[str, Any]:
    """The run folder is on object storage that is in trouble."""
    from tests.s3 import FakeFaults, give_keys, s3_server

    give_keys()
    (place := lab.scratch / f"s3-{time.monotonic_ns()}").mkdir()
    with s3_server(place) as server, serving(lab):
        faults = FakeFaults(server.endpoint, every=every, seconds=seconds)
        with faults.proxy() as proxy:
            stage = "scores" if outage else "corpus"
            account = Account(lab, SHORT, StoragePath(proxy.uri(f"runs/{place.name}")), stage)
            driver = lab.drive(SHORT, account.run.uri, "selection", on_cluster=False)
            wait_for(f"the middle of {stage}", lambda: under_way(account), driver)
            account.struck()
            if outage:
                faults.refuse_for(outage)
            account.finish(driver, on_cluster=False)
            faults.every, faults.seconds = 0, 0.0
            return account.row() | {"requests": faults.seen, "refused": faults.refused}


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[None]:
    """What this process has started by now outlives the case."""
    before = set(lab.services)
    lab.services = before | {one.pid for one in lab.processes()} - {
        member.pid for node in lab.nodes for member in node.members()
    }
    try:
        yield
    finally:
        lab.services = before


# libfaketime 0.9.10 refuses to sleep until a moment of a monotonic clock that it was told to leave alone.
PLAIN_SLEEP = """
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
"""


def _plain_sleep(scratch: Path) -> Path:
    """A library whose ``clock_nanosleep`` is the kernel's."""
    library = scratch / "plain_sleep.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=PLAIN_SLEEP, text=True, check=True)
    return library


def clock(jump: str, lab: Lab) -> dict[str, Any]:
    """The clock of every process of a run jumps in the middle of scoring; a second driver comes by meanwhile."""
    library = next(map(str, Path("/usr/lib").glob(f"*/{FAKETIME}")), None)
    assert library is not None, "no libfaketime here; on Debian: apt-get install libfaketime"
    account = Account(lab, READY, lab.fresh(READY, "scores", "clock"), "scores")
    offset = lab.scratch / f"clock{jump}"
    offset.write_text("+0\n")
    environment = {
        "LD_PRELOAD": f"{_plain_sleep(lab.scratch)} {library}",
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as the kernel has it: that clock never jumps
        "FAKETIME_DONT_RESET": "1",
    }
    driver = lab.drive(READY, account.run.uri, "selection", on_cluster=False, environment=environment)
    wait_for("the middle of scores", lambda: under_way(account), driver)
    offset.write_text(f"{jump}\n")
    account.struck()
    second = lab.drive(READY, account.run.uri, "selection", on_cluster=False)
    busy = second.end(lab.limit)
    account.finish(driver, on_cluster=False)
    row = account.row()
    seconds = [manifest(account.run, stage)["seconds"] for stage in ("scores", "selection")]
    assert busy == 3, f"a second driver ended with {busy}: {second.said()[-500:]}"
    assert all(0 <= one < lab.limit for one in seconds), f"the stages are said to have taken {seconds} s"
    return row


def twice_as_jobs(lab: Lab) -> dict[str, Any]:
    """Two submissions of one config to the jobs API at the same moment."""
    account = Account(lab, READY, lab.fresh(READY, "scores", "twice"), "scores")
    assert lab.cluster is not None
    lab.cluster.heal()
    jobs = f"http://{lab.cluster.hosts[0].address}:{JOBS_PORT}"
    words = ["submit", str(lab.scratch / f"{SHORT}.yaml"), "--set", f"run={account.run.uri}", "--address", jobs]
    words.append("--follow")
    both = [Driver.start(words, lab.scratch / f"twice-{n}.log", lab.cluster.environment) for n in range(2)]
    account.codes = sorted(driver.end(lab.limit) for driver in both)
    assert account.codes == [0, 3], f"{account.codes}: {' | '.join(one.said()[-500:] for one in both)}"
    return account.row()


def twice_at_once(lab: Lab) -> dict[str, Any]:
    """Two drivers of one run folder at the same moment, each with a Ray of its own."""
    account = Account(lab, READY, lab.fresh(READY, "corpus", "twice"), "corpus")
    both = [lab.drive(READY, account.run.uri, "selection", on_cluster=False) for _ in range(2)]
    account.codes = sorted(driver.end(lab.limit) for driver in both)
    assert account.codes == [0, 3], f"{account.codes}: {both[0].said()[-1000:]}"
    return account.row()

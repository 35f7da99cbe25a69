"""What every case needs: the undisturbed runs, fresh run folders, drivers, and the verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import runs
from benchmarks.chaos.cluster import ROOT, Cluster, Node, family, is_alive, title, workers
from benchmarks.chaos.runs import READY, TRAINED, Driver
from pdray.storage import StoragePath

SETTLE_SECONDS = 60.0  # for processes to notice that what they served is gone


@dataclass
class Lab:
    """The place.

    Attributes:
        scratch: a folder with a short path.
        cluster: its nodes are started when they are first needed; None where all cases are on a Ray of their own.
        pairs: in the corpus.
        limit: seconds of one command; longer counts as hanging.
        services: processes that outlive a case.
    """

    scratch: Path
    cluster: Cluster | None
    pairs: int
    limit: float
    services: set[int] = field(default_factory=set)
    _number: int = 0

    def __post_init__(self) -> None:
        """Whatever is below this process already belongs to somebody else, and is never ended."""
        self.services |= {one.pid for one in self.processes()}

    @property
    def nodes(self) -> list[Node]:
        """Of the cluster; none where there is none."""
        return self.cluster.nodes if self.cluster else []

    def undisturbed(self, kind: str) -> Path:
        """A finished run of a kind, on a local Ray; made when it is first asked for."""
        run = self.scratch / "undisturbed" / kind
        if not run.exists():
            if not (self.scratch / f"{kind}.yaml").exists():
                runs.write_inputs(self.scratch, self.pairs)
            driver = self.drive(kind, str(run), "selection", on_cluster=False)
            assert (code := driver.end(self.limit)) == 0, (
                f"the undisturbed run of {kind} ended with {code}: {driver.said()}"
            )
        return run

    def fresh(self, kind: str, stage: str, name: str = "run") -> StoragePath:
        """A new run folder that has come to a stage."""
        source = self.undisturbed(kind)
        self._number += 1
        run = self.scratch / f"{self._number}-{name}"
        runs.copy_before(source, run, stage)
        return StoragePath(str(run))

    def drive(
        self, kind: str, run: str, until: str, on_cluster: bool = True, environment: dict[str, str] | None = None
    ) -> Driver:
        """Start ``pdray run`` on a run folder, on the cluster with all nodes up, or on a Ray of its own."""
        words = ["run", str(self.scratch / f"{kind}.yaml"), "--until", until, "--set", f"run={run}"]
        base = {"PYTHONPATH": str(ROOT)}
        if on_cluster:
            assert self.cluster is not None
            self.cluster.heal()
            words += ["--set", f"cluster.address={self.cluster.address}"]
            base = self.cluster.environment
        else:
            words += ["--set", "cluster.num_cpus=2"]
        log = self.scratch / f"{StoragePath(run).name}.log"
        return Driver.start(words, log, {**base, **(environment or {})})

    def processes(self) -> list[psutil.Process]:
        """Everything below this process but the services that outlive a case."""
        mine = [one for one in psutil.Process().children(recursive=True) if is_alive(one)]
        kept = {member.pid for pid in self.services for member in family(pid)}
        return [one for one in mine if one.pid not in kept]

    def orphans(self) -> list[str]:
        """Processes that a run has left behind, once they had time to end."""
        end = time.monotonic() + SETTLE_SECONDS
        while (left := self._left_behind()) and time.monotonic() < end:
            time.sleep(0.5)
        names = [title(one)[:120].strip() for one in left]
        for one in left:  # they are counted, and must not disturb the next case
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        return names

    def _left_behind(self) -> list[psutil.Process]:
        of_nodes = [member for node in self.nodes for member in node.members()]
        idle = {one.pid for one in of_nodes} - {one.pid for one in workers(of_nodes)}
        return [one for one in self.processes() if one.pid not in idle]


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        fault: in words.
        stage: that it strikes.
        run: does it all and returns the row.
        needs_cluster: whether it happens on the three nodes, and so inside namespaces.
    """

    fault: str
    stage: str
    run: Callable[[Lab], dict[str, Any]]
    needs_cluster: bool = True


@dataclass
class Account:
    """How a case went.

    Attributes:
        lab: where.
        kind: of run.
        run: its folder.
        stage: that is disturbed.
    """

    lab: Lab
    kind: str
    run: StoragePath
    stage: str
    codes: list[int] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)

    def struck(self) -> None:
        """The fault happens now: what is done counts as done."""
        self.before = runs.markers(self.run, self.stage)

    def ended(self, driver: Driver) -> int:
        """Wait for a driver and write its exit code down."""
        self.codes.append(driver.end(self.lab.limit))
        return self.codes[-1]

    def finish(self, driver: Driver | None, until: str = "selection", on_cluster: bool = True) -> None:
        """Wait for the driver; where it failed, or there is none any more, the same command runs again.

        Raises:
            AssertionError: that does not end well either.
        """
        if driver is not None and self.ended(driver) == 0:
            return
        again = self.lab.drive(self.kind, self.run.uri, until, on_cluster)
        assert self.ended(again) == 0, f"run again: {again.said()[-800:]}"

    def row(self) -> dict[str, Any]:
        """The verdict."""
        after = runs.markers(self.run, self.stage)
        again = [name for name, written in self.before.items() if after.get(name) != written]
        reference = StoragePath(str(self.lab.undisturbed(self.kind)))
        total = len(after)
        found = {
            "shards": total,
            "done_at_fault": len(self.before),
            "again": len(again),
            "ids_equal": runs.kept(self.run) == runs.kept(reference),
            "attempts": runs.manifest(self.run, self.stage)["attempts"],
            "exit_codes": self.codes,
        }
        orphans = self.lab.orphans()
        return found | {"orphans": len(orphans), **({"orphan_names": orphans} if orphans else {})}


@contextlib.contextmanager
def seconds_of(row: dict[str, Any]) -> Iterator[None]:
    """Write the seconds of a block into a row."""
    start = time.monotonic()
    try:
        yield
    finally:
        row["seconds"] = round(time.monotonic() - start, 1)


def kind_for(stage: str) -> str:
    """The kind of run that a stage is disturbed in."""
    return TRAINED if stage == "proxies" else READY

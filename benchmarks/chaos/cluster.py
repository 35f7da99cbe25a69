"""Three nodes: a head without CPUs and a worker here, a worker behind the cable."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.isolation import Host

START_SECONDS = 120.0
TRIES = 3
GCS_PORT, JOBS_PORT = 6379, 8265
ROOT = Path(__file__).resolve().parents[2]
# Ray's own: idle workers, the agents of each node, and actors of Ray Data that are detached from the job.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
DETACHED = ("ray::_StatsActor", "ray::_AutoscalingCoordinatorActor", "ray::ActorLocationTracker")
SERVICES = ("ray::IDLE", *AGENTS, *DETACHED)


@dataclass
class Node:
    """One node: ``ray start --block`` and what it starts."""

    name: str
    host: Host
    words: list[str]
    process: subprocess.Popen[bytes] | None = None

    def members(self) -> list[psutil.Process]:
        """Its processes."""
        return family(self.process.pid) if self.process else []

    def kill(self, program: str) -> None:
        """SIGKILL to one of its programs; ``ray start --block`` then ends the rest."""
        (victim,) = [one for one in self.members() if _program(one) == program]
        victim.kill()

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return any(_program(one) == "raylet" for one in self.members())

    def end(self) -> None:
        """SIGKILL to what is left of it."""
        for member in self.members():
            member.kill()
        if self.process:
            self.process.wait()
        self.process = None


@dataclass
class Cluster:
    """The nodes.

    Attributes:
        scratch: for logs and sessions; its path is short.
        hosts: of the head and of the workers.
    """

    scratch: Path
    hosts: tuple[Host, Host, Host]
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        head, near, far = self.hosts
        join = [f"--address={self.address}", "--num-cpus=1"]
        jobs = [f"--dashboard-host={head.address}", f"--dashboard-port={JOBS_PORT}"]
        lead = ["--head", f"--port={GCS_PORT}", "--num-cpus=0", f"--temp-dir={self.scratch / 'ray'}", *jobs]
        self.nodes = [Node("head", head, lead), Node("worker-1", near, join), Node("worker-2", far, join)]

    @property
    def address(self) -> str:
        """Of the GCS."""
        return f"{self.hosts[0].address}:{GCS_PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """Of drivers and nodes; a job's ``python`` is the one that the nodes find first."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "PYTHONPATH": str(ROOT), "PATH": path}

    def heal(self) -> None:
        """Start the nodes that are down; all of them where the head is."""
        if not self.nodes[0].is_up:
            self.stop()
        for node in self.nodes:
            if not node.is_up:
                self.start(node)

    def start(self, node: Node) -> None:
        """Start a node and wait for it. A busy machine misses the 30 seconds that Ray gives it: three tries.

        Raises:
            AssertionError: it did not come up.
        """
        for _ in range(TRIES):
            node.end()
            if self._starts(node):
                return
        raise AssertionError(f"{node.name} did not start: {self._log(node).read_text()[-2000:]}")

    def _log(self, node: Node) -> Path:
        return self.scratch / f"{node.name}.log"

    def _starts(self, node: Node) -> bool:
        log = self._log(node)
        ray = str(Path(sys.executable).parent / "ray")
        words = ["start", "--block", f"--node-ip-address={node.host.address}", "--object-store-memory=100000000"]
        words += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", *node.words]
        environment = {
            **os.environ,
            **self.environment,
            "GLOO_SOCKET_IFNAME": node.host.interface,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }
        with open(log, "wb") as file:
            node.process = subprocess.Popen(
                [*node.host.prefix, ray, *words],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            if node.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True

    def stop(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.end()

    def node_of(self, process: psutil.Process) -> Node:
        """The node that a process runs on."""
        return next(node for node in self.nodes if process in node.members())


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants, those that have ended left out."""
    try:
        root = psutil.Process(pid)
        return [one for one in (root, *root.children(recursive=True)) if is_alive(one)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _program(process: psutil.Process) -> str:
    return title(process).partition(" ")[0].rpartition("/")[2]


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def workers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Ray's workers among some processes that are at work or were made for some."""
    return [one for one in processes if title(one).startswith("ray::") and not title(one).startswith(SERVICES)]

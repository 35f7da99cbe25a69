"""Nodes in network namespaces: what crosses the network is late, a worker is cut off, and the same pairs are kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.runs import copy_before, kept, markers
from cluster.cable import Direction
from pdray.storage import StoragePath
from tests.fuzz.world import World, make_selection_world

REPO = Path(__file__).parents[2]
LOCAL = REPO / "cluster" / "local.sh"
HEAD = "10.77.0.1:6379"


def script(state: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(LOCAL), command, "--state", str(state), *words]
    return subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_cable_delays_keeps_the_order_and_loses_what_is_too_much() -> None:
    slow = Direction(0, 0, latency=0.1, rate=1000)
    for now, size in ((0.0, 100), (0.0, 200), (5.0, 100)):
        slow.add(now, bytes(size))
    assert [len(frame) for frame in slow.due(0.19)] == []
    assert slow.wait(0.15) == pytest.approx(0.05)
    assert [len(frame) for frame in slow.due(0.41)] == [100, 200]
    assert [len(frame) for frame in slow.due(9.0)] == [100]
    assert slow.wait(9.0) is None
    for _ in range(1100):
        slow.add(10.0, bytes(65_536))
    assert len(slow.due(1e9)) == 1024


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["up", "--latency-ms", "5"], "need --namespaces as well"),
        (["cut", "--worker", "1"], "there is no network"),
        (["exec", "true"], "exec is for nodes in namespaces"),
        (["up", "true"], "unknown word 'true'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], told: str, tmp_path: Path) -> None:
    done = script(tmp_path / "state", *words)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def missing() -> bool:
    tried = subprocess.run(["unshare", "--user", "--map-root-user", "--net", "--mount", "true"], capture_output=True)
    return bool(tried.returncode) or not Path("/dev/net/tun").exists()


needs_namespaces = pytest.mark.skipif(missing(), reason="no user namespaces, or no /dev/net/tun")


RAY = """#!/usr/bin/env bash
echo "$*" && echo "Ray runtime started" && exec sleep 600
"""
KNOCK = """
import socket, sys, time
start = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 9), timeout=1.5)
except OSError as error:
    print(type(error).__name__, time.monotonic() - start)
"""


def marked(state: Path) -> list[list[str]]:
    """Commands that carry the cluster's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PDRAY_LOCAL_CLUSTER") == str(state):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


@needs_namespaces
def test_the_network_is_late_can_be_cut_and_goes(tmp_path: Path) -> None:
    """With a program that stands in for Ray."""
    shutil.copytree(REPO / "cluster", tmp_path / "cluster")
    programs, state = tmp_path / ".venv" / "bin", tmp_path / "state"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "ray").write_text(RAY)
    (programs / "ray").chmod(0o755)

    def local(command: str, *words: str) -> str:
        arguments = [str(tmp_path / "cluster" / "local.sh"), command, "--state", str(state), *words]
        done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def knock(address: str) -> tuple[str, float]:
        error, seconds = local("exec", sys.executable, "-c", KNOCK, address).split()
        return error, float(seconds)

    try:
        local("up", "--namespaces", "--latency-ms", "20", "--slow-latency-ms", "80", "--spill-mb", "8")
        assert "--address=10.77.0.1:6379" in (state / "logs" / "worker-2.log").read_text()
        for address, latency in (("10.77.0.2", 0.04), ("10.77.0.3", 0.16)):
            error, seconds = knock(address)
            assert (error, latency <= seconds < latency * 4) == ("ConnectionRefusedError", True), seconds
        local("cut", "--worker", "1")
        assert knock("10.77.0.2")[0] == "TimeoutError"
        assert knock("10.77.0.3")[0] == "ConnectionRefusedError"
        local("mend", "--worker", "1")
        assert knock("10.77.0.2")[0] == "ConnectionRefusedError"
        assert local("status").count(" up ") == 3
        assert len(marked(state)) > 6
    finally:
        local("down")
    assert marked(state) == []
    assert not (state / "network").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """See there."""
    return make_selection_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Two workers, the second of them behind a slow line; small stores and a small disk to spill to."""
    state = tmp_path / "state"
    options = ["--workers", "2", "--worker-cpus", "1", "--latency-ms", "5", "--slow-latency-ms", "20"]
    small = ["--slow-mbit", "100", "--object-store-mb", "80", "--spill-mb", "64", "--memory-mb", "1500"]
    up = script(state, "up", "--namespaces", *options, *small)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield state
    finally:
        script(state, "down")


def wait_for(found: Callable[[], object], driver: subprocess.Popen[bytes]) -> None:
    while not found():
        assert driver.poll() is None, "the run ended too early"
        time.sleep(0.02)


@needs_namespaces
@pytest.mark.slow
def test_corpus_and_selection_with_a_worker_cut_off(state: Path, world: World, tmp_path: Path) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    local = ["--set", f"run={plain}", "--set", "cluster.num_cpus=2"]
    subprocess.run([sys.executable, "-m", "pdray", "run", str(world.config), *local], check=True, capture_output=True)

    across = ["--set", f"cluster.address={HEAD}", "--set", f"run={run}"]
    corpus = script(state, "exec", "pdray", "run", str(world.config), "--until", "corpus", *across)
    assert corpus.returncode == 0, corpus.stdout + corpus.stderr
    texts = [sorted((folder / "texts").glob("*.parquet")) for folder in sorted(tmp_path.glob("*/corpus-*"))]
    assert len(texts) == 2 and len(texts[0]) > 30
    assert [path.read_bytes() for path in texts[0]] == [path.read_bytes() for path in texts[1]]

    shutil.rmtree(run)
    copy_before(plain, run, "selection")
    words = [str(LOCAL), "exec", "--state", str(state), "pdray", "run", str(world.config), *across]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    wait_for(lambda: markers(StoragePath(str(run)), "selection"), driver)
    assert script(state, "cut", "--worker", "2").returncode == 0
    done = len(markers(StoragePath(str(run)), "selection"))
    time.sleep(8)
    assert script(state, "mend", "--worker", "2").returncode == 0
    assert driver.wait(300) == 0, (tmp_path / "log").read_text()
    assert done < len(texts[0]), "the worker was cut off too late"
    assert kept(StoragePath(str(run))) == kept(StoragePath(str(plain)))

    assert script(state, "status").stdout.count(" up ") == 3
    assert any("cable.py" in " ".join(words) for words in marked(state))
    down = script(state, "down")
    assert down.returncode == 0, down.stderr
    assert marked(state) == []
    assert not (state / "network").exists()

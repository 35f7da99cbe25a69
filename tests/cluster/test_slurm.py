"""The script on a real SLURM of two nodes: jobs that end, that are requeued in the middle, and that must not be."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.runs import kept, markers
from pdray.storage import StoragePath
from tests.cluster.slurm import Slurm, missing, wait_for
from tests.fuzz.world import World, make_selection_world

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
ONE_NODE = ["--nodes=1", "--cpus-per-task=2"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        slurm = Slurm(Path(folder))
        try:
            yield slurm
        finally:
            slurm.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """See there."""
    return make_selection_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plain(world: World) -> tuple[str, str]:
    """What is kept by the same run without SLURM."""
    run = world.root / "plain"
    command = [sys.executable, "-m", "pdray", "run", str(world.config), *into(run), "--set", "cluster.num_cpus=2"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return kept(StoragePath(str(run)))


def into(run: Path, *settings: str) -> list[str]:
    """The options for a run folder of its own."""
    return [word for setting in (f"run={run}", *settings) for word in ("--set", setting)]


def ended_well(slurm: Slurm, job: str) -> dict[str, Any]:
    """What is known of a job that has completed and left nothing running."""
    state = slurm.end(job)
    assert state["JobState"] == "COMPLETED", slurm.log(job)
    assert slurm.left() == []
    return state


def test_two_nodes(slurm: Slurm, world: World, plain: tuple[str, str], tmp_path: Path) -> None:
    job = slurm.submit(["--nodes=2", "--cpus-per-task=1"], [str(world.config), *into(tmp_path / "run")])
    wait_for("scores", lambda: markers(StoragePath(str(tmp_path / "run")), "scores"))
    sessions = set(re.findall(r"/tmp/pdray-\w{8}", str(slurm.left())))
    assert len(sessions) == 1
    assert Path(*sessions).stat().st_mode & 0o777 == 0o700
    token = Path(*sessions, "token")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() not in str(slurm.left())
    ended_well(slurm, job)
    assert "Ray is up on 2 node(s)" in slurm.log(job)
    assert kept(StoragePath(str(tmp_path / "run"))) == plain
    assert not Path(*sessions).exists()


def test_requeued_before_the_time_limit(slurm: Slurm, world: World, plain: tuple[str, str], tmp_path: Path) -> None:
    run = StoragePath(str(tmp_path / "run"))
    job = slurm.submit(ONE_NODE, [str(world.config), *into(tmp_path / "run")])
    wait_for("scores", lambda: markers(run, "scores"))
    slurm.signal(job)
    wait_for("requeueing", lambda: slurm.job(job)["JobState"] == "PENDING")
    assert slurm.left() == []
    assert not (run / "lease.json").exists()
    before = markers(run, "scores")
    assert ended_well(slurm, job)["Restarts"] == "1"
    after = markers(run, "scores")
    assert 0 < len(before) < len(after), "the job was requeued too late"
    assert {name: after[name] for name in before} == before
    assert kept(run) == plain
    assert "the time limit is near" in slurm.log(job)


def test_preempted_and_requeued(slurm: Slurm, world: World, plain: tuple[str, str], tmp_path: Path) -> None:
    """SLURM asks nobody: it ends Ray's nodes, then after KillWait the driver, whose lease stays in the run folder."""
    run = StoragePath(str(tmp_path / "run"))
    job = slurm.submit(["--nodes=2", "--cpus-per-task=1"], [str(world.config), *into(tmp_path / "run")])
    wait_for("scores", lambda: markers(run, "scores"))
    urgent = slurm.preempt(seconds=5)
    wait_for("requeueing", lambda: slurm.job(job)["JobState"] == "PENDING")
    before = markers(run, "scores")
    assert slurm.end(urgent)["JobState"] == "COMPLETED"
    assert ended_well(slurm, job)["Restarts"] == "1"
    after = markers(run, "scores")
    assert 0 < len(before) < len(after), "the job was preempted too late"
    assert {name: after[name] for name in before} == before
    assert kept(run) == plain


def test_a_mistake_is_not_requeued(slurm: Slurm, world: World, tmp_path: Path) -> None:
    job = slurm.submit(ONE_NODE, [str(world.config), *into(tmp_path / "run", "selection.budget=2")])
    state = slurm.end(job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0")
    assert "selection.budget" in slurm.log(job)
    assert slurm.left() == []


def test_budgets_share_the_scores(slurm: Slurm, world: World, tmp_path: Path) -> None:
    run = StoragePath(str(tmp_path / "run"))
    scored = slurm.submit(ONE_NODE, [str(world.config), "--until", "scores", *into(tmp_path / "run")])
    options = ["--array=0-1%1", f"--dependency=afterok:{scored}", *ONE_NODE]
    array = slurm.submit(options, ["--budgets", "0.1,0.5", str(world.config), *into(tmp_path / "run")])
    ended_well(slurm, scored)
    before = markers(run, "scores")
    ended_well(slurm, array)
    assert slurm.states(array) == ["COMPLETED", "COMPLETED"], slurm.log(array)
    assert markers(run, "scores") == before
    found = [len(list(folder.glob("kept/*"))) for folder in (tmp_path / "run").glob("selection-*")]
    assert len(found) == 2
    assert all(found)

"""A head and two workers as separate nodes on this machine, and runs submitted to them."""

from __future__ import annotations

import calendar
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.chaos.runs import kept, manifest
from pdray.errors import UserError
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.submission import jobs
from pdray.submission.shipment import Shipment
from pdray.submission.submit import submit, submit_and_tell
from tests.fuzz.world import make_selection_world
from tests.listeners import beyond_loopback, listening
from tests.whole_run import write_yaml

REPO = Path(__file__).parents[2]
LOCAL = REPO / "cluster" / "local.sh"


@dataclass(frozen=True)
class Cluster:
    address: str
    port: int
    state: Path

    @property
    def token(self) -> str:
        return (self.state / "token").read_text()

    def script(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(LOCAL), command, "--state", str(self.state), *options]
        return subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def processes(self) -> list[psutil.Process]:
        """Every process that still carries the cluster's mark."""
        mark = ("PDRAY_LOCAL_CLUSTER", str(self.state))
        return [process for process in psutil.process_iter() if mark in _environment(process).items()]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens on; below those that systems hand out."""
    for first in range(21000, 29000, 10):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, probe in enumerate(sockets):
                probe.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for probe in sockets:
                probe.close()
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    first = free_ports(3)
    cluster = Cluster(f"http://127.0.0.1:{first + 2}", first, tmp_path_factory.mktemp("cluster"))
    done = cluster.script("up", "--port", str(first), "--dashboard-port", str(first + 2))
    try:
        assert done.returncode == 0, done.stderr
        yield cluster
    finally:
        cluster.script("down")


@pytest.fixture(autouse=True)
def token(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)


def test_three_nodes_listen_on_loopback_only(cluster: Cluster) -> None:
    assert cluster.script("status").stdout.count(" up ") == 3
    members = [member for process in cluster.processes() for member in (process, *process.children(recursive=True))]
    found = listening(members)
    assert len(found) > 5
    assert beyond_loopback(found) == []


def test_the_session_is_out_of_reach_of_other_users(cluster: Cluster) -> None:
    session = Path((cluster.state / "session").read_text().strip())
    assert session.stat().st_mode & 0o777 == 0o700
    assert list(session.glob("ray/session_*/sockets/raylet*"))


def test_the_token_is_private_and_stays_out_of_the_processes(cluster: Cluster) -> None:
    assert (cluster.state / "token").stat().st_mode & 0o777 == 0o600
    for process in cluster.processes():
        assert cluster.token not in _environment(process).values()
        assert cluster.token not in " ".join(process.cmdline())


def test_up_refuses_a_second_time(cluster: Cluster) -> None:
    again = cluster.script("up")
    assert again.returncode == 2
    assert "already up" in again.stderr


def test_a_wrong_token_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, small_run_config: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UserError, match="refuses the token"):
        submit_and_tell(str(small_run_config), [], cluster.address, follow=True)


@pytest.mark.parametrize("with_trainings", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run(
    cluster: Cluster, small_run_config: Path, capfd: pytest.CaptureFixture[str], with_trainings: bool
) -> None:
    """Workers that train take a minute to start, those of the proxies and of the policy."""
    if not with_trainings:
        settings = yaml.safe_load(small_run_config.read_text())
        del settings["alignment"]
        settings["proxies"] |= {"train": "head", "reading": "together"}
        write_yaml(small_run_config, settings)
    overrides = ["selection.budget=0.5"]
    code = submit_and_tell(str(small_run_config), overrides, cluster.address, follow=True)
    out = capfd.readouterr().out
    assert code == 0, out
    assert "submitted pdray-" in out
    assert cluster.token not in out
    run = small_run_config.parent / "run"
    stages = 5 if with_trainings else 4
    assert len(list(run.glob("*/manifest.json"))) == stages
    assert run.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in run.glob("submitted/*")] == [0o600]
    assert RunStore(run).read_state()["config"]["selection"]["budget"] == 0.5

    job = run_job(cluster, "jobs/pipeline.py", str(small_run_config), "--set", *overrides)
    assert job.returncode == 0, job.stdout
    assert len(list(run.glob("*/manifest.json"))) == stages

    shutil.copytree(REPO / "pdray", (shipped := small_run_config.parent / "project") / "pdray")
    program = shipped / "pdray" / "__main__.py"
    program.write_text(f"print('this came along')\n{program.read_text()}")
    shipment = Shipment(str(shipped), driver_cpus=0.5)
    assert submit_and_tell(str(small_run_config), overrides, cluster.address, follow=True, shipment=shipment) == 0
    out = capfd.readouterr().out
    assert "nothing to do" in out and "this came along" in out


@pytest.mark.slow
def test_two_runs_at_once(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each asks for every CPU to score with, and for two to train with: one waits for the other, and both end."""
    world = make_selection_world(tmp_path_factory.mktemp("world"))
    del world.settings["scores"]["num_actors"]
    world.settings["alignment"] = {"policy": str(world.root / "policy"), "max_tokens": 32, "pairs_per_step": 4}
    world.settings["alignment"] |= {"max_steps": 2, "num_workers": 2}
    write_yaml(world.config, world.settings)
    plain = ["--set", f"run={world.root / 'plain'}", "--set", "cluster.num_cpus=2", "--until", "selection"]
    subprocess.run([sys.executable, "-m", "pdray", "run", str(world.config), *plain], check=True, capture_output=True)

    runs = [StoragePath(str(world.root / name)) for name in ("first", "second")]
    submitted = [submit(world.config, cluster.address, [f"run={run}"]) for run in runs]
    assert [job.wait() for job in submitted] == [0, 0]
    for run in runs:
        assert kept(run) == kept(StoragePath(str(world.root / "plain")))
        assert manifest(run, "alignment")["metrics"]["steps"] == 2
    spans = [_span(run, stage) for stage in ("scores", "alignment") for run in runs]
    assert max(span[0] for span in spans[:2]) < min(span[1] for span in spans[:2]), "they did not score at once"
    print({name: span for name, span in zip(("first", "second") * 2, spans, strict=True)})


def _span(run: StoragePath, stage: str) -> tuple[float, float]:
    """When a stage began and ended."""
    found = manifest(run, stage)
    began = calendar.timegm(time.strptime(found["started"], "%Y-%m-%dT%H:%M:%SZ"))
    return began, began + found["seconds"]


def test_a_failing_job_forwards_its_code(
    cluster: Cluster, small_run_config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = small_run_config.parent / "run"
    with RunStore(run).lock():
        assert submit_and_tell(str(small_run_config), [], cluster.address, follow=True) == 3
    assert "is in use by process" in capfd.readouterr().out


def test_a_job_is_looked_after(cluster: Cluster, small_run_config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Submitted, seen, stopped; its log stays to be read."""
    assert submit_and_tell(str(small_run_config), [], cluster.address, follow=False) == 0
    job = capfd.readouterr().out.split()[1]
    assert jobs.status(cluster.address).splitlines()[0].startswith(f"{job}  ")
    assert "  pending  " in (told := jobs.status(cluster.address, job)) or "  running  " in told
    assert jobs.stop(cluster.address, job) == f"{job}: stopped"
    assert jobs.stop(cluster.address, job) == f"{job} had ended before: stopped"
    assert jobs.logs(cluster.address, job, follow_it=False) == 0
    assert jobs.logs(cluster.address, job, follow_it=True) == 130
    with pytest.raises(UserError, match=r"knows no job 'pdray-none'; pdray status --address .* lists them"):
        jobs.status(cluster.address, "pdray-none")


def test_a_job_script_refuses_a_wrong_config(cluster: Cluster, tmp_path: Path) -> None:
    job = run_job(cluster, "jobs/score.py", str(tmp_path / "none.yaml"))
    assert job.returncode != 0
    assert "failed with exit code 2" in job.stdout + job.stderr
    assert "no config file" in job.stdout + job.stderr


def test_down_leaves_nothing_behind(cluster: Cluster) -> None:
    assert cluster.processes()
    down = cluster.script("down")
    assert down.returncode == 0, down.stderr
    assert cluster.processes() == []
    assert not (cluster.state / "token").exists()
    assert cluster.script("status").returncode == 1
    assert cluster.script("down").stdout.strip() == "nothing to stop"


def run_job(cluster: Cluster, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A plain ``ray job submit``, as a user would type it."""
    ray = REPO / ".venv" / "bin" / "ray"
    command = [str(ray), "job", "submit", "--address", cluster.address, "--", "python", script, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPO)

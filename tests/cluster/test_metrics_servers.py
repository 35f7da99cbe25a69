"""``cluster/local.sh up --metrics`` with programs that stand in for Ray's nodes, Prometheus and Grafana."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.integration.test_submit import free_ports

REPO = Path(__file__).parents[2]
# Writes down how it was started, listens where it is told to on loopback, and goes on until it is ended.
STAND_IN = """#!{python}
import os, re, socket, sys, time
name = os.path.basename(sys.argv[0])
with open(os.path.join({folder!r}, "calls"), "a") as calls:
    print(name, *sys.argv[1:], os.environ.get("GF_SERVER_HTTP_ADDR", ""), file=calls)
words = " ".join(sys.argv[1:]) + " grafana=" + os.environ.get("GF_SERVER_HTTP_PORT", "")
ports = re.findall(r"(?:--dashboard-port=|--web.listen-address=127.0.0.1:|grafana=)(\\d+)", words)
servers = [socket.create_server(("127.0.0.1", int(port))) for port in ports]
print("Ray runtime started", flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of ``cluster/`` beside programs that stand in."""

    folder: Path
    first: int

    def add(self, name: str) -> None:
        """A program on PATH."""
        path = self.folder / ("repo/.venv/bin" if name == "python" else "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, folder=str(self.folder)))
        path.chmod(0o755)

    def script(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the script on the state folder of the test."""
        words = [str(self.folder / "repo/cluster/local.sh"), command, "--state", str(self.folder / "state"), *options]
        environment = os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)

    def up(self, *options: str) -> subprocess.CompletedProcess[str]:
        """One worker, at free ports."""
        names = ("--port", "--dashboard-port", "--prometheus-port", "--grafana-port")
        ports = [word for at, name in zip((0, 2, 3, 4), names, strict=True) for word in (name, str(self.first + at))]
        return self.script("up", "--workers", "1", *ports, *options)

    @property
    def calls(self) -> list[str]:
        """How the programs were started, in their order."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    shutil.copytree(REPO / "cluster", tmp_path / "repo/cluster")
    found = Checkout(tmp_path, free_ports(5))
    found.add("python")
    return found


def test_prometheus_reads_the_nodes_of_this_cluster_on_loopback_and_goes_with_it(checkout: Checkout) -> None:
    checkout.add("prometheus")
    state, port = checkout.folder / "state", checkout.first + 3
    try:
        done = checkout.up("--metrics")
        assert done.returncode == 0, done.stderr
        session = (state / "session").read_text().strip()
        (job,) = yaml.safe_load((state / "prometheus.yml").read_text())["scrape_configs"]
        read = f"{session}/ray/prom_metrics_service_discovery.json"
        assert job["file_sd_configs"][0]["files"] == [read]
        (call,) = [call for call in checkout.calls if call.startswith("prometheus")]
        assert f"--web.listen-address=127.0.0.1:{port}" in call and f"--storage.tsdb.path={state}/prometheus" in call
        assert f"Prometheus: http://127.0.0.1:{port}\n" in done.stdout
        if not shutil.which("grafana"):
            assert "Grafana is not here (no grafana on PATH; Debian does not have it)" in done.stdout
        assert [line.split()[:2] for line in checkout.script("status").stdout.splitlines()][:3] == [
            ["head", "up"],
            ["worker-1", "up"],
            ["prometheus", "up"],
        ]
    finally:
        checkout.script("down")
    assert checkout.script("status").stdout == "down\n"
    assert not (state / "servers").exists()


def test_grafana_shows_the_dashboard_to_this_machine_alone(checkout: Checkout) -> None:
    for name in ("prometheus", "grafana"):
        checkout.add(name)
    provisioning = checkout.folder / "state/grafana/provisioning"
    try:
        done = checkout.up("--metrics")
        assert done.returncode == 0, done.stderr
        assert f"Grafana:    http://127.0.0.1:{checkout.first + 4}/d/pdray\n" in done.stdout
        (call,) = [call for call in checkout.calls if call.startswith("grafana ")]
        assert call == f"grafana server --homepath {checkout.folder} 127.0.0.1"
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
        assert source["url"] == f"http://127.0.0.1:{checkout.first + 3}"
        (provider,) = yaml.safe_load((provisioning / "dashboards/pdray.yml").read_text())["providers"]
        assert (Path(provider["options"]["path"]) / "pdray.json").is_file()
    finally:
        checkout.script("down")


def test_without_metrics_nothing_of_it_is_started(checkout: Checkout) -> None:
    checkout.add("prometheus")
    try:
        assert checkout.up().returncode == 0
        assert [call.split()[0] for call in checkout.calls] == ["python", "python"]
    finally:
        checkout.script("down")


@pytest.mark.skipif(shutil.which("prometheus") is not None, reason="prometheus is on PATH")
def test_without_prometheus_nothing_is_started_and_the_cure_is_said(checkout: Checkout) -> None:
    done = checkout.up("--metrics")
    assert (done.returncode, done.stdout, checkout.calls) == (2, "", [])
    assert done.stderr.startswith(
        "local.sh: no prometheus on PATH for --metrics; apt-get install prometheus on Debian and Ubuntu ("
    )
    assert done.stderr.count("\n") == 1
    assert not (checkout.folder / "state").exists()

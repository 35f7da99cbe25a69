"""What ``--address`` comes to, by a dashboard of http.server that stands in for Ray's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from pdray.errors import UserError
from pdray.plan.cluster import cluster_hardware, hardware_of_nodes
from pdray.plan.hardware import GIB

HEAD = {"CPU": 0.0, "memory": 8.0 * GIB, "object_store_memory": 2.0 * GIB}


def node(kind: str, gpus: int, gib: float = 900.0) -> dict[str, float]:
    return {"CPU": 96.0, "GPU": float(gpus), f"accelerator_type:{kind}": 1.0, "memory": gib * GIB} | {
        "object_store_memory": 100.0 * GIB
    }


def test_nodes_with_gpus_are_what_a_plan_is_made_for() -> None:
    cpus = {"CPU": 64.0, "memory": 200.0 * GIB, "object_store_memory": 56.0 * GIB}
    found = hardware_of_nodes([HEAD, cpus, node("H100", 8), node("H100", 4, 500.0), node("L40S", 8)])
    assert found.gpu is not None
    assert (found.name, found.gpus, found.nodes, found.cpus, found.host_gib) == ("H100", 12, 2, 192.0, 600.0)
    assert not found.here
    plain = hardware_of_nodes([HEAD, cpus, cpus])
    assert (plain.gpu, plain.gpus, plain.nodes, plain.cpus, plain.host_gib) == (None, 0, 2, 128.0, 256.0)
    assert plain.name == "Ray cluster, 2 nodes"
    found = hardware_of_nodes([node("L40S", 1), node("H100", 8), node("L40S", 1)])
    assert (found.name, found.gpus) == ("H100", 8)  # the kind of most GPUs, and not of most nodes
    assert found.note == "the cluster has GPUs of other kinds, which are not counted: 2xL40S"
    assert hardware_of_nodes([node("H100", 8)]).note == ""


@pytest.mark.parametrize(("kind", "name", "gib"), [("A100-40G", "A100-40", 40), ("A100-80G", "A100-80", 80)])
def test_an_a100_of_either_size(kind: str, name: str, gib: float) -> None:
    found = hardware_of_nodes([node(kind, 8)])
    assert found.gpu is not None and (found.gpu.name, found.gpu.gib, found.note) == (name, gib, "")


def test_an_a100_of_unknown_size_is_the_smaller_and_that_is_said() -> None:
    found = hardware_of_nodes([node("A100", 8)])
    assert found.gpu is not None and (found.gpu.name, found.gpu.gib) == ("A100-40", 40)
    assert "Ray calls A100s of 40 and of 80 GB alike" in found.note and "--on, as in 8xA100-80" in found.note


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([HEAD], "no node of the cluster offers CPUs"),
        ([node("V100", 8)], "are of the kind V100, of which nothing is known here; name the nearest with --on: H100, "),
        ([{"CPU": 4.0, "GPU": 1.0}], "are of the kind unknown"),
    ],
)
def test_what_no_plan_can_be_made_for(nodes: list[dict[str, float]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        hardware_of_nodes(nodes)


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its address, and what it answers by path."""
    answers: dict[str, Any] = {"/api/version": {}, "asked": []}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            answers["asked"].append(query)
            known = self.headers["Authorization"] == "Bearer x"
            self.send_response(401 if not known else 200 if path in answers else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(path)).encode())

        def log_message(self, *words: object) -> None:
            """Nothing on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answers
        server.shutdown()
        thread.join()


def test_living_nodes_are_asked_of_the_dashboard(dashboard: tuple[str, dict[str, Any]]) -> None:
    address, answers = dashboard
    listed = [("ALIVE", node("H100", 8)), ("ALIVE", node("H100", 8)), ("DEAD", node("H100", 8))]
    rows = [{"state": state, "resources_total": resources} for state, resources in listed]
    answers["/api/v0/nodes"] = {"data": {"result": {"result": rows}}}
    assert cluster_hardware(address, {}).gpus == 16
    # Without the first Ray tells no resources, without the second a hundred nodes.
    assert answers["asked"][-1] == "detail=true&limit=10000"


def test_nodes_without_the_labels_of_the_run_are_not_counted(dashboard: tuple[str, dict[str, Any]]) -> None:
    address, answers = dashboard
    listed = [{"pool": "a"}, {"pool": "b"}, {}, None]
    rows = [{"state": "ALIVE", "resources_total": node("H100", 8), "labels": labels} for labels in listed]
    answers["/api/v0/nodes"] = {"data": {"result": {"result": rows}}}
    assert cluster_hardware(address, {"pool": "a"}).gpus == 8
    with pytest.raises(UserError, match=r"cluster.labels is pool=c, and none of 4 node\(s\) of http.* with --on"):
        cluster_hardware(address, {"pool": "c"})


def test_what_does_not_answer_so_is_one_sentence(
    dashboard: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answers = dashboard
    with pytest.raises(UserError, match=r"does not list its nodes \(HTTPError\); say what it has with --on"):
        cluster_hardware(address, {})
    answers["/api/v0/nodes"] = {"data": None}
    with pytest.raises(UserError, match=r"does not list its nodes \(TypeError\)"):
        cluster_hardware(address, {})
    answers["/api/v0/nodes"] = {"data": {"result": {"result": [{"state": "ALIVE"}]}}}
    with pytest.raises(UserError, match=r"does not list its nodes \(KeyError\)"):
        cluster_hardware(address, {})
    with pytest.raises(UserError, match="must be the head's jobs API"):
        cluster_hardware("127.0.0.1:6379", {})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "y")
    with pytest.raises(UserError, match="refuses the token"):
        cluster_hardware(address, {})

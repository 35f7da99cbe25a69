"""A run folder that some node of a cluster does not see is found out before anything is written to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdray import probe
from pdray.errors import UserError
from pdray.storage import StoragePath

NODES = [
    {"NodeID": "1", "NodeManagerHostname": "head", "Alive": True},
    {"NodeID": "2", "NodeManagerHostname": "worker", "Alive": True},
    {"NodeID": "3", "NodeManagerHostname": "gone", "Alive": False},
]

TWO_NODES = """
import sys
from pdray.runtime import keep_on_loopback
keep_on_loopback()
import ray
from ray.cluster_utils import Cluster
from pdray import probe
from pdray.storage import StoragePath

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
ray.init(address=cluster.address)
run = StoragePath(sys.argv[1])
probe.check_shared(run, lambda text: sys.exit(text))
nodes = [node["NodeID"] for node in ray.nodes()]
(run / "file").write_bytes(b"secret")
probe.APPEAR_SECONDS = 0.1
print(probe.ask(nodes, run / "file", b"secret") == dict.fromkeys(nodes, True))
print(probe.ask(nodes, run / "nothing", b"secret") == dict.fromkeys(nodes, False))
print(probe.ask(nodes, run / "file", b"another") == dict.fromkeys(nodes, False))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture
def fake_answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool | None]:
    """A fake for what the nodes say, since all nodes of a test see the same disk."""
    answers: dict[str, bool | None] = {"1": True, "2": True}
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(probe, "ask", lambda nodes, file, secret: {node: answers[node] for node in nodes})
    return answers


def check(run: Path | str) -> list[str]:
    notes: list[str] = []
    probe.check_shared(StoragePath(str(run)), notes.append)
    return notes


def test_a_folder_that_all_see_passes(tmp_path: Path, fake_answers: dict[str, Any]) -> None:
    assert check(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_node_that_does_not_see_it_is_named(tmp_path: Path, fake_answers: dict[str, Any]) -> None:
    fake_answers["2"] = False
    with pytest.raises(UserError, match=r"1 of 2 nodes do not see \(worker\); set run to .* every node mounts.*s3://"):
        check(tmp_path)
    assert os.listdir(tmp_path) == []


def test_nodes_that_the_run_does_not_use_are_not_asked(
    tmp_path: Path, fake_answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's node may be one of them, so one that is used is asked even where it is the only one."""
    used = [NODES[0], NODES[1] | {"Labels": {"pool": "a"}}]
    monkeypatch.setattr("ray.nodes", lambda: used)
    monkeypatch.setattr("pdray.runtime.session.run_labels", lambda: {"pool": "a"})
    del fake_answers["1"]
    assert check(tmp_path) == []
    fake_answers["2"] = False
    with pytest.raises(UserError, match=r"1 of 1 nodes do not see \(worker\)"):
        check(tmp_path)


def test_a_node_that_does_not_answer_is_told_of(tmp_path: Path, fake_answers: dict[str, Any]) -> None:
    fake_answers["2"] = None
    assert [note.endswith("they did not answer: worker") for note in check(tmp_path)] == [True]


def test_object_storage_and_a_single_node_are_not_asked(
    tmp_path: Path, fake_answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "ask", lambda *_: pytest.fail("asked"))
    assert check("s3://bucket/run") == []
    monkeypatch.setattr("ray.nodes", lambda: NODES[:1])
    assert check(tmp_path) == []


def test_two_real_nodes_are_asked(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TWO_NODES, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["True"] * 3
    assert os.listdir(tmp_path) == ["file"]

"""A run that keeps to nodes with some labels: what it asks Ray for, what it says where there is none, what follows."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pdray
from pdray.config import ClusterConfig
from pdray.errors import UserError
from pdray.runtime import check_labels, find_places, labels, living, living_nodes, placement, remote, session
from pdray.runtime.placement import Need

ROOT = Path(pdray.__file__).parent
TEAM_A = {"pool": "team-a", "ray.io/market-type": "spot"}
NODES = [
    {"NodeID": "1", "Alive": True, "Resources": {"CPU": 8.0}, "Labels": None},
    {"NodeID": "2", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}, "Labels": {**TEAM_A, "ray.io/node-id": "2"}},
    {"NodeID": "3", "Alive": True, "Resources": {"CPU": 2.0}, "Labels": {"pool": "team-a"}},
    {"NodeID": "4", "Alive": False, "Resources": {"CPU": 1.0}, "Labels": TEAM_A},
    {"NodeID": "5", "Alive": True, "Resources": {"CPU": 1.0}, "Labels": {"pool": "team-b"}},
]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A cluster of these nodes, and a session that was joined."""
    import ray

    found = list(NODES)
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(placement, "may_grow", lambda: True)
    monkeypatch.setattr(placement, "has_no_autoscaler", lambda: False)
    return found


@pytest.fixture
def kept(nodes: list[dict[str, Any]]) -> Iterator[None]:
    """A run that keeps to the nodes of team A."""
    with labels.kept_to(TEAM_A):
        yield


def test_nodes_with_all_of_the_labels_are_the_cluster_of_the_run(kept: None) -> None:
    assert living_nodes() == [{"CPU": 4.0, "GPU": 2.0}]
    assert (living("CPU"), living("GPU"), living("TPU")) == (4.0, 2.0, 0.0)


def test_without_labels_all_living_nodes_are(nodes: list[dict[str, Any]]) -> None:
    assert living("CPU") == 15.0


def test_what_does_not_fit_there_is_said_of_these_nodes(kept: None) -> None:
    notes: list[str] = []
    assert find_places(Need("scoring actor", 1, 1, 3, "scores.num_actors"), notes.append) == 2
    assert (
        "but the Ray cluster with pool=team-a,ray.io/market-type=spot (1 node(s), 4 CPUs, 2 GPUs) holds 2" in notes[0]
    )


def test_labels_that_a_node_has_are_not_spoken_of(kept: None) -> None:
    check_labels(pytest.fail)


def test_labels_that_no_node_has_are_waited_for_and_said(kept: None, nodes: list[dict[str, Any]]) -> None:
    del nodes[1]
    notes: list[str] = []
    check_labels(notes.append)
    assert notes == [
        "cluster.labels is pool=team-a,ray.io/market-type=spot, and none of 3 node(s) has that (pool is team-a, "
        "team-b; ray.io/market-type is on none); waiting for nodes that have it; start nodes with ray start --labels "
        "pool=team-a,ray.io/market-type=spot, or set cluster.labels to labels that there are"
    ]


@pytest.mark.parametrize(("policy", "value"), [("may_grow", False), ("has_no_autoscaler", True)])
def test_they_are_refused_where_no_node_will_join(
    kept: None, nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, policy: str, value: bool
) -> None:
    monkeypatch.setattr(placement, policy, lambda: value)
    del nodes[1]
    with pytest.raises(UserError, match=r"is on none\); start nodes with ray start --labels pool=team-a,.* that there"):
        check_labels(pytest.fail)


@pytest.mark.parametrize(
    ("kinds", "none"),
    [
        ({"node_1": 1, "node_5": 1}, True),  # by Ray's monitor, without an autoscaler
        ({"node_9": 1}, False),
        ({"head": 1, "spot-gpus": 3}, False),
        ({}, False),
        (None, False),
    ],
)
def test_what_ray_says_of_an_autoscaler(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, kinds: dict[str, int] | None, none: bool
) -> None:
    told = json.dumps({"autoscaler_report": {"active_nodes": kinds}}).encode() if kinds is not None else None
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key: told)
    assert session.has_no_autoscaler() is none


def test_a_ray_of_its_own_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"start a Ray of its own; set cluster.address to that cluster, or leave"):
        session.ray_session(ClusterConfig(labels=TEAM_A)).__enter__()


def test_ray_data_and_tasks_have_the_selector_while_the_run_lasts(nodes: list[dict[str, Any]]) -> None:
    from ray.data import DataContext
    from ray.data._internal.execution.operators.shuffle_operators import shuffle_tasks

    def selectors() -> list[Any]:
        shuffles = (shuffle_tasks._shuffle_map_task, shuffle_tasks._shuffle_reduce_task)
        of_shuffles = [task._default_options.get("label_selector") for task in shuffles]
        of_tasks = remote(calls, num_cpus=2)._default_options
        assert of_tasks["num_cpus"] == 2
        return [DataContext.get_current().execution_options.label_selector, of_tasks["label_selector"], *of_shuffles]

    assert selectors() == [None] * 4
    with labels.kept_to(TEAM_A):
        assert selectors() == [TEAM_A] * 4
        with labels.kept_to({}):
            assert selectors() == [TEAM_A] * 4
    assert selectors() == [None] * 4


def test_a_ray_whose_shuffles_are_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.execution.operators.shuffle_operators import shuffle_tasks

    monkeypatch.delattr(shuffle_tasks, "_shuffle_map_task")
    with pytest.raises(UserError, match=r"how Ray .* shuffles is not known here.*install the Ray of requirements.lock"):
        labels.kept_to(TEAM_A).__enter__()


def test_rays_shuffle_through_files_is_refused_whose_tasks_would_go_anywhere() -> None:
    from ray.data import DataContext

    with DataContext.current(DataContext.get_current().copy()):
        DataContext.get_current().use_disk_based_hash_shuffle = True
        with labels.kept_to({}):
            pass
        with pytest.raises(UserError, match=r"RAY_DATA_ENABLE_DISK_SHUFFLE with it, .* unset one of the two"):
            labels.kept_to(TEAM_A).__enter__()


def test_workers_of_trainings_have_the_selector(kept: None) -> None:
    from pdray.alignment.launch import _scaling
    from tests.dpo_case import alignment

    assert _scaling(alignment(ROOT)).label_selector == TEAM_A


def calls(name: str) -> dict[str, list[ast.Call]]:
    """The calls of a function in pdray, by module."""
    found: dict[str, list[ast.Call]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for call in ast.walk(ast.parse(text)) if name in text else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == name:
                found.setdefault(str(path.relative_to(ROOT)), []).append(call)
    return found


def test_no_work_is_started_without_the_selector() -> None:
    """Ray's own ``remote`` is for what counts beside the driver, and for the probe, which goes to the run's nodes."""
    assert {path: len(found) for path, found in calls("ray.remote").items()} == {
        "probe.py": 1,
        "runtime/beside.py": 1,
        "runtime/labels.py": 1,
    }
    assert "scheduling_strategy=driver_node()" in ast.unparse(calls("ray.remote")["runtime/beside.py"][0])
    groups = {path: ast.unparse(call) for path, (call,) in calls("ScalingConfig").items()}
    assert set(groups) == {"alignment/launch.py", "proxies/launch.py"}
    assert all("label_selector=run_labels() or None" in call for call in groups.values())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"pool": "-a"}, "has 'pool': '-a', but a label of a node is 1 to 63 letters"),
        ({"pool": ""}, "has 'pool': ''"),
        ({"pool": "in(a,b)"}, "has 'pool'"),
        ({"": "a"}, "has ''"),
        ({"/pool": "a"}, "has '/pool'"),
        ({"pool": "a" * 64}, "has 'pool'"),
        ({"pool": 1}, "valid string"),
    ],
)
def test_labels_that_no_node_can_have(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClusterConfig(labels=given)


def test_labels_as_ray_itself_gives_them() -> None:
    from ray._private.label_utils import validate_label_selector

    given = TEAM_A | {"a": "b", "ray.io/accelerator-type": "H100", "x" * 63: "1.2_3-4"}
    assert ClusterConfig(labels=given).labels == given
    assert validate_label_selector(given) is None

"""What fits on a cluster, what waits for nodes, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pdray.config import ScoresConfig
from pdray.engines import pool
from pdray.errors import UserError
from pdray.runtime import Need, find_places, placement, places_for, worker_places
from pdray.runtime.placement import node_cpus

NEED = Need("scoring actor", 2, 0, 1, "scores.cpus_per_actor")


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "places"),
    [
        ([{"CPU": 1}], 1, 0, 1),
        ([{"CPU": 2}, {"CPU": 3}], 2, 0, 2),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 4}], 1, 1, 8),
        ([{"CPU": 16, "GPU": 2}], 1, 0.5, 4),
        ([{"CPU": 2, "GPU": 8}], 1, 1, 2),
        ([{"CPU": 0, "memory": 1}, {"CPU": 2}], 1, 0, 2),
        ([{"CPU": 0.3}], 0.1, 0, 3),
        ([], 1, 0, 0),
    ],
)
def test_workers_that_fit_on_nodes(nodes: list[dict[str, float]], cpus: float, gpus: float, places: int) -> None:
    assert worker_places(nodes, cpus, gpus) == places


def test_a_need_that_fits_waits_for_nothing() -> None:
    assert places_for(NEED, [{"CPU": 4}], grows=False).fitting == 2
    assert places_for(NEED, [{"CPU": 4}], grows=True).waiting is None


def test_a_group_of_nodes_that_stands_at_zero_is_waited_for_and_said() -> None:
    need = Need("scoring actor", 1, 1, 2, "scores.gpus_per_actor")
    places = places_for(need, [{"CPU": 4}], grows=True)
    assert places.fitting == 0
    assert places.waiting == (
        "the config asks for 2 scoring actor(s) of 1 CPUs and 1 GPUs each, but the Ray cluster (1 node(s), 4 CPUs, "
        "0 GPUs) holds 0; waiting for nodes to join"
    )


def test_a_local_ray_never_grows_so_the_need_is_refused() -> None:
    need = Need("scoring actor", 1, 1, 2, "scores.gpus_per_actor")
    with pytest.raises(UserError, match=r"asks for 2 scoring actor.*holds 0; lower scores.gpus_per_actor, or join"):
        places_for(need, [{"CPU": 4}], grows=False)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The nodes of a cluster that was joined, to which nothing adds nodes by itself."""
    nodes = [{"CPU": 4.0, "GPU": 1.0}]
    for module in (placement, pool):
        monkeypatch.setattr(module, "living_nodes", lambda: nodes)
        monkeypatch.setattr(module, "may_grow", lambda: True)
    monkeypatch.setattr(placement, "has_no_autoscaler", lambda: True)
    return nodes


def test_without_an_autoscaler_what_never_fits_is_refused(
    by_hand: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = Need("training worker", 1, 1, 8, "alignment.num_workers")
    with pytest.raises(UserError, match=r"asks for 8 training worker.*holds 1; lower alignment.num_workers, or join"):
        find_places(need, pytest.fail)
    notes: list[str] = []
    monkeypatch.setattr(placement, "has_no_autoscaler", lambda: False)
    assert find_places(need, notes.append) == 1
    assert "waiting for nodes to join" in notes[0]


def test_scoring_begins_with_what_fits_and_is_refused_where_nothing_does(by_hand: list[dict[str, float]]) -> None:
    config = ScoresConfig(num_actors=8, gpus_per_actor=1)
    text_pass: Any = SimpleNamespace(config=config)
    notes: list[str] = []
    strategy = pool.Pool(text_pass, 0, None, notes.append)._strategy(20)
    assert (strategy.min_size, strategy.max_size) == (1, 8)
    assert "waiting for nodes to join" in notes[0]
    by_hand[:] = [{"CPU": 4.0}]
    with pytest.raises(UserError, match=r"asks for 1 scoring actor.*holds 0; lower scores.num_actors"):
        next(pool.Pool(text_pass, 0, None, pytest.fail).attempt([0]))


@pytest.mark.parametrize(
    ("nodes", "cpus"),
    [
        ([{"CPU": 2}], 2),
        ([{"CPU": 1}, {"CPU": 64}, {"CPU": 64}], 64),
        ([{"CPU": 1}, {"CPU": 64}], 64),
        ([{"CPU": 0}, {"CPU": 8}], 8),
        ([{"memory": 1}], 1),
    ],
)
def test_the_usual_node(nodes: list[dict[str, float]], cpus: float) -> None:
    assert node_cpus(nodes) == cpus

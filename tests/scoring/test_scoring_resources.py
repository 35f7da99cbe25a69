"""How many actors fit, and that something is always left for the other tasks."""

from __future__ import annotations

from typing import Any

import pytest

from pdray.config import ScoresConfig
from pdray.errors import UserError
from pdray.scoring.resources import Placement, place


def placed(nodes: list[dict[str, float]], **scores: Any) -> Placement:
    return place(nodes, ScoresConfig.model_validate(scores))


@pytest.mark.parametrize(
    ("nodes", "scores", "num_actors"),
    [
        ([{"CPU": 1}], {}, 1),
        ([{"CPU": 2}], {}, 2),
        ([{"CPU": 64}], {}, 64),
        ([{"CPU": 2}, {"CPU": 3}], {"cpus_per_actor": 2}, 2),
        ([{"CPU": 2}], {"num_actors": 1}, 1),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 4}], {"gpus_per_actor": 1}, 8),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_actor": 0.5}, 4),
        ([{"CPU": 2, "GPU": 8}], {"gpus_per_actor": 1}, 2),
        ([{"CPU": 0, "memory": 1}, {"CPU": 2}], {}, 2),
    ],
)
def test_as_many_actors_as_the_nodes_hold(
    nodes: list[dict[str, float]], scores: dict[str, Any], num_actors: int
) -> None:
    assert placed(nodes, **scores).num_actors == num_actors


@pytest.mark.parametrize(
    ("cpus", "per_actor"), [(1, 0.5), (1, 1), (2, 0.5), (2, 1), (2, 2), (3, 2), (7, 4), (64, 1), (64, 4)]
)
def test_a_full_node_still_runs_a_reading_and_a_writing_task(cpus: int, per_actor: float) -> None:
    placement = placed([{"CPU": cpus}], cpus_per_actor=per_actor)
    left = cpus - placement.num_actors * placement.actor_cpus
    assert left >= 2 * placement.task_cpus - 1e-9 > 0
    assert placement.num_tasks >= 1


def test_threads_are_the_cpus_of_the_config_not_the_share_that_ray_reserves() -> None:
    assert placed([{"CPU": 4}], cpus_per_actor=2).threads == 2
    assert placed([{"CPU": 4}], cpus_per_actor=0.5).threads == 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {"num_actors": 3},
            r"asks for 3 scoring actor\(s\) of 1 CPUs and 0 GPUs, but .* 2 CPUs, 0 GPUs\) holds 2; lower",
        ),
        ({"cpus_per_actor": 4}, r"asks for 1 scoring actor\(s\) of 4 CPUs .* holds 0; lower"),
        ({"gpus_per_actor": 1}, r"of 1 CPUs and 1 GPUs, .* 0 GPUs\) holds 0; .* or add nodes"),
        ({"gpus_per_actor": 2}, "gpus_per_actor is 2, but an actor's engines share one GPU; set it to 1"),
    ],
)
def test_more_than_the_cluster_holds_is_refused_with_the_numbers(scores: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        placed([{"CPU": 2}], **scores)

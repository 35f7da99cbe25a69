"""How many scoring actors fit on the cluster, and what is left for reading, tokenising and writing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pdray.config import ScoresConfig
from pdray.errors import UserError

# Reading and writing wait for the engines nearly all the time, so they share a tenth of the actors' CPUs: with whole
# CPUs for every actor a small cluster would have none left for them, and the pass would never start.
TASK_SHARE = 0.1


@dataclass(frozen=True)
class Placement:
    """What the pass asks Ray for.

    Attributes:
        num_actors: scoring actors.
        actor_cpus: CPUs that Ray reserves per actor, less than it uses by ``TASK_SHARE``.
        actor_gpus: GPUs per actor.
        threads: CPU threads per actor.
        task_cpus: CPUs that Ray reserves per reading, tokenising or writing task.
        num_tasks: tasks of one kind at a time.
    """

    num_actors: int
    actor_cpus: float
    actor_gpus: float
    threads: int
    task_cpus: float
    num_tasks: int


def place(nodes: list[dict[str, float]], scores: ScoresConfig) -> Placement:
    """Fit scoring actors on the nodes of a cluster.

    Args:
        nodes: resources of each living node, as Ray reports them (``CPU``, ``GPU``).
        scores: ``num_actors``, ``cpus_per_actor`` and ``gpus_per_actor``.

    Raises:
        UserError: the cluster does not hold what the config asks for.
    """
    if scores.gpus_per_actor > 1:
        raise UserError(
            f"scores.gpus_per_actor is {scores.gpus_per_actor:g}, but an actor's engines share one GPU; "
            "set it to 1 and let scores.num_actors grow"
        )
    room = sum(_fits(node, scores) for node in nodes)
    wanted = scores.num_actors or max(room, 1)
    if wanted > room:
        raise UserError(_does_not_fit(nodes, scores, wanted, room))
    spare = sum(node.get("CPU", 0) for node in nodes) - wanted * scores.cpus_per_actor
    return Placement(
        num_actors=wanted,
        actor_cpus=round(scores.cpus_per_actor * (1 - TASK_SHARE), 4),
        actor_gpus=scores.gpus_per_actor,
        threads=max(1, math.floor(scores.cpus_per_actor)),
        task_cpus=round(scores.cpus_per_actor * TASK_SHARE / 2, 4),
        num_tasks=max(1, math.floor(spare), math.ceil(wanted / 8)),
    )


def _fits(node: dict[str, float], scores: ScoresConfig) -> int:
    room = node.get("CPU", 0) / scores.cpus_per_actor
    if scores.gpus_per_actor:
        room = min(room, node.get("GPU", 0) / scores.gpus_per_actor)
    return math.floor(room + 1e-9)


def _does_not_fit(nodes: list[dict[str, float]], scores: ScoresConfig, wanted: int, room: int) -> str:
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    asked = f"{wanted} scoring actor(s) of {scores.cpus_per_actor:g} CPUs and {scores.gpus_per_actor:g} GPUs"
    return (
        f"the config asks for {asked}, but the Ray cluster ({len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs) "
        f"holds {room}; lower scores.num_actors, scores.cpus_per_actor or scores.gpus_per_actor, or add nodes"
    )

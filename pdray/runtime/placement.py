"""What fits on the cluster: one policy for engines, trainings and alignment. It fits, it waits, or it is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pdray.errors import UserError
from pdray.runtime.labels import as_words, has_labels, run_labels
from pdray.runtime.session import has_no_autoscaler, living_nodes, may_grow

Nodes = list[dict[str, float]]


@dataclass(frozen=True)
class Need:
    """Workers of one kind that a stage asks for.

    Attributes:
        what: a worker in words, for messages.
        cpus: of each.
        gpus: of each.
        count: how many there have to be at once.
        cure: the settings that make it smaller, in words.
    """

    what: str
    cpus: float
    gpus: float
    count: int
    cure: str


@dataclass(frozen=True)
class Places:
    """How a need meets the cluster.

    Attributes:
        fitting: workers that the living nodes hold at once, were they empty.
        waiting: why the need has to wait for nodes, in a sentence; None where all of it fits.
    """

    fitting: int
    waiting: str | None = None


def worker_places(nodes: Nodes, cpus: float, gpus: float) -> int:
    """How many workers fit on some nodes at once.

    Args:
        nodes: resources of each node, as ``{"CPU": 4.0, "GPU": 1.0}``.
        cpus: CPUs of a worker.
        gpus: GPUs of a worker.
    """
    epsilon = 1e-9
    return sum(
        int(min(node.get("CPU", 0.0) / cpus, node.get("GPU", 0.0) / gpus if gpus else float("inf")) + epsilon)
        for node in nodes
    )


def places_for(need: Need, nodes: Nodes, grows: bool, labels: str = "") -> Places:
    """Apply the policy to some nodes.

    Args:
        need: the workers.
        nodes: resources of each living node.
        grows: whether the cluster may get more nodes.
        labels: that these nodes have and others lack, as ``pool=team-a``; none where they are the whole cluster.

    Raises:
        UserError: the need does not fit, and the cluster will never be larger.
    """
    fitting = worker_places(nodes, need.cpus, need.gpus)
    if fitting >= need.count:
        return Places(fitting)
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    of_labels = f" with {labels}" if labels else ""
    text = (
        f"the config asks for {need.count} {need.what}(s) of {need.cpus:g} CPUs and {need.gpus:g} GPUs each, but the "
        f"Ray cluster{of_labels} ({len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs) holds {fitting}"
    )
    if not grows:
        raise UserError(f"{text}; lower {need.cure}, or join a larger cluster")
    return Places(fitting, f"{text}; waiting for nodes to join")


def find_places(need: Need, note: Callable[[str], None], by_hand: bool = False) -> int:
    """Apply the policy to the cluster as it is, and tell the user if the need has to wait.

    Args:
        need: the workers.
        note: tells the user.
        by_hand: whether nodes that somebody adds count as well, without an autoscaler: for work that begins with less.

    Returns:
        workers that fit now; 0 where all of them wait.

    Raises:
        UserError: see :func:`places_for`.
    """
    grows = may_grow() if by_hand else nodes_may_come()
    places = places_for(need, living_nodes(), grows, as_words(run_labels()))
    if places.waiting is not None:
        note(places.waiting)
    return places.fitting


def nodes_may_come() -> bool:
    """Whether nodes may be added because they are asked for, and not by hand alone. Needs a Ray session."""
    return may_grow() and not has_no_autoscaler()


def check_labels(note: Callable[[str], None]) -> None:
    """Tell the user where no living node has the labels that the run keeps to. Needs a Ray session.

    Raises:
        UserError: none ever will.
    """
    wanted = run_labels()
    if not wanted:
        return
    import ray

    nodes = [node.get("Labels") or {} for node in ray.nodes() if node["Alive"]]
    if any(has_labels(node, wanted) for node in nodes):
        return
    there = [sorted({node[name] for node in nodes if name in node}) for name in wanted]
    values = [f"{name} is {', '.join(one) or 'on none'}" for name, one in zip(wanted, there, strict=True)]
    text = f"cluster.labels is {as_words(wanted)}, and none of {len(nodes)} node(s) has that ({'; '.join(values)}); "
    cure = f"start nodes with ray start --labels {as_words(wanted)}, or set cluster.labels to labels that there are"
    if not nodes_may_come():
        raise UserError(text + cure)
    note(f"{text}waiting for nodes that have it; {cure}")


def node_cpus(nodes: Nodes) -> float:
    """CPUs of the usual node: the count that most nodes with CPUs have, the larger one of equally frequent ones."""
    counts = Counter(node["CPU"] for node in nodes if node.get("CPU", 0) >= 1)
    return max(counts, key=lambda cpus: (counts[cpus], cpus), default=1.0)

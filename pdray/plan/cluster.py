"""What a plan is made for where a Ray cluster answers: its living nodes, as its dashboard lists them. Joins nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from pdray.errors import UserError
from pdray.plan.hardware import GIB, GPUS, Gpu, Hardware
from pdray.runtime.labels import Labels, as_words, has_labels
from pdray.submission.api import ANSWER_SECONDS, WHOLE_SECONDS, check_cluster, headers, plain_address, within

KIND = "accelerator_type:"  # begins the resource by which Ray tells the kind of a node's GPUs
SAME = {"A100": "A100-40", "A100-40G": "A100-40", "A100-80G": "A100-80"}

Resources = dict[str, float]


def cluster_hardware(address: str, labels: Labels) -> Hardware:
    """Nodes, CPUs, memory and GPUs of the cluster at an address.

    Args:
        address: of the head's dashboard, for example ``http://127.0.0.1:8265``.
        labels: that nodes have to have; others are not counted.

    Raises:
        UserError: nothing answers there, it refuses the token, no node has the labels, or its GPUs are of no kind that
            is known here.
    """
    import requests

    address, words = plain_address(address), headers()
    check_cluster(address, words)
    query: dict[str, Any] = {"detail": "true", "limit": 10_000}
    try:
        response = within(
            WHOLE_SECONDS,
            lambda: requests.get(f"{address}/api/v0/nodes", query, headers=words, timeout=ANSWER_SECONDS),
        )
        response.raise_for_status()
        alive = [one for one in response.json()["data"]["result"]["result"] if one["state"] == "ALIVE"]
        nodes = [one["resources_total"] for one in alive if has_labels(one.get("labels") or {}, labels)]
    except (requests.RequestException, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{address} does not list its nodes ({type(error).__name__}); say what it has with --on, as in 8xH100"
        ) from None
    if labels and not nodes:
        raise UserError(
            f"cluster.labels is {as_words(labels)}, and none of {len(alive)} node(s) of {address} has that; say what "
            "there will be with --on, as in 8xH100, or set cluster.labels to labels that there are"
        )
    return hardware_of_nodes(nodes)


def hardware_of_nodes(nodes: list[Resources]) -> Hardware:
    """Nodes of one kind out of what Ray says of each: those with GPUs of the most frequent kind, or else all with CPUs.

    Args:
        nodes: ``CPU`` and ``GPU`` counted, ``memory`` and ``object_store_memory`` in bytes.

    Raises:
        UserError: there is none that can work, or the kind of the GPUs is not known here.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    used = with_gpus or [node for node in nodes if node.get("CPU", 0) >= 1]
    if not used:
        raise UserError("no node of the cluster offers CPUs; a plan needs hardware: say it with --on, as in 8xH100")
    if not with_gpus:
        return _hardware(f"Ray cluster, {len(used)} nodes", None, used)
    counts: Counter[str] = Counter()
    for node in used:
        counts[_kind(node)] += int(node["GPU"])
    kind = max(counts, key=lambda name: (counts[name], name))
    gpu = GPUS.get(SAME.get(kind, kind))
    if gpu is None:
        raise UserError(
            f"the GPUs of the cluster are of the kind {kind}, of which nothing is known here; name the nearest with "
            f"--on: {', '.join(GPUS)}"
        )
    found = _hardware(gpu.name, gpu, [node for node in used if _kind(node) == kind])
    return replace(found, note="; ".join(_unsure(kind) + _left_out(counts, kind)))


def _unsure(kind: str) -> list[str]:
    if kind != "A100":
        return []
    return [
        "Ray calls A100s of 40 and of 80 GB alike, and the smaller are planned for; for 80 GB say --on, as in 8xA100-80"
    ]


def _left_out(counts: Counter[str], kind: str) -> list[str]:
    others = ", ".join(f"{count}x{other}" for other, count in sorted(counts.items()) if other != kind)
    return [f"the cluster has GPUs of other kinds, which are not counted: {others}"] if others else []


def _kind(node: Resources) -> str:
    return next((name.removeprefix(KIND) for name in sorted(node) if name.startswith(KIND)), "unknown")


def _hardware(name: str, gpu: Gpu | None, nodes: list[Resources]) -> Hardware:
    # Ray gives its tasks what it leaves beside the object store; a little of the machine is in neither.
    gib = min(node.get("memory", 0) + node.get("object_store_memory", 0) for node in nodes) / GIB
    gpus, cpus = (sum(node.get(what, 0) for node in nodes) for what in ("GPU", "CPU"))
    return Hardware(name, gpu, int(gpus) if gpu else 0, len(nodes), cpus, gib)

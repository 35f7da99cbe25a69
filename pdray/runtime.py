"""Starting or joining Ray, the same way for every entry point."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from pdray.config import ClusterConfig
from pdray.errors import UserError

WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@contextlib.contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """A Ray connection for the duration of the block; a Ray that was started here ends with it.

    A local Ray listens on loopback only; Ray's token authentication stays as it is by default, on.

    Raises:
        UserError: the cluster at ``cluster.address`` does not answer.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray reads this name on every system; it keeps the servers of a one-node Ray on the loopback interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    try:
        if address is None:
            ray.init(
                address="local",  # without it Ray would join whatever cluster this machine last started
                num_cpus=cluster.num_cpus,
                include_dashboard=False,
                runtime_env={"env_vars": WORKER_ENV},
                logging_level=logging.WARNING,
            )
        else:
            ray.init(address=address, runtime_env={"env_vars": WORKER_ENV}, logging_level=logging.WARNING)
    except (ConnectionError, TimeoutError) as error:
        raise UserError(
            f"no Ray cluster answers at cluster.address {address!r} ({error}); start one with cluster/local.sh up, "
            "or set cluster.address to null for a local Ray"
        ) from None
    try:
        tune_ray_data()
        yield
    finally:
        ray.shutdown()


def tune_ray_data() -> None:
    """Ray Data's own progress bars off (the stages draw theirs) and block counts that fit the cluster."""
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_rich_progress_bars = False
    # The default of 200 blocks makes 200 tasks of a small corpus; large ones are split by block size anyway.
    parallelism = max(8, 2 * int(ray.cluster_resources().get("CPU", 1)))
    context.read_op_min_num_blocks = parallelism
    context.default_hash_shuffle_parallelism = parallelism


def living_nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster, as ``{"CPU": 4.0, "GPU": 1.0}``."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_places(nodes: list[dict[str, float]], cpus: float, gpus: float) -> int:
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


def driver_node() -> Any:
    """The scheduling strategy that puts an actor beside the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

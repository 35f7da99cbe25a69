"""Starting or joining Ray, the same way for every entry point."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pdray.errors import UserError
from pdray.garbage import collect_garbage_less_often
from pdray.runtime.address import check_answers, on_loopback_alone
from pdray.runtime.beside import end_beside
from pdray.runtime.labels import has_labels, kept_to, run_labels
from pdray.signals import handlers_kept

if TYPE_CHECKING:
    from pdray.config import ClusterConfig

WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Milliseconds after which Arrow's allocator gives free memory back. At once, its default, each shard pays anew for
    # the pages that the one before had: a third of a worker's seconds in the selection.
    "MIMALLOC_PURGE_DELAY": "10000",
}
ONE_NODE_ENV = WORKER_ENV | {
    # Left alone, the workers of a training listen where the host's name points to.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # Nobody takes this node away, and the actor that would watch for it costs every training five CPU seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
_state = {"started here": False}
TRIES = 3
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# A Unix socket's path ends at 107 bytes: TMPDIR, /pdray-XXXXXXXX/ray, /session_<26>_<pid of 7>, /sockets/plasma_store.1
LONGEST_TMPDIR = 107 - 19 - 43 - 23


@contextlib.contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """A Ray connection for the duration of the block; a Ray that was started here ends with it.

    A local Ray listens on loopback only and keeps its files where nobody else can read them; Ray's token
    authentication stays as it is by default, on.

    Raises:
        UserError: the cluster at ``cluster.address`` does not answer, a local Ray would listen on every interface,
            this process has a Ray already, which was not told to keep to the loopback interface and to private files,
            or ``cluster.labels`` is set for a local Ray.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise UserError(
            "this process is connected to a Ray already; end that with ray.shutdown() first, and set cluster.address "
            "to the cluster that the run is to join, or to null for a Ray of its own"
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if cluster.labels and address is None:
        raise UserError(
            "cluster.labels keeps a run to some nodes of a Ray cluster, but cluster.address is null and the run would "
            "start a Ray of its own; set cluster.address to that cluster, or leave cluster.labels out"
        )
    if address is not None:
        check_answers(address)
    with contextlib.ExitStack() as ending:
        where: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": _worker_env()}}
        if address is None or on_loopback_alone(address):
            keep_on_loopback()
        if address is None:
            where = {
                "address": "local",  # without it Ray would join whatever cluster this machine last started
                "num_cpus": cluster.num_cpus,
                "include_dashboard": False,
                "runtime_env": {"env_vars": ONE_NODE_ENV, "worker_process_setup_hook": collect_garbage_less_often},
                "_temp_dir": ending.enter_context(private_folder()),
            }
        import ray

        ending.callback(ray.shutdown)
        try:
            with handlers_kept():
                init_ray(where)
        except (ConnectionError, TimeoutError) as error:
            raise UserError(
                f"no Ray cluster answers at cluster.address {address!r} ({error}); start one with cluster/local.sh up, "
                "or set cluster.address to null for a local Ray"
            ) from None
        ending.callback(end_beside)  # its handle must not outlive this connection
        _state["started here"] = address is None
        ending.enter_context(kept_to(cluster.labels))
        tune_ray_data()
        yield


@contextlib.contextmanager
def present_ray(cluster: ClusterConfig) -> Iterator[None]:
    """The Ray that this process is connected to, which stays as it is; without one, as :func:`ray_session`.

    Raises:
        UserError: as :func:`ray_session`, where none is there.
    """
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        with ray_session(cluster):
            yield
        return
    from ray.data import DataContext

    with DataContext.current(DataContext.get_current().copy()), kept_to(cluster.labels):
        tune_ray_data()
        try:
            yield
        finally:
            end_beside()


def _worker_env() -> dict[str, str]:
    """The variables of workers, but for those that the job of this driver sets: Ray refuses to be told of one twice."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in WORKER_ENV.items() if name not in given}


def init_ray(where: dict[str, Any]) -> None:
    """``ray.init``, and once more where Ray's own limit for the start of a node runs out, as it does on a busy machine.

    Raises:
        UserError: no node has started in :data:`TRIES` tries.
    """
    import ray

    for left in reversed(range(TRIES)):
        try:
            # A copy: Ray writes into the environment that it is given, and refuses to see that again.
            ray.init(**copy.deepcopy(where), logging_level=logging.WARNING)
            return
        except Exception as error:  # Ray raises no narrower one
            if "_temp_dir" not in where or "timed out during startup" not in str(error):
                raise
            _end_processes(where["_temp_dir"])
            if not left:
                raise UserError(
                    f"Ray did not start within 30 seconds, {TRIES} times over: this machine is too busy, or short of "
                    "memory; run the same command again when it is less so"
                ) from None


def _end_processes(session: str) -> None:
    """End what a start of Ray that failed has left running: descendants of this process that name the session."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(session in word for word in process.cmdline()):
                process.kill()


def keep_on_loopback() -> None:
    """Make the servers of a Ray of this machine listen on the loopback interface only. Imports Ray.

    Raises:
        UserError: Ray was imported before, and decided otherwise.
    """
    os.environ[LOOPBACK_SWITCH] = "0"
    # Ray reads the variable, on every system, when it is imported: what it made of it is all that counts.
    from ray._private import ray_constants

    if ray_constants.ENABLE_RAY_CLUSTER:
        raise UserError(
            "ray was imported before pdray could tell it to keep a local Ray to the loopback interface, and would "
            f"listen on every interface; set {LOOPBACK_SWITCH}=0 before the first import of ray"
        )


@contextlib.contextmanager
def private_folder() -> Iterator[str]:
    """A folder for the session of a local Ray, inside one that only its owner may enter; removed at the end.

    It lies in TMPDIR, or in ``/tmp`` where TMPDIR is longer than Ray's sockets bear.
    """
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_TMPDIR:
        parent = "/tmp"  # noqa: S108 - the folder below is made 0700
    # The sockets of processes that are about to end may vanish while the folder is emptied.
    with tempfile.TemporaryDirectory(prefix="pdray-", dir=parent, ignore_cleanup_errors=True) as private:
        yield os.path.join(private, "ray")  # Ray opens its own folder to everybody


def tune_ray_data() -> None:
    """Ray Data's own progress bars off (the stages draw theirs) and block counts that fit the cluster."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_rich_progress_bars = False
    # The default of 200 blocks makes 200 tasks of a small corpus; large ones are split by block size anyway.
    parallelism = max(8, 2 * int(living("CPU")))
    context.read_op_min_num_blocks = parallelism
    context.default_hash_shuffle_parallelism = parallelism


def run_nodes() -> list[dict[str, Any]]:
    """What Ray tells of each living node that the run keeps to: all nodes, where it has no labels."""
    import ray

    labels = run_labels()
    return [node for node in ray.nodes() if node["Alive"] and has_labels(node.get("Labels") or {}, labels)]


def living_nodes() -> list[dict[str, float]]:
    """Resources of each living node that the run keeps to, as ``{"CPU": 4.0, "GPU": 1.0}``."""
    return [node["Resources"] for node in run_nodes()]


def living(resource: str) -> float:
    """How much of a resource, ``CPU`` or ``GPU``, these nodes have together."""
    return sum(node.get(resource, 0.0) for node in living_nodes())


def may_grow() -> bool:
    """Whether the cluster may get nodes that it does not have now: only a Ray that was started here never does."""
    return not _state["started here"]


def has_no_autoscaler() -> bool:
    """Whether Ray says that nothing adds nodes to this cluster by itself; False also where it says nothing.

    Ray's monitor looks after such a cluster too, and calls the kind of each node after that node alone; an autoscaler
    has kinds of its own. The second version of the autoscaler, and KubeRay without one, do not report here.
    """
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    kinds = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(f"node_{node['NodeID']}" in kinds for node in ray.nodes())


def driver_node() -> Any:
    """The scheduling strategy that puts an actor beside the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

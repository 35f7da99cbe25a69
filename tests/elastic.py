"""Scoring on a cluster that grows in the middle of it: ``python -m tests.elastic FOLDER joined|asked ACTORS|null``.

*joined*: somebody starts a second node while the first one scores. *asked*: Ray's own autoscaler, over nodes that are
processes of this machine, starts them because the run asks for them. Printed as JSON: the calls of the engine on each
node.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pdray.engines.engine import EngineOptions, Rewards, TokenIds
from pdray.engines.transformers_engine import TransformersEngine
from pdray.runtime import keep_on_loopback
from pdray.shards import MARKERS

ROOT = Path(__file__).parents[1]
SHARDS = 40
SECONDS = 3.0
STORE = 150 * 2**20
TRIES = 3
CALLS = "calls"
LABELS = {"pool": "team-a"}


class SlowEngine(TransformersEngine):
    """Takes its time, and writes down beside the model which node it was on."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self._log = Path(model_path).parent / CALLS

    def score(self, token_ids: TokenIds) -> Rewards:
        import ray

        time.sleep(SECONDS)
        with self._log.open("a") as log:
            log.write(f"{ray.get_runtime_context().get_node_id()}\n")
        return super().score(token_ids)


def main() -> None:
    """Start the cluster, score, and tell."""
    folder, grows, num_actors = Path(sys.argv[1]), *sys.argv[2:]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    keep_on_loopback()
    settings = {"joined": {}, "asked": {"labels": LABELS}}[grows]
    with {"joined": joined, "asked": asked}[grows](folder) as address:
        told = score_there(folder, {"address": address, **settings}, json.loads(num_actors))
    calls = Counter((folder / "model" / CALLS).read_text().split())
    print(json.dumps(told | {"calls": sorted(calls.values())}))


@contextlib.contextmanager
def joined(folder: Path) -> Iterator[str]:
    """A node of one CPU, to which another one comes when the first shard is scored; its address."""
    with nodes(folder, "--num-cpus=1") as (address, start):
        threading.Thread(target=lambda: (_scored(folder), start(address)), daemon=True).start()
        yield address


def _scored(folder: Path) -> None:
    while not list((folder / "scores-test" / MARKERS).glob("shard-*.json")):
        time.sleep(0.2)


@contextlib.contextmanager
def asked(folder: Path) -> Iterator[str]:
    """A head without CPUs and the autoscaler of the chart, which may start two nodes with labels, of one CPU each.

    Its provider is Ray's own for tests, whose nodes are processes.
    """
    from ray.autoscaler._private.fake_multi_node import node_provider
    from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

    head = node_provider.FAKE_HEAD_NODE_TYPE
    address = f"127.0.0.1:{_free_port()}"  # the provider would look at Ray's default port
    worker = {"resources": {"CPU": 1, "object_store_memory": STORE}, "labels": LABELS, "max_workers": 2}
    kinds = {"worker": worker, head: {"resources": {"CPU": 0}, "max_workers": 0}}
    settings = BASE_READONLY_CONFIG | {
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "provider": {
            # By its name Ray would look for defaults that its package lacks.
            "type": "external",
            "module": f"{node_provider.__name__}.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": node_provider.FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "available_node_types": {name: kind | {"node_config": {}} for name, kind in kinds.items()},
        "head_node_type": head,
    }
    (folder / "cluster.json").write_text(json.dumps(settings))
    words = ["--num-cpus=0", f"--port={address.split(':')[1]}", f"--autoscaling-config={folder / 'cluster.json'}"]
    ids = {
        name: node_provider.FAKE_HEAD_NODE_ID for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING")
    }
    with nodes(folder, *words, RAY_FAKE_CLUSTER="1", RAY_enable_autoscaler_v2="1", **ids) as (started, _):
        assert started == address
        yield address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def nodes(folder: Path, *words: str, **environment: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """A head on loopback, started with these words; its address, and what starts a node of one CPU beside it."""
    from pdray.runtime import private_folder

    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"} | environment
    common = ["--block", "--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
    common += ["--dashboard-agent-listen-port=0", f"--object-store-memory={STORE}"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> None:
        """A busy machine misses the 30 seconds that Ray gives a node to start: three tries."""
        log = folder / f"node-{len(started)}.log"
        for _ in range(TRIES):
            with log.open("wb") as out:
                ray = [sys.executable, str(ROOT / "cluster" / "loopback_ray.py"), "start", *common, *more]
                node = subprocess.Popen(ray, stdout=out, stderr=out, env=os.environ | own, start_new_session=True)
            while node.poll() is None:
                if "Ray runtime started" in log.read_text():
                    started.append(node)
                    return
                time.sleep(0.2)
        raise AssertionError(log.read_text())

    with private_folder() as session:
        try:
            start("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={session}", *words)
            address = (Path(session) / "ray_current_cluster").read_text().strip()
            yield address, lambda address: start(f"--address={address}", "--num-cpus=1")
        finally:
            for node in reversed(started):
                _end(node)


def _end(node: subprocess.Popen[bytes]) -> None:
    """A node with what it has started, nodes of an autoscaler among it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(node.pid).children(recursive=True)
        node.terminate()
        node.wait(60)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def score_there(folder: Path, cluster: dict[str, Any], num_actors: int | None) -> dict[str, Any]:
    """The scores stage on the cluster, and what Ray says of it."""
    from pdray.config import ClusterConfig
    from pdray.runtime import check_labels, living_nodes, ray_session
    from pdray.runtime.session import has_no_autoscaler
    from pdray.schema import RewardModel
    from tests.scoring.cases import ASPECTS, TEXTS, score, upstream_of
    from tests.tiny import tiny_bert

    model = tiny_bert(folder / "model" / "bert", num_labels=3, seed=3)
    size = len(TEXTS) // SHARDS
    shards = [TEXTS[start : start + size] for start in range(0, len(TEXTS), size)]
    upstream = upstream_of(folder, RewardModel(str(model), list(ASPECTS), head="classifier"), shards=shards)
    told: list[str] = []
    with ray_session(ClusterConfig(**cluster)):
        check_labels(told.append)
        result, _ = score(folder, upstream, load=SlowEngine, num_actors=num_actors)
        facts = {"actors": result.metrics["num_actors"], "nodes": len(living_nodes())}
        return facts | {"told": told, "has_no_autoscaler": has_no_autoscaler()}


if __name__ == "__main__":
    main()

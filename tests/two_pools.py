"""A run on a cluster of two nodes, of which it may use one: ``python -m tests.two_pools FOLDER [CONFIG]``.

The head, where the driver is, has CPUs but another label; the node with the label joins when the run says that it
waits. What ran where is printed as JSON, as Ray's task events have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pdray.runtime import keep_on_loopback

LABELS = {"pool": "team-a"}
STORE = {"object_store_memory": 150 * 2**20}


def main() -> None:
    """Start the nodes, run, and tell."""
    keep_on_loopback()
    from ray.cluster_utils import Cluster

    # Without the monitor nobody says that no autoscaler is there, and the run waits for a node that may come.
    head = {"num_cpus": 3, "labels": {"pool": "team-b"}, "include_dashboard": False, "no_monitor": True, **STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    folder, told = Path(sys.argv[1]), []

    def join(text: str) -> None:
        told.append(text)
        if "waiting for nodes" in text and len(cluster.list_all_nodes()) == 1:
            cluster.add_node(num_cpus=3, labels=LABELS, **STORE)

    if sys.argv[2:]:
        run_whole(cluster.address, Path(sys.argv[2]), join)
    else:
        run_two_stages(cluster.address, folder, join)
    print(json.dumps({"told": told, **where(cluster)}))
    cluster.shutdown()


def run_two_stages(address: str, folder: Path, note: Any) -> None:
    """A corpus with every shuffle that there is, and a selection by radix, ranked by the distributed sort."""
    from pdray.config import ClusterConfig, CorpusConfig
    from pdray.corpus import exchange, stage
    from pdray.runtime import check_labels, ray_session
    from tests.corpus.cases import rows, write_lines
    from tests.selection.cases import random_case, select
    from tests.stages import run_stage

    exchange.SMALL_BYTES = 0  # so that a small corpus is shuffled as a large one
    corpus = CorpusConfig(path=str(write_lines(folder, rows(40))), texts_per_shard=16)
    with ray_session(ClusterConfig(address=address, labels=LABELS)):
        check_labels(note)
        assert run_stage(stage.STAGE, folder, corpus=corpus).rows_out == 40
        select(folder, random_case(rows=300), 3, rank="all")


def run_whole(address: str, config: Path, note: Any) -> None:
    """A run with Ray Train and engines."""
    from pdray.config import load_config
    from pdray.console import Console
    from pdray.pipeline import run_pipeline

    say = Console.say

    def told(console: Console, text: str) -> None:
        note(text)
        say(console, text)

    Console.say = told  # type: ignore[method-assign]
    run_pipeline(load_config(config, [f"cluster.address={address}", f"cluster.labels={json.dumps(LABELS)}"]))


def where(cluster: Any) -> dict[str, dict[str, int]]:
    """The pool of each node -> names of tasks and of actors' calls that ran there, with how often."""
    import ray
    from ray._private.state import state

    ray.init(address=cluster.address, log_to_driver=False)
    time.sleep(2)  # workers send their events once a second
    names = {node["NodeID"]: node["Labels"].get("pool", "") for node in ray.nodes()}
    found: dict[str, Counter[str]] = {}
    for event in state._get_all_task_events():
        node = names.get(event.state_updates.node_id.hex())
        if node is not None and event.task_info.name:
            found.setdefault(node, Counter())[event.task_info.name] += 1
    ray.shutdown()
    return {key: dict(sorted(names.items())) for key, names in sorted(found.items())}


if __name__ == "__main__":
    main()

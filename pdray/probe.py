"""Whether every node of a cluster sees the run folder: found out before hours of work go to one that does not."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from pdray.errors import UserError
from pdray.runtime import run_nodes
from pdray.storage import StoragePath

ANSWER_SECONDS = 60.0  # for a worker process to start on every node
APPEAR_SECONDS = 5.0  # for a new file to show on a mount that caches


def check_shared(run: StoragePath, note: Callable[[str], None]) -> None:
    """Refuse a local run folder that is not the same on every node that the run keeps to. Needs a Ray session.

    Args:
        run: the run folder; object storage is the same everywhere.
        note: tells the user what could not be found out.

    Raises:
        UserError: nodes do not see it; the message names them.
    """
    import ray

    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in run_nodes()}
    if not run.is_local or sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    file, secret = run / f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    file.write_bytes(secret)
    try:
        answers = ask(list(nodes), file, secret)
    finally:
        file.delete()
    blind = sorted(nodes[node] for node, sees in answers.items() if sees is False)
    silent = sorted(nodes[node] for node in nodes if answers.get(node) is None)
    if blind:
        raise UserError(
            f"run is {run}, which {len(blind)} of {len(nodes)} nodes do not see ({', '.join(blind)}); set run to a "
            "folder that every node mounts, or to object storage as in s3://bucket/run"
        )
    if silent:
        note(f"whether these nodes see {run} is not known, they did not answer: {', '.join(silent)}")


def ask(nodes: list[str], file: StoragePath, secret: bytes) -> dict[str, bool | None]:
    """Let one task per node read a file.

    Returns:
        node -> whether it found the secret in it; None where no answer came in time.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    read = ray.remote(num_cpus=0, max_retries=0)(sees)
    tasks: dict[Any, str] = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        tasks[read.options(scheduling_strategy=here).remote(file, secret, APPEAR_SECONDS)] = node
    # Those that do not answer are left to themselves: Ray 2.60 may abort where a task ends while it is cancelled.
    answered, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER_SECONDS)
    answers: dict[str, bool | None] = dict.fromkeys(nodes)
    for task in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # a node that was lost meanwhile
            answers[tasks[task]] = ray.get(task)
    return answers


def sees(file: StoragePath, secret: bytes, seconds: float) -> bool:
    """Whether a file with this content shows up here in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            if file.read_bytes() == secret:
                return True
        except OSError:
            pass
        if time.monotonic() > end:
            return False
        time.sleep(0.2)

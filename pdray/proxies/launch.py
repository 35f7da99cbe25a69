"""Several trainings side by side, as many as the cluster holds, and errors that reach the user as they were raised."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies.training import TrainingJob, train_worker
from pdray.runtime import living_nodes, worker_places

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def fit(job: TrainingJob) -> dict[str, Any]:
    """Train one proxy with Ray Train and wait for it.

    Returns:
        what rank 0 returned.

    Raises:
        ray.train.TrainingFailedError: a worker failed; see :func:`pdray.errors.user_errors`.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pdray.rendezvous import torch_config

    proxies = job.proxies
    resources = {"CPU": proxies.cpus_per_worker}
    if proxies.gpus_per_worker > 0:
        resources["GPU"] = proxies.gpus_per_worker
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"job": job},
        torch_config=torch_config(),
        scaling_config=ScalingConfig(
            num_workers=proxies.num_workers, use_gpu=proxies.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=job.name, storage_path=str(job.scratch), failure_config=FailureConfig(max_failures=0)
        ),
    )
    facts: dict[str, Any] = trainer.fit().return_value
    return facts


def _train_loop(config: dict[str, Any]) -> dict[str, Any]:
    return train_worker(config["job"])


def trainings_at_once(proxies: ProxiesConfig) -> int:
    """How many proxies the cluster trains side by side.

    Raises:
        UserError: it does not hold the workers of one.
    """
    import ray

    places = worker_places(living_nodes(), proxies.cpus_per_worker, proxies.gpus_per_worker)
    if places < proxies.num_workers:
        total = ray.cluster_resources()
        raise UserError(
            f"a proxy needs {proxies.num_workers} workers with {proxies.cpus_per_worker:g} CPUs and "
            f"{proxies.gpus_per_worker:g} GPUs each, but the cluster with {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs holds {places}; lower proxies.num_workers, cpus_per_worker or "
            "gpus_per_worker, or add nodes"
        )
    return places // proxies.num_workers


def side_by_side(function: Callable[[Job], Outcome], jobs: Sequence[Job], limit: int) -> list[Outcome]:
    """Call a function on every job in threads, at most ``limit`` at a time.

    The first error is raised at once and no further job starts. The threads are daemons, so that an interrupt
    or an error ends the process without waiting for the trainings that still run.

    Returns:
        the results in the order of the jobs.
    """
    waiting: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    failed = threading.Event()
    for item in enumerate(jobs):
        waiting.put(item)

    def work() -> None:
        while not failed.is_set():
            try:
                index, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, function(job), None))
            except BaseException as error:
                done.put((index, None, error))

    for _ in range(min(limit, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    results: dict[int, Outcome] = {}
    while len(results) < len(jobs):
        index, result, error = done.get()
        if error is not None:
            failed.set()
            raise error
        results[index] = result
    return [results[index] for index in range(len(jobs))]

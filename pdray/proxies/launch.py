"""Several trainings side by side, as many as the cluster holds, and errors that reach the user as they were raised."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pdray.attempts import repeat
from pdray.config import ProxiesConfig
from pdray.proxies.done import SCRATCH
from pdray.proxies.training import TrainingJob, train_workers
from pdray.runtime import Need, find_places, nodes_may_come, run_labels

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def fit(jobs: list[TrainingJob], note: Callable[[str], None]) -> None:
    """Train some models one after the other in one Ray Train run, and wait; all their workers start once.

    A run that fails is started again, and goes on from the last checkpoint of the model that it was at.

    Args:
        jobs: the trainings.
        note: told of each failure.

    Raises:
        UserError: what a worker refused.
        RuntimeError: more than ``proxies.max_failures`` attempts in a row came no further.
    """
    names = ", ".join(job.name for job in jobs)

    def reached() -> int:
        return sum(job.steps_done() for job in jobs)

    def told(why: str) -> None:
        total = sum(job.steps for job in jobs)
        note(f"the workers that train {names} failed ({why}); going on from step {reached():,} of {total:,}")

    repeat(lambda: _attempt(jobs), reached, jobs[0].proxies.max_failures, told, f"the training of {names}")


def _attempt(jobs: list[TrainingJob]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pdray.rendezvous import torch_config

    proxies, scratch = jobs[0].proxies, jobs[0].stage / SCRATCH
    resources = {"CPU": proxies.cpus_per_worker}
    if proxies.gpus_per_worker > 0:
        resources["GPU"] = proxies.gpus_per_worker
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"jobs": jobs},
        torch_config=torch_config(),
        scaling_config=ScalingConfig(
            num_workers=proxies.num_workers,
            use_gpu=proxies.gpus_per_worker > 0,
            resources_per_worker=resources,
            label_selector=run_labels() or None,
        ),
        run_config=RunConfig(
            name=f"ray-{jobs[0].name}-{time.time_ns()}",  # Ray Train would restore a run of the same name
            storage_path=scratch.path,
            storage_filesystem=scratch.filesystem,
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


def _train_loop(config: dict[str, Any]) -> None:
    train_workers(config["jobs"])


def lanes_of(jobs: Sequence[TrainingJob], limit: int) -> list[list[TrainingJob]]:
    """Some trainings as at most ``limit`` runs that take about as long as each other."""
    longest_first = sorted(jobs, key=lambda job: -job.steps)
    return [longest_first[lane::limit] for lane in range(min(limit, len(jobs)))]


def trainings_at_once(proxies: ProxiesConfig, note: Callable[[str], None]) -> int:
    """How many proxies are trained side by side: as many as the cluster holds, or all where it may get more nodes.

    Those that do not fit then wait for nodes or for the others, and an autoscaler is asked for all of them at once.

    Raises:
        UserError: it does not hold the workers of one, and will never be larger.
    """
    need = Need(
        "proxy worker",
        proxies.cpus_per_worker,
        proxies.gpus_per_worker,
        proxies.num_workers,
        "proxies.num_workers, proxies.cpus_per_worker or proxies.gpus_per_worker",
    )
    fitting = find_places(need, note) // proxies.num_workers
    return sys.maxsize if nodes_may_come() else max(1, fitting)


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

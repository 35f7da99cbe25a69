"""Starts the training under Ray Train and brings back what it says."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pdray.alignment.worker import REFUSED, TrainingJob, train_worker
from pdray.config import AlignmentConfig
from pdray.errors import UserError
from pdray.progress import Progress


def fit(job: TrainingJob) -> None:
    """Train and wait.

    Raises:
        UserError: what a worker refused.
        RuntimeError: the workers failed more than ``max_failures`` times; the message holds theirs.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from pdray.rendezvous import torch_config

    alignment, folder = job.alignment, job.folder
    (folder / REFUSED).unlink(missing_ok=True)
    # Ray Train's own print bypasses the redirection that datasets hashes functions with, and floods the log.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    storage = folder / "ray"
    trainer = TorchTrainer(
        lambda: train_worker(job),
        torch_config=torch_config(),
        scaling_config=_scaling(alignment),
        run_config=ray.train.RunConfig(
            name=f"attempt-{time.time_ns()}",  # Ray Train would restore a run of the same name
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=alignment.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _reason(error, folder / REFUSED) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def check_resources(alignment: AlignmentConfig, address: str | None, progress: Progress) -> None:
    """Refuse workers that do not fit, for which Ray Train would wait for ever.

    A cluster that grows by itself may still fit them.

    Args:
        alignment: the section.
        address: of the cluster, from the config.
        progress: says that it waits.

    Raises:
        UserError: a Ray that cannot grow is too small.
    """
    from pdray.runtime import living_nodes, worker_places

    nodes = living_nodes()
    places = worker_places(nodes, alignment.cpus_per_worker, alignment.gpus_per_worker)
    if places >= alignment.num_workers:
        return
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    text = (
        f"alignment asks for {alignment.num_workers} workers of {alignment.cpus_per_worker:g} CPUs and "
        f"{alignment.gpus_per_worker:g} GPUs each, but the Ray cluster ({len(nodes)} node(s), {cpus:g} CPUs, "
        f"{gpus:g} GPUs) holds {places}"
    )
    # A job is given the address of its cluster; only a Ray that was started for this run can never grow.
    if address is None and "RAY_ADDRESS" not in os.environ:
        raise UserError(f"{text}; lower alignment.cpus_per_worker or gpus_per_worker, or join a larger cluster")
    progress.note(f"{text}; waiting until the cluster has grown")


def _scaling(alignment: AlignmentConfig) -> Any:
    from ray.train import ScalingConfig

    resources = {"CPU": alignment.cpus_per_worker}
    if alignment.gpus_per_worker > 0:
        resources["GPU"] = alignment.gpus_per_worker
    return ScalingConfig(
        num_workers=alignment.num_workers,
        use_gpu=alignment.gpus_per_worker > 0,
        resources_per_worker=resources,
    )


def _reason(error: Exception, refusal: Path) -> Exception:
    """What a failed training says to the user: the worker's own words, without Ray Train's wrapping."""
    if refusal.exists():
        return UserError(json.loads(refusal.read_text(encoding="utf-8"))["message"])
    failures = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure
        return RuntimeError(f"DPO failed on worker {rank}: {type(cause).__name__}: {cause}")
    return RuntimeError(f"DPO failed: {error}")

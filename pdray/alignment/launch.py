"""Starts the training under Ray Train, again as long as it comes further, and brings back what it says."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pdray.alignment import checkpoints
from pdray.alignment.worker import TrainingJob, train_worker
from pdray.attempts import repeat
from pdray.config import AlignmentConfig
from pdray.progress import Progress
from pdray.runtime import Need, find_places, run_labels


def fit(job: TrainingJob, note: Callable[[str], None]) -> None:
    """Train and wait; workers that fail are started again from the last checkpoint.

    Args:
        job: the training.
        note: told of each failure.

    Raises:
        UserError: what a worker refused.
        RuntimeError: more than ``max_failures`` attempts in a row came no further; the message holds the last reason.
    """
    alignment = job.alignment

    def told(why: str) -> None:
        note(f"the workers failed ({why}); going on from step {_reached(job)[0]}")

    repeat(partial(_attempt, job), partial(_reached, job), alignment.max_failures, told, alignment.loss.upper())


def _reached(job: TrainingJob) -> tuple[int, int]:
    """How far a training has come, as the storage has it: steps of the last checkpoint, parts of the reference."""
    latest = checkpoints.latest(job.folder)
    return checkpoints.step_of(latest) if latest else 0, len(job.reference.folder.sizes())


def _attempt(job: TrainingJob) -> None:
    import ray.train

    from pdray.rendezvous import torch_config

    # Ray Train's own print bypasses the redirection that datasets hashes functions with, and floods the log.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    storage = job.folder / "ray"
    trainer = interruptible_trainer()(
        lambda: train_worker(job),
        torch_config=torch_config(),
        scaling_config=_scaling(job.alignment),
        run_config=ray.train.RunConfig(
            name=f"attempt-{time.time_ns()}",  # Ray Train would restore a run of the same name
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def interruptible_trainer() -> Any:
    """Ray Train's ``TorchTrainer`` without its handler of Ctrl-C, which ends the process with code 1 and no word.

    The command's own handler then hears it, as it hears SIGTERM.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    return Trainer


def check_resources(alignment: AlignmentConfig, progress: Progress) -> None:
    """Refuse workers that do not fit, for which Ray Train would wait for ever; a cluster may still grow.

    Raises:
        UserError: a Ray that cannot grow is too small.
    """
    need = Need(
        "training worker",
        alignment.cpus_per_worker,
        alignment.gpus_per_worker,
        alignment.min_workers or alignment.num_workers,
        "alignment.num_workers, alignment.cpus_per_worker or alignment.gpus_per_worker",
    )
    find_places(need, progress.note)


def _scaling(alignment: AlignmentConfig) -> Any:
    from ray.train import ScalingConfig

    resources = {"CPU": alignment.cpus_per_worker}
    if alignment.gpus_per_worker > 0:
        resources["GPU"] = alignment.gpus_per_worker
    most, least = alignment.num_workers, alignment.min_workers
    return ScalingConfig(
        num_workers=(least, most) if least is not None and least < most else most,
        use_gpu=alignment.gpus_per_worker > 0,
        resources_per_worker=resources,
        label_selector=run_labels() or None,
    )

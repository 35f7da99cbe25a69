"""A training from tokenised pairs to a policy folder, whichever stage asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdray.alignment import checkpoints
from pdray.alignment.inputs import PairInput
from pdray.alignment.launch import check_resources, fit
from pdray.alignment.merge import merge_adapters
from pdray.alignment.reference import ReferenceStore
from pdray.alignment.worker import TrainingJob
from pdray.config import AlignmentConfig
from pdray.errors import user_errors
from pdray.progress import Progress
from pdray.runtime.tasks import finished


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        policy: folder that ``AutoModelForCausalLM`` loads.
        facts: of the last checkpoint.
        history: the log of every step.
    """

    policy: Path
    facts: dict[str, Any]
    history: list[dict[str, Any]]


def train_policy(
    alignment: AlignmentConfig,
    seed: int,
    prepare: Callable[[], PairInput],
    reference: ReferenceStore,
    folder: Path,
    progress: Progress,
) -> Trained:
    """Train, or continue what an interrupted attempt left in the folder, and publish the policy.

    Args:
        alignment: the settings.
        seed: of the order of the pairs.
        prepare: tokenises the pairs; not called where the training is finished.
        reference: what is known of the untouched policy.
        folder: where checkpoints, the log and the policy go; every worker sees it.
        progress: the user's progress line.

    Raises:
        UserError: what a worker refused, or workers that fit nowhere.
        RuntimeError: more than ``max_failures`` attempts in a row came no further; the message holds the last reason.
    """
    found, start_seconds = checkpoints.finished(folder), None
    if found is None:
        check_resources(alignment, progress)
        pairs = prepare()
        with progress.counting(alignment.loss.upper(), unit="steps") as counter:
            counter.ask()
            fit(TrainingJob(alignment, seed, pairs, reference, folder, counter), progress.note)
            start_seconds = counter.start_seconds()
    checkpoint = checkpoints.finished(folder)
    assert checkpoint is not None, "Ray Train returned without a finished checkpoint"
    facts = (checkpoints.read_mark(checkpoint) or {}) | {"worker_start_seconds": start_seconds}
    if found:
        facts["resumed_from_step"] = facts["step"]
    history = checkpoints.read_history(checkpoint)
    checkpoints.write_history(folder, history)
    return Trained(_publish(checkpoint, folder, alignment), facts, history)


def _publish(checkpoint: Path, folder: Path, alignment: AlignmentConfig) -> Path:
    """The policy of the last checkpoint; a task adds adapters to their base, for which a driver may be too small."""
    if alignment.lora is None:
        return checkpoints.publish_policy(checkpoint, folder)
    import ray

    def merge(checkpoint: Path, policy: Path) -> None:
        with user_errors():
            for _, ref in finished(merge_adapters, [(checkpoint, policy, alignment.policy, alignment.dtype)]):
                ray.get(ref)

    return checkpoints.publish_policy(checkpoint, folder, merge)

"""The function that Ray Train runs on every worker: one proxy with TRL's RewardTrainer, and its baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import length
from pdray.proxies.base import load_reward_model, load_tokenizer, save_proxy
from pdray.proxies.data import Prepared
from pdray.proxies.features import Features

if TYPE_CHECKING:
    from trl import RewardConfig


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know of one aspect.

    Attributes:
        name: the aspect's folder name.
        prepared: its tables.
        features: of the frozen backbone, or None to train all weights.
        folder: where the trained proxy goes.
        scratch: for what the trainers leave behind.
        proxies: the settings of the stage.
        seed: of weights and order.
        counter: the user's progress line.
    """

    name: str
    prepared: Prepared
    features: Features | None
    folder: Path
    scratch: Path
    proxies: ProxiesConfig
    seed: int
    counter: Any

    def counted_by(self, counter: Any) -> TrainingJob:
        """The same job with a progress line."""
        return replace(self, counter=counter)

    @property
    def steps(self) -> int:
        """Optimizer steps of the proxy and its baseline together."""
        per_epoch = math.ceil(self.prepared.train_pairs / (self.proxies.batch_size * self.proxies.num_workers))
        runs = len(self.prepared.tables.keys() & {"train", "baseline"})
        return runs * math.ceil(per_epoch * self.proxies.epochs)


def train_worker(job: TrainingJob) -> dict[str, Any]:
    """Train the proxy of an aspect and save it; then its baseline, of which only the length correlation stays.

    Returns:
        on rank 0 ``held_out_accuracy`` and ``length_correlation``; elsewhere an empty dict.

    Raises:
        UserError: the proxy's rewards are not finite.
    """
    import torch

    torch.set_num_threads(max(1, int(job.proxies.cpus_per_worker)))
    penalty = length.scoring_penalty(job.proxies.length_penalty, job.proxies.length_penalty_form)
    difference = pq.read_table(job.prepared.tables["held_out"])["length_difference"].to_numpy()
    before = None
    if "baseline" in job.prepared.tables:
        reward_margin = train_one(job, "baseline", None)
        before = reward_margin is not None and length.rank_correlation(difference, reward_margin)
    reward_margin = train_one(job, "train", job.folder)
    if reward_margin is None:
        return {}
    if not np.isfinite(reward_margin).all():
        raise UserError(
            f"the proxy {job.name} diverged: its rewards of held-out pairs are not finite; lower "
            f"proxies.learning_rate, now {job.proxies.learning_rate:g}"
        )
    margin = length.final_margin(reward_margin, difference, penalty)
    return {
        "held_out_accuracy": length.accuracy(margin),
        "length_correlation": {"before": before, "after": length.rank_correlation(difference, margin)},
    }


def train_one(job: TrainingJob, use: str, folder: Path | None) -> np.ndarray | None:
    """Train on the table named ``use`` and save into ``folder``, if given.

    Returns:
        (n,) reward margins Δr of the held-out pairs on rank 0, None elsewhere.
    """
    import torch
    from datasets import Dataset
    from trl import RewardTrainer

    base_model = job.proxies.base_model
    assert base_model is not None
    tokenizer = load_tokenizer(base_model)
    model = load_reward_model(base_model, tokenizer, job.seed)
    backbone = None
    if job.features is not None:
        from pdray.proxies.heads import swap_backbone

        backbone = swap_backbone(model, torch.from_numpy(job.features.load()))
    table = pq.read_table(job.prepared.tables[use], columns=["chosen_ids", "rejected_ids", "margin"])
    trainer = RewardTrainer(
        model=model,
        args=reward_config(job),
        train_dataset=Dataset(table, fingerprint=f"{job.name}-{use}"),  # else datasets pickles the table for one
        processing_class=tokenizer,
        callbacks=[_step_counter(job.counter)],
    )
    trainer.train()
    if not trainer.is_world_process_zero():
        return None
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    reward_margin = held_out_margin(model, job.prepared.tables["held_out"], tokenizer.pad_token_id)
    if folder is not None:
        if backbone is not None:
            from pdray.proxies.heads import restore_backbone

            restore_backbone(model, backbone)
        save_proxy(model.cpu(), tokenizer, folder)
    return reward_margin


def held_out_margin(model: Any, table: str, pad_token_id: int) -> np.ndarray:
    """Δr of every pair of a table, (n,) float64."""
    from pdray.proxies.heads import rewards

    pairs = pq.read_table(table, columns=["chosen_ids", "rejected_ids"])
    chosen, rejected = pairs["chosen_ids"].to_pylist(), pairs["rejected_ids"].to_pylist()
    both = rewards(model, chosen + rejected, pad_token_id)
    margin: np.ndarray = both[: len(chosen)] - both[len(chosen) :]
    return margin


def reward_config(job: TrainingJob) -> RewardConfig:
    """TRL's settings: plain AdamW with linear decay, no dropout, no checkpoints, no outside reporters."""
    from trl import RewardConfig

    proxies = job.proxies
    use_gpu = proxies.gpus_per_worker > 0
    return RewardConfig(
        output_dir=str(job.scratch),
        num_train_epochs=proxies.epochs,
        learning_rate=proxies.learning_rate,
        lr_scheduler_type="linear",
        per_device_train_batch_size=proxies.batch_size,
        seed=job.seed,
        max_length=None,  # PairEncoder has cut the texts; the trainer would drop the long ones
        use_cpu=not use_gpu,
        bf16=use_gpu and job.features is None,
        gradient_checkpointing=use_gpu and job.features is None,
        ddp_find_unused_parameters=False if job.features is not None else None,
        ddp_broadcast_buffers=False,  # the table of features is a buffer, and the same on every worker
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _step_counter(counter: Any) -> Any:
    from transformers import TrainerCallback

    class StepCounter(TrainerCallback):
        """Counts optimizer steps on the first worker."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                counter.add(1)

    return StepCounter()

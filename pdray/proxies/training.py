"""The function that Ray Train runs on every worker: one proxy with TRL's RewardTrainer, and its baseline."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.margins import final_margin
from pdray.proxies import length, quality
from pdray.proxies.backbone import save_model
from pdray.proxies.base import load_reward_model, load_tokenizer
from pdray.proxies.data import BASELINE, HELD_OUT, TRAIN
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from trl import RewardConfig


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know of one aspect.

    Attributes:
        name: the aspect's folder name.
        tables: file of each table of :func:`pdray.proxies.data.write_tables`.
        train_pairs: draws, repeated ones counted as often as they were drawn.
        folder: where the trained proxy goes.
        scratch: for what the trainers leave behind.
        proxies: the settings of the stage.
        seed: of weights and order.
        counter: the user's progress line.
    """

    name: str
    tables: dict[str, StoragePath]
    train_pairs: int
    folder: StoragePath
    scratch: StoragePath
    proxies: ProxiesConfig
    seed: int
    counter: Any = None

    def counted_by(self, counter: Any) -> TrainingJob:
        """The same job with a progress line."""
        return replace(self, counter=counter)

    @property
    def steps(self) -> int:
        """Optimizer steps of the proxy and its baseline together."""
        per_epoch = math.ceil(self.train_pairs / (self.proxies.batch_size * self.proxies.num_workers))
        return len(self.tables.keys() & {TRAIN, BASELINE}) * math.ceil(per_epoch * self.proxies.epochs)


def train_worker(job: TrainingJob) -> dict[str, Any]:
    """Train the proxy of an aspect and save it; its baseline before, of which only the length correlation stays.

    Returns:
        on rank 0 what the manifest says of the proxy; elsewhere an empty dict.

    Raises:
        UserError: the proxy's rewards are not finite.
    """
    import torch

    torch.set_num_threads(max(1, int(job.proxies.cpus_per_worker)))
    penalty = length.scoring_penalty(job.proxies.length_penalty, job.proxies.length_penalty_form)
    difference = job.tables[HELD_OUT].read_table(["length_difference"])["length_difference"].to_numpy()
    baseline = train_one(job, BASELINE, None) if BASELINE in job.tables else None
    reward_margin = train_one(job, TRAIN, job.folder)
    if reward_margin is None:
        return {}
    if not np.isfinite(reward_margin).all():
        raise UserError(
            f"the proxy {job.name} diverged: its rewards of held-out pairs are not finite; lower "
            f"proxies.learning_rate, now {job.proxies.learning_rate:g}"
        )
    margin = final_margin(reward_margin, difference, penalty)
    return {"train_pairs": job.train_pairs, **quality.held_out_facts(margin, difference, baseline)}


def train_one(job: TrainingJob, use: str, folder: StoragePath | None) -> np.ndarray | None:
    """Train on the table named ``use`` and save into ``folder``, if given.

    Returns:
        (n,) reward margins Δr of the held-out pairs on rank 0, None elsewhere.
    """
    from datasets import Dataset
    from trl import RewardTrainer

    base_model = job.proxies.base_model
    assert base_model is not None
    tokenizer = load_tokenizer(base_model)
    table = job.tables[use].read_table(["chosen_ids", "rejected_ids", "margin"])
    trainer = RewardTrainer(
        model=load_reward_model(base_model, tokenizer, job.seed),
        args=reward_config(job),
        train_dataset=Dataset(table, fingerprint=f"{job.name}-{use}"),  # else datasets pickles the table for one
        processing_class=tokenizer,
        callbacks=[_step_counter(job.counter)],
    )
    trainer.train()
    if not trainer.is_world_process_zero():
        return None
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    reward_margin = held_out_margin(model, job.tables[HELD_OUT], tokenizer.pad_token_id)
    if folder is not None:
        save_model(model.cpu(), tokenizer, folder)
    return reward_margin


def held_out_margin(model: Any, table: StoragePath, pad_token_id: int) -> np.ndarray:
    """Δr of every pair of a table, (n,) float64."""
    from pdray.proxies.heads import logits

    pairs = table.read_table(["chosen_ids", "rejected_ids"])
    chosen, rejected = pairs["chosen_ids"].to_pylist(), pairs["rejected_ids"].to_pylist()
    both = logits(model, chosen + rejected, pad_token_id)[:, 0]
    margin: np.ndarray = both[: len(chosen)] - both[len(chosen) :]
    return margin


def reward_config(job: TrainingJob) -> RewardConfig:
    """TRL's settings: plain AdamW with linear decay, no dropout, no checkpoints, no outside reporters."""
    from trl import RewardConfig

    proxies = job.proxies
    use_gpu = proxies.gpus_per_worker > 0
    return RewardConfig(
        output_dir=tempfile.gettempdir(),  # nothing is saved there
        num_train_epochs=proxies.epochs,
        learning_rate=proxies.learning_rate,
        lr_scheduler_type="linear",
        per_device_train_batch_size=proxies.batch_size,
        seed=job.seed,
        max_length=None,  # TextEncoder has cut the texts; the trainer would drop the long ones
        use_cpu=not use_gpu,
        bf16=proxies.dtype == "bfloat16",
        gradient_checkpointing=use_gpu,
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

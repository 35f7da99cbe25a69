"""The function that Ray Train runs on every worker: trainings one after the other, each with its baseline."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig
from pdray.config.section import Tracker
from pdray.errors import UserError
from pdray.margins import final_margin
from pdray.proxies import length, quality
from pdray.proxies.adapters import adapted, merged
from pdray.proxies.backbone import save_model
from pdray.proxies.base import load_reward_model, load_tokenizer
from pdray.proxies.batches import training_order
from pdray.proxies.checkpoints import Checkpoints
from pdray.proxies.data import BASELINE, TRAIN
from pdray.proxies.done import SCRATCH, is_done, write_done
from pdray.storage import StoragePath
from pdray.trackers import tracked

if TYPE_CHECKING:
    from trl import RewardConfig

PROJECT = "pdray-proxies"

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know of one model.

    Attributes:
        name: its folder's name.
        aspects: that it learns, in the order of its labels.
        tables: file of each table of :func:`pdray.proxies.data.write_tables`.
        held_out: file of :func:`pdray.proxies.data.write_held_out`.
        train_pairs: pairs of each aspect; repeated draws are not counted.
        draws: rows of a table.
        stage: the stage folder.
        proxies: the settings of the stage.
        seed: of weights and order.
        counter: the user's progress line.
    """

    name: str
    aspects: list[str]
    tables: dict[str, StoragePath]
    held_out: StoragePath
    train_pairs: list[int]
    draws: int
    stage: StoragePath
    proxies: ProxiesConfig
    seed: int
    counter: Any = None

    def counted_by(self, counter: Any) -> TrainingJob:
        """The same job with a progress line."""
        return replace(self, counter=counter)

    @property
    def scratch(self) -> StoragePath:
        """For what is needed until the training is done."""
        return self.stage / SCRATCH / self.name

    @property
    def steps(self) -> int:
        """Optimizer steps of the proxy and its baseline together."""
        return len(self.tables) * self._steps_of_each

    @property
    def _steps_of_each(self) -> int:
        per_step = self.proxies.batch_size * self.proxies.num_workers
        return math.ceil(math.ceil(self.draws * self.proxies.epochs) / per_step)

    def checkpoints(self, use: str) -> Checkpoints:
        """Those of the training on the table of that name."""
        return Checkpoints(self.scratch / f"{use}-checkpoints")

    @property
    def baseline_margins(self) -> StoragePath:
        """What stays of the baseline, once it is trained."""
        return self.scratch / "baseline-margins.parquet"

    def steps_done(self) -> int:
        """Of :attr:`steps`, as the storage has them: whole trainings, and the last checkpoint of one under way."""
        if is_done(self.stage, self.name):
            return self.steps
        steps = {use: self.checkpoints(use).last_step() or 0 for use in self.tables}
        if BASELINE in steps and self.baseline_margins.exists():
            steps[BASELINE] = self._steps_of_each
        return sum(steps.values())


def train_workers(jobs: list[TrainingJob]) -> None:
    """Train what is not done yet; run again after a failure, it goes on from the last checkpoint.

    Raises:
        UserError: something the user can mend.
    """
    for job in jobs:
        if not agreed(is_done(job.stage, job.name)):
            train_worker(job)


def train_worker(job: TrainingJob) -> None:
    """Train one model and save it; its baseline before, of which only the margins stay.

    Raises:
        UserError: the rewards are not finite.
    """
    import torch

    torch.set_num_threads(max(1, int(job.proxies.cpus_per_worker)))
    began = time.monotonic()
    baseline = _baseline(job) if BASELINE in job.tables else None
    trained = train_one(job, TRAIN, job.stage / job.name)
    if trained is None:
        return
    if not np.isfinite(trained.margins).all():
        raise UserError(
            f"the proxy {job.name} diverged: its rewards of held-out pairs are not finite; lower "
            f"proxies.learning_rate, now {job.proxies.learning_rate:g}"
        )
    held_out = job.held_out.read_table(["length_difference", "aspect"])
    difference = held_out["length_difference"].to_numpy()
    penalties = [penalty_of(job.proxies, difference, column) for column in trained.margins.T]
    margins = final_margin(trained.margins, difference[:, None], np.array(penalties))
    aspect = np.array(held_out["aspect"].to_pylist())
    aspects: dict[str, Any] = {}
    for number, name in enumerate(job.aspects):
        own = aspect == name
        plain = None if baseline is None else baseline[own, number]
        held_out_facts = quality.held_out_facts(margins[own, number], difference[own], plain)
        penalty = penalties[number]
        aspects[name] = {
            "train_pairs": job.train_pairs[number],
            **held_out_facts,
            "balance_temperature": job.proxies.training_temperature,
            "length_penalty": penalty,
        }
    facts = {
        "aspects": aspects,
        "steps": trained.steps,
        "resumed_from_step": trained.resumed_from,
        "seconds": round(time.monotonic() - began, 2),
    }
    write_done(job.stage, job.name, facts, as_table(margins, job.aspects))


def penalty_of(proxies: ProxiesConfig, length_difference: np.ndarray, reward_margin: np.ndarray) -> float:
    """ρ that scoring subtracts from a proxy's margins, given (n,) of them on held-out pairs."""
    if proxies.length_penalty == "auto":
        return length.uncorrelated_penalty(length_difference, reward_margin)
    return length.scoring_penalty(proxies.length_penalty, proxies.length_penalty_form)


def _baseline(job: TrainingJob) -> np.ndarray | None:
    """Margins of a model without length remedies, on the first worker; trained once."""
    path = job.baseline_margins
    if not agreed(path.exists()):
        trained = train_one(job, BASELINE, None)
        if trained is not None:
            path.write_table(as_table(trained.margins, job.aspects))
    return as_array(path.read_table(), job.aspects) if _is_first() else None


def as_table(margins: np.ndarray, aspects: list[str]) -> pa.Table:
    """A column for each aspect."""
    return pa.table(dict(zip(aspects, margins.T, strict=True)))


def as_array(table: pa.Table, aspects: list[str]) -> np.ndarray:
    """(n, κ) float64 of :func:`as_table`."""
    return np.stack([table[aspect].to_numpy() for aspect in aspects], axis=1)


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        margins: (n, κ) float64, Δr of all held-out pairs under each label.
        steps: optimizer steps.
        resumed_from: step of the checkpoint that it went on from.
    """

    margins: np.ndarray
    steps: int
    resumed_from: int | None


def train_one(job: TrainingJob, use: str, folder: StoragePath | None) -> Trained | None:
    """Train on the table named ``use`` and save into ``folder``, if given.

    Returns:
        None but on the first worker.
    """
    name = f"{job.name}-{use}"
    reports = job.proxies.report_to if _is_first() else []
    with tracked(reports, job.stage, PROJECT, name):
        return _train(job, use, folder, name, reports)


def _train(job: TrainingJob, use: str, folder: StoragePath | None, name: str, reports: list[Tracker]) -> Trained | None:
    from datasets import Dataset
    from transformers import PrinterCallback

    from pdray.proxies.trainer import AspectTrainer, CheckpointKeeper, StepCounter

    base_model = job.proxies.base_model
    assert base_model is not None
    tokenizer = load_tokenizer(base_model)
    table = job.tables[use].read_table()
    order = training_order(table["aspect"].to_numpy(), job.proxies.epochs, job.seed)
    rows = Dataset(table, fingerprint=name)  # else datasets pickles the table for one
    checkpoints = job.checkpoints(use)
    step = agreed(checkpoints.last_step())
    with tempfile.TemporaryDirectory(prefix="pdray-proxy-") as local:
        model = load_reward_model(base_model, tokenizer, job.seed, len(job.aspects))
        trainer = AspectTrainer(
            job.aspects,
            adapted(model, job.proxies.lora) if job.proxies.lora else model,
            args=reward_config(job, local, reports, name),
            train_dataset=rows.select(order, keep_in_memory=True, new_fingerprint=f"{name}-order"),
            processing_class=tokenizer,
            callbacks=[CheckpointKeeper(checkpoints), *([StepCounter(job.counter)] if job.counter else [])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if step is None else str(checkpoints.fetch(step, Path(local))))
    if not trainer.is_world_process_zero():
        return None
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model = merged(model) if job.proxies.lora else model
    with trainer.accelerator.autocast():
        margins = held_out_margins(model, job.held_out, tokenizer.pad_token_id)
    if folder is not None:
        save_model(model.cpu(), tokenizer, folder)
    return Trained(margins, trainer.state.global_step, step)


def held_out_margins(model: Any, table: StoragePath, pad_token_id: int) -> np.ndarray:
    """Δr of every pair of a table under each label, (n, κ) float64."""
    from pdray.proxies.heads import logits

    pairs = table.read_table(["chosen_ids", "rejected_ids"])
    chosen, rejected = pairs["chosen_ids"].to_pylist(), pairs["rejected_ids"].to_pylist()
    both = logits(model, chosen + rejected, pad_token_id)
    margin: np.ndarray = both[: len(chosen)] - both[len(chosen) :]
    return margin


def agreed(value: T) -> T:
    """What the first worker found, for all of them; a worker alone agrees with itself."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _is_first() -> bool:
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def reward_config(job: TrainingJob, local: str, reports: list[Tracker], name: str) -> RewardConfig:
    """TRL's settings: plain AdamW with linear decay, no dropout, pairs in the order of rows.

    Args:
        job: the training.
        local: folder of this worker, where the trainer writes checkpoints.
        reports: trackers that this worker tells.
        name: of the training in them.
    """
    from trl import RewardConfig

    proxies = job.proxies
    use_gpu = proxies.gpus_per_worker > 0
    return RewardConfig(
        output_dir=local,
        num_train_epochs=1,  # the order of rows has all of them
        train_sampling_strategy="sequential",
        learning_rate=proxies.learning_rate,
        lr_scheduler_type="linear",
        per_device_train_batch_size=proxies.batch_size,
        seed=job.seed,
        max_length=None,  # TextEncoder has cut the texts; the trainer would drop the long ones
        use_cpu=not use_gpu,
        bf16=proxies.dtype == "bfloat16",
        gradient_checkpointing=use_gpu,
        save_strategy="steps",
        save_steps=proxies.save_steps,
        save_total_limit=1,
        # On every worker alike, since they average the loss together.
        logging_strategy="steps" if job.proxies.report_to else "no",
        logging_steps=1,
        report_to=reports or "none",
        run_name=name,
        project=PROJECT,
        disable_tqdm=True,
    )

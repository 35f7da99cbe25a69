"""TRL's trainer on pairs that are already tokenised, with a reference that is already known.

Imports TRL; only the workers import this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from trl import DPOTrainer
from trl.models.utils import prepare_deepspeed

REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class PreparedTrainer(DPOTrainer):
    """Takes its data sets as they are: ``prompt_ids``, ``chosen_ids``, ``rejected_ids`` and the reference's columns.

    TRL would tokenise every pair on every rank, drop those whose prompt fills the budget, and keep what it computes of
    the reference in a file of one data set.
    """

    def _prepare_dataset(self, dataset: Any, *unused: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *unused: Any) -> Any:
        return dataset

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Under DeepSpeed, Transformers rounds every number that goes into a batch to the model's dtype. In bfloat16 a
        # log-probability of −100 would be off by up to 0.25, and the first loss no longer ln 2.
        exact = {name: inputs[name].to(self.args.device) for name in REFERENCE_COLUMNS if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | exact


class ReferencePass:
    """Forward passes of the untouched policy under DeepSpeed, before training; built where a pair is missing.

    ZeRO-3 shards the model as in training; below it, each rank has the whole one.

    Args:
        trainer: whose model has its first weights; its ``train_dataset`` is read.
        rows: (n,) row of each position in the data set.
    """

    def __init__(self, trainer: DPOTrainer, rows: np.ndarray) -> None:
        self.trainer = trainer
        self.rows = rows
        self._engine: Any = None

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Log-probabilities of some pairs; all ranks call it together.

        Returns:
            (len(positions), 2) float32, chosen and rejected, nats.
        """
        trainer, accelerator = self.trainer, self.trainer.accelerator
        if self._engine is None:
            self._engine = prepare_deepspeed(trainer.model, accelerator)
        found = []
        size = trainer.args.per_device_train_batch_size
        for batch in rank_batches(positions, accelerator.process_index, accelerator.num_processes, size):
            examples = [trainer.train_dataset[int(row)] for row in self.rows[batch]]
            inputs = trainer._prepare_inputs(trainer.data_collator(examples))
            found.append(torch.stack(trainer.compute_ref_log_probs(self._engine, inputs), dim=1).float())
        gathered = accelerator.gather(torch.cat(found))
        by_batch = gathered.view(accelerator.num_processes, len(found), -1, 2).transpose(0, 1).reshape(-1, 2)
        logps: np.ndarray = by_batch[: len(positions)].cpu().numpy()
        return logps

    def close(self) -> None:
        """Take the engine's hooks off the model, which is about to get those of the training."""
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None


def rank_batches(positions: np.ndarray, rank: int, num_ranks: int, batch_size: int) -> list[np.ndarray]:
    """The batches of one rank: as many on every rank, all of them full, by repeating the last position.

    Together and step by step, the ranks' batches are the positions in their order.

    Args:
        positions: (n,), n > 0.
        rank: of this worker.
        num_ranks: workers.
        batch_size: pairs of a worker in one forward pass.
    """
    step = num_ranks * batch_size
    padded = np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % step)])
    return list(padded.reshape(-1, num_ranks, batch_size)[:, rank])

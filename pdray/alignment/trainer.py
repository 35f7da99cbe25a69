"""TRL's trainer on pairs that are already tokenised, with a reference that is already known.

Imports TRL; only the workers import this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from trl import DPOTrainer
from trl.models.utils import prepare_deepspeed

from pdray.alignment.dfpo import REFERENCE_LOSS, REFERENCE_SLOPE

REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
DFPO_COLUMNS = ("kappa", "divergence")


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
        names = (*REFERENCE_COLUMNS, *DFPO_COLUMNS)
        exact = {name: inputs[name].to(self.args.device) for name in names if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | exact


class DfpoTrainer(PreparedTrainer):
    """Trains on −log σ(κM + Δφ), of data sets that have the columns ``kappa`` and ``divergence`` as well.

    TRL knows its losses by name alone. It is asked for none of them here, so that its own code still makes the one
    forward pass, adds a router's loss and logs rewards, their margins and accuracies, which are those of M as in DPO.
    The loss is made of that pass's log-probabilities. Logged beside it are ``reference_loss``, which the reference,
    whose M is 0, has on the same pairs, and ``reference_slope``, by which that falls with M.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.loss_types: list[str] = []
        self.loss_weights: list[float] = []
        self._collate: Any = self.data_collator
        self.data_collator: Any = self._collate_terms

    def _collate_terms(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's collator keeps what it knows; the pass over the reference has no more than that."""
        names = [name for name in DFPO_COLUMNS if name in examples[0]]
        terms = {name: torch.tensor([example[name] for example in examples]) for name in names}
        batch: dict[str, Any] = self._collate(examples)
        return batch | terms

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        assert not return_outputs, "nothing here asks for logits"
        passes = []

        def forward(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        known = {name: value for name, value in inputs.items() if name not in DFPO_COLUMNS}
        others = super()._compute_loss(forward, known, return_outputs)
        (outputs,) = passes
        chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
        ratios = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        margin = self.beta * (ratios[0] - ratios[1])
        mode = "train" if self.model.training else "eval"
        at_reference = dfpo_loss(torch.zeros_like(margin.detach()), inputs["kappa"], inputs["divergence"])
        slope = inputs["kappa"] * torch.sigmoid(-inputs["divergence"])
        for name, values in ((REFERENCE_LOSS, at_reference), (REFERENCE_SLOPE, slope)):
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())
        return others + dfpo_loss(margin, inputs["kappa"], inputs["divergence"]).mean()


def dfpo_loss(margin: torch.Tensor, kappa: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
    """−log σ(κM + Δφ) of each pair, in nats; DPO's where κ is 1 and Δφ is 0.

    Args:
        margin: (n,) M, the policy margin.
        kappa: (n,) κ.
        divergence: (n,) Δφ.
    """
    return -functional.logsigmoid(kappa * margin + divergence)


TRAINERS = {"dpo": PreparedTrainer, "dfpo": DfpoTrainer}


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

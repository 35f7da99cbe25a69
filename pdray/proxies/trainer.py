"""TRL's reward trainer for models with a reward for each of several aspects.

Imports TRL and torch; only the workers import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from pdray.proxies.checkpoints import Checkpoints


@dataclass
class AspectCollator(DataCollatorForPreference):
    """TRL's collator, and the aspect of each pair."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """``aspect`` is (pairs,) int64; texts come twice as many, chosen first."""
        batch: dict[str, Any] = super().torch_call(examples)
        return batch | {"aspect": torch.tensor([example["aspect"] for example in examples])}


class AspectTrainer(RewardTrainer):
    """Trains a sequence classifier with a label for each aspect; a pair trains the label of its own.

    The loss is TRL's on the logit that is picked, so with one aspect this is TRL's trainer.

    Args:
        aspects: names of the labels.
        model: with as many labels.
        options: of TRL's trainer.
    """

    def __init__(self, aspects: list[str], model: Any, **options: Any) -> None:
        assert model.config.num_labels == len(aspects)
        model.config.num_labels = 1  # TRL refuses to see more, but reads the model's logits alone
        collator = AspectCollator(pad_token_id=options["processing_class"].pad_token_id)
        super().__init__(model=model, data_collator=collator, **options)
        model.config.id2label = dict(enumerate(aspects))
        model.config.label2id = {aspect: number for number, aspect in enumerate(aspects)}

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["chosen_ids", "rejected_ids", "margin", "aspect"]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *options: Any, **named: Any) -> Any:
        """See TRL's; ``inputs`` also has ``aspect``, (pairs,) int64."""
        aspect = inputs.pop("aspect")

        def own_reward(**texts: Any) -> Any:
            outputs = model(**texts)
            outputs.logits = outputs.logits.gather(1, aspect.repeat(2)[:, None])
            return outputs

        return super().compute_loss(own_reward, inputs, *options, **named)


class StepCounter(TrainerCallback):
    """Counts optimizer steps on the first worker; the driver counts those that a checkpoint brings."""

    def __init__(self, counter: Any) -> None:
        self.counter = counter

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One more."""
        if state.is_world_process_zero:
            self.counter.add(1)


class CheckpointKeeper(TrainerCallback):
    """Brings what the trainer saved to the storage of the run; the first worker's files are all that is needed."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The trainer has just written a checkpoint."""
        if state.is_world_process_zero:
            step = state.global_step
            self.checkpoints.keep(Path(args.output_dir) / f"checkpoint-{step}", step)

"""What watches a training from the inside: the engine, the first loss, the log and the checkpoints.

Imports transformers; only the workers import this module.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pdray.alignment import checkpoints
from pdray.alignment.dfpo import REFERENCE_LOSS, REFERENCE_SLOPE
from pdray.alignment.reference import FIRST_LOSS_TOLERANCE
from pdray.errors import UserError

FIRST_LOSS = math.log(2)  # DPO's loss where policy and reference are the same model: −log σ(0)


class EngineCheck(TrainerCallback):
    """Refuses to train on anything but the DeepSpeed engine and ZeRO stage that were asked for.

    Args:
        trainer: the trainer whose ``model_wrapped`` is looked at once training begins.
        zero_stage: the stage asked for.
    """

    def __init__(self, trainer: Any, zero_stage: int) -> None:
        self.trainer = trainer
        self.zero_stage = zero_stage

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called when the model is wrapped and no step has been made."""
        from deepspeed import DeepSpeedEngine

        engine = self.trainer.model_wrapped
        if not isinstance(engine, DeepSpeedEngine):
            raise UserError(
                f"alignment asks for DeepSpeed ZeRO-{self.zero_stage} but the trainer would run "
                f"{type(engine).__name__}; unset ACCELERATE_* variables in the workers' environment"
            )
        if engine.zero_optimization_stage() != self.zero_stage:
            raise UserError(
                f"alignment.zero_stage is {self.zero_stage} but the DeepSpeed engine runs stage "
                f"{engine.zero_optimization_stage()}; remove the stage from alignment.deepspeed"
            )


class LossCheck(TrainerCallback):
    """Stops a training whose first loss is not that of the reference, or whose loss is not a number later on.

    Args:
        loss: of the training, dpo or dfpo.
    """

    def __init__(self, loss: str) -> None:
        self.loss = loss

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The trainer has averaged the loss over all workers, so that all of them stop together."""
        if logs is not None and "loss" in logs:
            reference = (logs[REFERENCE_LOSS], logs[REFERENCE_SLOPE]) if self.loss == "dfpo" else None
            check_loss(logs["loss"], state.global_step, reference)


def check_loss(loss: float, step: int, reference: tuple[float, float] | None = None) -> None:
    """Compare a logged loss with what DPO or DFPO allows.

    Args:
        loss: mean loss of the step, measured before its update, in nats.
        step: 1 for the first; the loss then belongs to the untouched policy.
        reference: of DFPO, means over the pairs of the step of log(1 + exp(−Δφ)), in nats, and of κσ(−Δφ), by which an
            error of M counts in it; None for DPO, where these are ln 2 and 1/2.

    Raises:
        UserError: the value, the rule and likely causes.
    """
    name, rule = ("DPO", "ln 2") if reference is None else ("DFPO", "the mean of log(1 + exp(−Δφ))")
    first, slope = (FIRST_LOSS, 0.5) if reference is None else reference
    tolerance = 2 * slope * FIRST_LOSS_TOLERANCE  # the same error of M passes for both losses
    if step == 1 and not abs(loss - first) <= tolerance:
        raise UserError(
            f"the first {name} loss is {loss:.6f} but must be {rule} = {first:.6f} within {tolerance:.2g}, "
            "since policy and reference start as the same model. Likely causes: randomness in the policy's "
            "forward pass (dropout, layerdrop, router noise in its config.json), a reference that is not "
            "alignment.policy, or too little precision (set alignment.dtype to float32)"
        )
    if not math.isfinite(loss):
        raise UserError(f"the {name} loss is {loss} at step {step}; lower alignment.learning_rate or raise precision")


class Record(TrainerCallback):
    """Writes the log and the checkpoint marks, and moves the progress line.

    Args:
        folder: the stage folder.
        counter: the user's progress line.
        facts: what every marker says of the training.
        evaluate: whether to evaluate on the held-out pairs after the last step.
    """

    def __init__(self, folder: Path, counter: Any, facts: dict[str, Any], evaluate: bool) -> None:
        self.folder = folder
        self.counter = counter
        self.facts = facts
        self.evaluate = evaluate
        self._seconds = 0.0
        self._steps = 0
        self._begin = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed training starts with the log of its earlier part."""
        if state.is_world_process_zero:
            checkpoints.write_history(self.folder, state.log_history)
            self.counter.set(state.global_step, state.max_steps)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock of a step."""
        self._begin = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluates before the last checkpoint is saved, so that its log holds the result."""
        self._seconds += time.monotonic() - self._begin
        self._steps += 1
        if state.is_world_process_zero:
            self.counter.set(state.global_step, state.max_steps)
        if self.evaluate and state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Appends the newest entry, so that the file can be followed while training runs."""
        if state.is_world_process_zero:
            with (self.folder / checkpoints.HISTORY).open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Marks the checkpoint once every rank has written its part."""
        import torch.distributed as dist

        dist.barrier()
        if state.is_world_process_zero:
            name = f"checkpoint-{state.global_step}"
            seconds = self._seconds / self._steps if self._steps else None
            progress = {"step": state.global_step, "max_steps": state.max_steps, "seconds_per_step": seconds}
            checkpoints.mark(self.folder / checkpoints.CHECKPOINTS / name, {**self.facts, **progress})

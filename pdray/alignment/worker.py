"""The function that Ray Train runs on every worker: DPO with TRL under DeepSpeed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdray.alignment import checkpoints, data
from pdray.alignment.deepspeed import deepspeed_config
from pdray.alignment.environment import prepare_worker
from pdray.config import AlignmentConfig
from pdray.errors import UserError
from pdray.models.loading import WEIGHTS, check_weights, load_tokenizer_files
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from trl import DPOConfig, DPOTrainer

REFUSED = "refused.json"


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know.

    Attributes:
        alignment: the settings of the stage.
        seed: seed of the order of the pairs and of the held-out split.
        selection: the shards of the finished selection, whose kept pairs are trained on.
        folder: the stage folder, on storage that every worker sees.
        counter: the user's progress line.
    """

    alignment: AlignmentConfig
    seed: int
    selection: ShardedFolder
    folder: Path
    counter: Any


def train_worker(job: TrainingJob) -> None:
    """Train from the latest complete checkpoint to the end; the last checkpoint holds everything that came of it.

    Raises:
        UserError: something the user can mend; also written to ``refused.json``, so that a restart by Ray Train
            fails at once instead of loading everything again.
    """
    refusal = job.folder / REFUSED
    if refusal.exists():
        raise UserError(json.loads(refusal.read_text(encoding="utf-8"))["message"])
    try:
        prepare_worker(job.alignment)
        trainer, facts = build_trainer(job)
        resume = _agree_on_checkpoint(job.folder)
        _train(trainer, job, facts, resume)
    except UserError as error:
        StoragePath(str(refusal)).write_json({"message": str(error)})
        raise


def build_trainer(job: TrainingJob) -> tuple[DPOTrainer, dict[str, Any]]:
    """A trainer over the kept pairs, split into training and held-out pairs, and what is known of them."""
    from transformers import AutoModelForCausalLM
    from trl import DPOTrainer

    table = data.read_kept(job.selection)
    policy = job.alignment.policy
    # Before the configuration, under which ZeRO-3 would build this model too. TRL loads the policy by its name.
    check_weights(f"alignment.policy is {policy}", policy, AutoModelForCausalLM)
    # The configuration comes first: under ZeRO-3 the models are then loaded in shards.
    args = dpo_config(job)
    trainer = DPOTrainer(
        model=policy,
        args=args,
        processing_class=_tokenizer(policy, chat=data.is_chat(table)),
        train_dataset=_dataset(table),
    )
    silence_dropout(trainer.model)
    prepared = trainer.train_dataset
    # TRL has dropped the pairs whose prompt alone fills max_tokens; only now is it known what there is to split.
    train, held_out = data.split(prepared["pair_id"], job.alignment, job.seed)
    trainer.train_dataset = prepared.select(train)
    trainer.eval_dataset = prepared.select(held_out) if held_out else None
    args.per_device_eval_batch_size = data.eval_batch_size(len(held_out), job.alignment)
    return trainer, {
        "num_workers": job.alignment.num_workers,
        "train_pairs": len(train),
        "eval_pairs": len(held_out),
        "dropped": table.num_rows - len(prepared),
        "truncated": data.num_truncated(prepared, job.alignment.max_tokens),
    }


def dpo_config(job: TrainingJob) -> DPOConfig:
    """The trainer's arguments; needs :func:`prepare_worker` first."""
    from accelerate import PartialState
    from trl import DPOConfig

    alignment = job.alignment
    use_gpu = alignment.gpus_per_worker > 0
    # Left to itself the trainer takes a CPU as a reason for plain DDP, without a word.
    PartialState(backend="nccl" if use_gpu else "gloo")
    return DPOConfig(
        output_dir=str(job.folder / checkpoints.CHECKPOINTS),
        use_cpu=not use_gpu,
        accelerator_config={"use_configured_state": True},
        deepspeed=deepspeed_config(alignment),
        beta=alignment.beta,
        max_length=alignment.max_tokens,
        num_train_epochs=alignment.epochs,
        max_steps=alignment.max_steps or -1,
        learning_rate=alignment.learning_rate,
        per_device_train_batch_size=alignment.batch_size,
        gradient_accumulation_steps=alignment.gradient_accumulation,
        gradient_checkpointing=alignment.gradient_checkpointing,
        bf16=alignment.dtype == "bfloat16",
        seed=job.seed,
        trust_remote_code=False,
        model_init_kwargs=WEIGHTS,
        logging_steps=1,
        save_strategy="steps",
        save_steps=alignment.save_steps,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
    )


def silence_dropout(model: Any) -> None:
    """Set every dropout probability that a module keeps as a number to 0; TRL does so for dropout layers only."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(module, name, 0.0)


def _train(trainer: DPOTrainer, job: TrainingJob, facts: dict[str, Any], resume: Path | None) -> None:
    import ray.train
    from transformers import PrinterCallback

    from pdray.alignment.callbacks import EngineCheck, LossCheck, Record

    resumed_from = int(resume.name.rpartition("-")[2]) if resume else None
    facts = {
        **facts,
        "engine": "DeepSpeedEngine",  # EngineCheck refuses any other
        "zero_stage": job.alignment.zero_stage,
        "resumed_from_step": resumed_from,
    }
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineCheck(trainer, job.alignment.zero_stage))
    trainer.add_callback(Record(job.folder, job.counter, facts, evaluate=facts["eval_pairs"] > 0))
    trainer.add_callback(LossCheck())
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    ray.train.report({"step": trainer.state.global_step, "loss": last["loss"]})


def _agree_on_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that all ranks resume from, as rank 0 sees the storage."""
    import torch.distributed as dist

    choice: list[Path | None] = [None]
    if dist.get_rank() == 0:
        checkpoints.remove_incomplete(folder)
        choice[0] = checkpoints.latest(folder)
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def _tokenizer(policy: str, chat: bool) -> Any:
    tokenizer = load_tokenizer_files(policy)
    if chat and not tokenizer.chat_template:
        raise UserError(
            f"the kept pairs are lists of messages but the tokenizer of alignment.policy {policy} has no chat "
            "template; use a policy that has one, or a corpus of strings"
        )
    if tokenizer.eos_token is None:
        raise UserError(
            f"the tokenizer of alignment.policy {policy} has no EOS token; set one in its tokenizer_config.json"
        )
    return tokenizer


def _dataset(table: Any) -> Any:
    from datasets import Dataset

    return Dataset(table)

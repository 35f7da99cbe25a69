"""The function that Ray Train runs on every worker: DPO or DFPO with TRL under DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdray.alignment import checkpoints, data
from pdray.alignment.deepspeed import deepspeed_config
from pdray.alignment.environment import prepare_worker
from pdray.alignment.inputs import PairInput, policy_tokenizer
from pdray.alignment.known import believed, num_known
from pdray.alignment.reference import ReferenceStore, complete
from pdray.alignment.resume import Resume, agree_on_checkpoint
from pdray.config import AlignmentConfig, LoraConfig
from pdray.config.section import Tracker
from pdray.models.loading import WEIGHTS, check_weights
from pdray.models.place import on_this_node
from pdray.trackers import prepare_trackers

if TYPE_CHECKING:
    from trl import DPOConfig, DPOTrainer

PROJECT = "pdray-alignment"
REFERENCE = ("log-probabilities of the reference", "pairs")


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know.

    Attributes:
        alignment: the settings of the stage.
        seed: seed of the order in which pairs are drawn.
        pairs: the tokenised pairs.
        reference: what is known of the untouched policy.
        folder: the stage folder, on storage that every worker sees.
        counter: the user's progress line.
    """

    alignment: AlignmentConfig
    seed: int
    pairs: PairInput
    reference: ReferenceStore
    folder: Path
    counter: Any


def train_worker(job: TrainingJob) -> None:
    """Train from the latest complete checkpoint to the end; the last checkpoint holds everything that came of it.

    Raises:
        UserError: something the user can mend.
    """
    import ray.train

    if ray.train.get_context().get_world_rank() == 0:  # no worker comes here before all of them have met
        job.counter.started()
    prepare_worker(job.alignment)
    prepare_trackers(_reports(job.alignment), job.folder, PROJECT)
    resume = agree_on_checkpoint(job.folder, job.alignment.zero_stage)
    trainer, facts = build_trainer(job, resume)
    _train(trainer, job, facts, resume)


def build_trainer(job: TrainingJob, resume: Resume) -> tuple[DPOTrainer, dict[str, Any]]:
    """A trainer over the tokenised pairs with their reference, split in training and held-out pairs, and its facts."""
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM

    from pdray.alignment.trainer import DFPO_COLUMNS, REFERENCE_COLUMNS, TRAINERS

    alignment, policy = job.alignment, job.alignment.policy
    # Before the configuration, under which ZeRO-3 would build this model too. TRL loads the policy by its name.
    check_weights(f"alignment.policy is {policy}", policy, AutoModelForCausalLM)
    # The configuration comes first: under ZeRO-3 the models are then loaded in shards.
    args = dpo_config(job, resume.universal)
    tokens = data.open_pairs(job.pairs)
    trainer = TRAINERS[alignment.loss](
        model=on_this_node(policy),
        args=args,
        processing_class=policy_tokenizer(policy),
        train_dataset=tokens,
        peft_config=lora_config(alignment.lora) if alignment.lora else None,
    )
    assert trainer.ref_model is None, "the reference is known, so no second model is held"
    silence_dropout(trainer.model)
    num_held_out = data.num_held_out(job.pairs.pairs, alignment)
    num_read = num_held_out + data.num_trained(job.pairs.pairs, alignment)
    order = {name: values[:num_read] for name, values in data.read_order(job.pairs).items()}
    logps, reference = _reference(trainer, job, order)
    columns = dict(zip(REFERENCE_COLUMNS, logps.T, strict=True))
    if alignment.loss == "dfpo":
        columns |= {name: order[name] for name in DFPO_COLUMNS}
    assert all(np.isfinite(values).all() for values in columns.values()), "a number of a pair is not finite"
    pairs = data.with_columns(tokens, order["row"], columns)
    trainer.train_dataset = pairs.select(order["row"][num_held_out:])
    num_workers = dist.get_world_size()
    num_evaluated = data.num_evaluated(num_held_out, alignment, num_workers)
    trainer.eval_dataset = pairs.select(order["row"][:num_evaluated]) if num_evaluated else None
    args.per_device_eval_batch_size = data.eval_batch_size(num_held_out, alignment, num_workers)
    return trainer, {
        "num_workers": num_workers,
        "train_pairs": len(trainer.train_dataset),
        "eval_pairs": num_evaluated,
        **reference,
        "prompts_cut": job.pairs.prompts_cut,
        "responses_cut": job.pairs.responses_cut,
        "empty": job.pairs.empty,
    }


def _reference(
    trainer: DPOTrainer, job: TrainingJob, order: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, int | float | None]]:
    """Log-probabilities of the reference, (n, 2) float32 in the order of training, and what is told of them."""
    import torch.distributed as dist

    from pdray.alignment.trainer import ReferencePass

    first = dist.get_rank() == 0
    earlier = ReferenceStore(job.pairs.known) if job.pairs.known is not None else None
    parts = [store.sound_parts() if first and store is not None else [] for store in (job.reference, earlier)]
    dist.broadcast_object_list(parts, src=0)
    forward = ReferencePass(trainer, order["row"])
    computed, known, error = [0], None, None
    if earlier is not None:
        known, error = believed(order["key"], earlier.read(parts[1]), forward, job.alignment.beta)

    def count(done: int, total: int) -> None:
        computed[0] = total
        if first:
            job.counter.set(done, total, REFERENCE)

    batch = dist.get_world_size() * job.alignment.batch_size
    logps = complete(order["key"], order["tokens"], job.reference, parts[0], known, batch, forward, first, count)
    forward.close()
    told = {} if known is None else {"reference_known": num_known(order["key"], known), "reference_error": error}
    return logps, {"reference_computed": computed[0], **told}


def lora_config(lora: LoraConfig) -> Any:
    """peft's configuration; no dropout, under which the first loss would not be ln 2."""
    import peft

    return peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, target_modules=lora.target_modules, lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def dpo_config(job: TrainingJob, universal: bool = False) -> DPOConfig:
    """The trainer's arguments; needs :func:`prepare_worker` first."""
    import torch.distributed as dist
    from accelerate import PartialState
    from trl import DPOConfig

    alignment = job.alignment
    use_gpu = alignment.gpus_per_worker > 0
    # Left to itself the trainer takes a CPU as a reason for plain DDP, without a word.
    PartialState(backend="nccl" if use_gpu else "gloo")
    held_out = data.num_held_out(job.pairs.pairs, alignment)
    return DPOConfig(
        output_dir=str(job.folder / checkpoints.CHECKPOINTS),
        use_cpu=not use_gpu,
        accelerator_config={"use_configured_state": True},
        deepspeed=deepspeed_config(alignment, universal),
        beta=alignment.beta,
        max_length=None,  # the pairs are cut
        remove_unused_columns=False,  # there is none, but TRL knows those of its own losses alone
        precompute_ref_log_probs=True,
        max_steps=data.num_steps(job.pairs.pairs - held_out, alignment),
        learning_rate=alignment.learning_rate,
        per_device_train_batch_size=alignment.batch_size,
        gradient_accumulation_steps=data.accumulation(alignment, dist.get_world_size()),
        gradient_checkpointing=alignment.gradient_checkpointing,
        bf16=alignment.dtype == "bfloat16",
        seed=job.seed,
        trust_remote_code=False,
        model_init_kwargs=_model_options(alignment),
        logging_steps=1,
        save_strategy="steps",
        save_steps=alignment.save_steps,
        save_total_limit=2,
        report_to=_reports(alignment),
        project=PROJECT,
        disable_tqdm=True,
    )


def _reports(alignment: AlignmentConfig) -> list[Tracker]:
    """The trackers that this worker tells."""
    import torch.distributed as dist

    return alignment.report_to if dist.get_rank() == 0 else []


def _model_options(alignment: AlignmentConfig) -> dict[str, Any]:
    # TRL loads in float32 unless told otherwise; DeepSpeed would then round a copy twice as large.
    options = {**WEIGHTS, "dtype": alignment.dtype}
    return options | ({"attn_implementation": alignment.attn_implementation} if alignment.attn_implementation else {})


def silence_dropout(model: Any) -> None:
    """Set every dropout probability that a module keeps as a number to 0; TRL does so for dropout layers only."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(module, name, 0.0)


def _train(trainer: DPOTrainer, job: TrainingJob, facts: dict[str, Any], resume: Resume) -> None:
    import ray.train
    from transformers import PrinterCallback

    from pdray.alignment.callbacks import EngineCheck, LossCheck, Record

    facts = {
        **facts,
        "engine": "DeepSpeedEngine",  # EngineCheck refuses any other
        "zero_stage": job.alignment.zero_stage,
        "resumed_from_step": resume.step,
    }
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineCheck(trainer, job.alignment.zero_stage))
    trainer.add_callback(Record(job.folder, job.counter, facts, evaluate=facts["eval_pairs"] > 0))
    trainer.add_callback(LossCheck(job.alignment.loss))
    trainer.train(resume_from_checkpoint=str(resume.path) if resume.path else None)
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    ray.train.report({"step": trainer.state.global_step, "loss": last["loss"]})

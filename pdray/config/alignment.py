"""Settings of the alignment stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pdray.config.lora import LoraConfig
from pdray.config.section import HOW, Count, Epochs, Name, Section, Tracker


class AlignmentConfig(Section):
    """DPO, or DFPO, on the kept pairs with DeepSpeed inside Ray Train."""

    policy: Name = Field(
        description="model folder of the policy (an SFT model), a path or a URI; also the reference",
        json_schema_extra=HOW,  # its files decide, not where they lie
    )
    loss: Literal["dpo", "dfpo"] = Field(
        "dpo", description="dpo, or dfpo: −log σ(κM + PD), made for all pairs (selection.strategy: all)"
    )
    beta: float = Field(0.1, gt=0, description="β of DPO, and of M in DFPO")
    epochs: Epochs = Field(1.0, description="passes over the kept pairs")
    max_steps: Count | None = Field(None, description="stop after so many optimizer steps; null: by epochs")
    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate")
    pairs_per_step: Count = Field(
        16, description="pairs of one optimizer step, of all workers together; a multiple of num_workers × batch_size"
    )
    batch_size: Count = Field(1, description="pairs per forward pass and worker", json_schema_extra=HOW)
    max_tokens: Annotated[int, Field(ge=2)] = Field(512, description="most tokens of prompt and response together")
    prompt_tokens: Count | None = Field(
        None, description="tokens of a prompt's end that stay however long its responses are; null: half of max_tokens"
    )
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the kept pairs held out for evaluation")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of weights in memory and compute")
    attn_implementation: str | None = Field(
        None, description="attention of Transformers, for example sdpa or flash_attention_2; null: its own choice"
    )
    lora: LoraConfig | None = Field(None, description="train adapters (r, alpha, target_modules); null: all weights")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations to save memory", json_schema_extra=HOW
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="merged over the DeepSpeed config, for example CPU offload"
    )
    save_steps: Count = Field(100, description="optimizer steps between checkpoints", json_schema_extra=HOW)
    num_workers: Count = Field(
        2, description="Ray Train workers; another number goes on from the last checkpoint", json_schema_extra=HOW
    )
    min_workers: Count | None = Field(
        None,
        description="go on with as few workers while the cluster holds no more; null: wait for num_workers",
        json_schema_extra=HOW,
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs per worker", json_schema_extra=HOW)
    gpus_per_worker: float = Field(0, ge=0, description="GPUs per worker, 0 or 1", json_schema_extra=HOW)
    max_failures: int = Field(
        2,
        ge=0,
        description="restarts in a row that bring no newer checkpoint; those that bring one are not counted",
        json_schema_extra=HOW,
    )
    report_to: list[Tracker] = Field(
        default_factory=list,
        description="trackers that get the log: tensorboard, wandb, mlflow, trackio; written into the run folder",
        json_schema_extra=HOW,
    )

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "gradient_accumulation" in data:
            raise ValueError(
                "gradient_accumulation is not a setting any more, because it follows from the workers; set "
                "pairs_per_step to num_workers × batch_size × gradient_accumulation"
            )
        return data

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpu(cls, gpus: float) -> float:
        if gpus not in (0, 1):
            raise ValueError(
                f"{gpus:g} is neither 0 nor 1, but a training worker is one process with a GPU of its own; "
                "set it to 1, and num_workers to the number of GPUs"
            )
        return gpus

    @model_validator(mode="after")
    def _whole_passes(self) -> AlignmentConfig:
        at_once = self.num_workers * self.batch_size
        if self.pairs_per_step % at_once:
            raise ValueError(
                f"pairs_per_step {self.pairs_per_step} is no multiple of num_workers {self.num_workers} × batch_size "
                f"{self.batch_size}; set it to {-(-self.pairs_per_step // at_once) * at_once}, or change those two"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}; lower it")
        return self

    @model_validator(mode="after")
    def _prompt_fits(self) -> AlignmentConfig:
        if self.prompt_tokens is not None and self.prompt_tokens >= self.max_tokens:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} fills max_tokens {self.max_tokens} and leaves no room for a "
                "response; lower it or raise max_tokens"
            )
        return self

    @model_validator(mode="after")
    def _zero(self) -> AlignmentConfig:
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("deepspeed.zero_optimization must be a mapping of DeepSpeed settings")
        for name in ("offload_param", "offload_optimizer"):
            if not isinstance(zero.get(name), dict | None):
                raise ValueError(
                    f"deepspeed.zero_optimization.{name} is {zero[name]!r} but must be a mapping, as in {{device: cpu}}"
                )
        if zero.get("stage", self.zero_stage) != self.zero_stage:
            raise ValueError(
                f"zero_stage is {self.zero_stage} but deepspeed.zero_optimization.stage is {zero['stage']}; "
                "set zero_stage alone"
            )
        if zero.get("offload_param") and self.zero_stage != 3:
            raise ValueError(f"offload_param needs zero_stage 3, got {self.zero_stage}; raise it or drop offload_param")
        if zero.get("offload_optimizer") and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0; raise it or drop offload_optimizer")
        if self.zero_stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is False:
            raise ValueError(
                "zero_stage 3 needs stage3_gather_16bit_weights_on_model_save to write the policy; remove that line"
            )
        return self

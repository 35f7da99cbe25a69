"""Settings of the scores stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pdray.config.section import HOW, Count, Section, Share

# vllm.LLM argument -> what decides it here
ENGINE_ARGS_OF_OURS = {
    "model": "proxies",
    "runner": "always pooling",
    "trust_remote_code": "always false",
    "load_format": "always safetensors",
    "dtype": "scores.dtype",
    "max_model_len": "scores.max_tokens",
    "tensor_parallel_size": "scores.gpus_per_actor",
    "gpu_memory_utilization": "scores.memory_share",
    "kv_cache_memory_bytes": "scores.cpu_cache_gib",
}


class ScoresConfig(Section):
    """How reward models read texts: in scoring, and where a frozen backbone computes features."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="inference engine; there is no silent switch")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="passed on to vllm.LLM, for example quantization or enforce_eager"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto: bfloat16 where gpus_per_actor is above 0, else float32"
    )
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="tokens of prompt and response together, in scoring and in training the proxies"
    )
    prompt_tokens: Count | None = Field(
        None, description="most tokens of the prompt, so that its responses share a prefix; null: half of max_tokens"
    )
    keep_prompt: Literal["end", "start"] = Field(
        "end", description="which side of a prompt survives when it is longer than prompt_tokens"
    )
    parity_rows: Count = Field(
        32, description="texts on which every engine is compared with Transformers first", json_schema_extra=HOW
    )
    parity_tolerance: float = Field(
        0.001,
        gt=0,
        description="largest reward difference that the comparison accepts in float32",
        json_schema_extra=HOW,
    )
    parity_rank: Share = Field(
        0.9, description="lowest rank correlation that it accepts in other dtypes", json_schema_extra=HOW
    )
    parity_spread: float = Field(
        0.25,
        gt=0,
        description="largest difference that it accepts in other dtypes, in standard deviations of the reward",
        json_schema_extra=HOW,
    )
    max_failed: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001, description="largest share of texts that may fail to be scored", json_schema_extra=HOW
    )
    step_timeout: float = Field(
        600,
        gt=0,
        description="seconds that a worker may take over some ten thousand tokens, before it is ended and replaced",
        json_schema_extra=HOW,
    )
    max_unknown_tokens: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest share of the texts' tokens that a proxy's tokenizer may not know",
        json_schema_extra=HOW,
    )
    num_actors: Count | None = Field(
        None, description="scoring actors; null: as many as the cluster holds", json_schema_extra=HOW
    )
    cpus_per_actor: Annotated[float, Field(gt=0)] | None = Field(
        None, description="CPUs per actor; null: a node's CPUs, or 1 beside a GPU", json_schema_extra=HOW
    )
    gpus_per_actor: float = Field(
        0, ge=0, description="GPUs per actor; above 1, vLLM splits a model over them", json_schema_extra=HOW
    )
    memory_share: Share = Field(
        0.8, description="share of the actor's GPU memory that all its engines use", json_schema_extra=HOW
    )
    cpu_cache_gib: float = Field(1.0, gt=0, description="KV cache per engine on CPU, GiB", json_schema_extra=HOW)

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is above 1 and no whole number; set it to {int(gpus)} or {int(gpus) + 1}")
        return gpus

    @model_validator(mode="after")
    def _engine_fits(self) -> ScoresConfig:
        if self.engine == "transformers" and self.gpus_per_actor > 1:
            raise ValueError(
                f"gpus_per_actor is {self.gpus_per_actor:g}, but only vllm splits a model over GPUs; set it to 1"
            )
        if self.engine == "transformers" and self.engine_args:
            raise ValueError("engine_args are settings of vllm, and engine is transformers; remove them")
        owned = sorted(set(self.engine_args) & set(ENGINE_ARGS_OF_OURS))
        if owned:
            raise ValueError(
                f"engine_args.{owned[0]} has a setting of its own ({ENGINE_ARGS_OF_OURS[owned[0]]}); set that one"
            )
        return self

    @property
    def resolved_dtype(self) -> str:
        """The dtype that ``auto`` stands for; it depends on the config alone, so it can be fingerprinted."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.gpus_per_actor > 0 else "float32"

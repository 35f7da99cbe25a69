"""Settings that every pass of a model over the texts has, whichever stage runs it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pdray.config.section import HOW, Count, Section, Share

# vllm.LLM argument -> what decides it here
OWNED_ARGUMENTS = {
    "runner": "the stage",
    "trust_remote_code": "always false",
    "load_format": "always safetensors",
    "dtype": "dtype",
    "max_model_len": "max_tokens",
    "tensor_parallel_size": "gpus_per_actor",
    "gpu_memory_utilization": "memory_share",
    "kv_cache_memory_bytes": "cpu_cache_gib",
}


class EngineConfig(Section):
    """How an engine runs models over texts: the settings of :class:`pdray.engines.shards.TextPass`.

    Attributes:
        section: its name in the config, for messages.
        owned_arguments: arguments of ``vllm.LLM`` that other settings decide, and which.
    """

    section: ClassVar[str]
    owned_arguments: ClassVar[dict[str, str]] = OWNED_ARGUMENTS

    engine: Literal["vllm", "transformers"] = Field("vllm", description="inference engine; there is no silent switch")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="passed on to vllm.LLM, for example quantization or enforce_eager"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto: bfloat16 where gpus_per_actor is above 0, else float32"
    )
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="tokens of prompt and response together, special tokens included"
    )
    prompt_tokens: Count | None = Field(None, description="tokens of the prompt; null: half of max_tokens")
    parity_rows: Count = Field(
        32, description="texts on which every engine is compared with Transformers first", json_schema_extra=HOW
    )
    parity_tolerance: float = Field(
        0.001,
        gt=0,
        description="largest difference of an output that the comparison accepts in float32",
        json_schema_extra=HOW,
    )
    parity_rank: Share = Field(
        0.9, description="lowest rank correlation that it accepts in other dtypes", json_schema_extra=HOW
    )
    parity_spread: float = Field(
        0.25,
        gt=0,
        description="largest difference that it accepts in other dtypes, in standard deviations of the output",
        json_schema_extra=HOW,
    )
    max_failed: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001, description="largest share of texts that may fail", json_schema_extra=HOW
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
        description="largest share of the texts' tokens that a model's tokenizer may not know",
        json_schema_extra=HOW,
    )
    num_actors: Count | None = Field(
        None, description="actors; null: as many as the cluster holds", json_schema_extra=HOW
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
    def _engine_fits(self) -> Self:
        if self.engine == "transformers" and self.gpus_per_actor > 1:
            raise ValueError(
                f"gpus_per_actor is {self.gpus_per_actor:g}, but only vllm splits a model over GPUs; set it to 1"
            )
        if self.engine == "transformers" and self.engine_args:
            raise ValueError("engine_args are settings of vllm, and engine is transformers; remove them")
        owned = sorted(set(self.engine_args) & set(self.owned_arguments))
        if owned:
            decides = self.owned_arguments[owned[0]]
            name = f"{self.section}.{decides}" if decides in type(self).model_fields else decides
            raise ValueError(f"engine_args.{owned[0]} has a setting of its own ({name}); set that one")
        return self

    @property
    def accept_failed(self) -> str:
        """What to do about texts that fail, in words."""
        return f"raise {self.section}.max_failed if you accept it"

    @property
    def resolved_dtype(self) -> str:
        """The dtype that ``auto`` stands for; it depends on the config alone, so it can be fingerprinted."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.gpus_per_actor > 0 else "float32"


class LogprobEngineConfig(EngineConfig):
    """How an engine reads responses whose prompts are cut as the alignment cuts them."""

    prompt_tokens: Count | None = Field(
        None, description="tokens of a prompt's end that stay however long its response is; null: half of max_tokens"
    )
    parity_tolerance: float = Field(
        0.01,
        gt=0,
        description="largest difference, in nats of a whole response, that the comparison accepts in float32",
        json_schema_extra=HOW,
    )

    @model_validator(mode="after")
    def _prompt_fits(self) -> Self:
        if self.prompt_tokens is not None and self.prompt_tokens >= self.max_tokens:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} fills max_tokens {self.max_tokens} and leaves no room for a "
                "response; lower it or raise max_tokens"
            )
        return self

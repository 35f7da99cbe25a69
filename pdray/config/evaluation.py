"""Settings of the evaluation stage."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pdray.config.secrets import looks_like_key
from pdray.config.section import HOW, Count, Name, Section

Failing = Annotated[float, Field(ge=0, le=1)]
MEAN = "mean"  # of several judges, in the figures
OWNED_ARGUMENTS = {
    "model": "alignment and evaluation.generation.baseline",
    "runner": "the stage",
    "trust_remote_code": "always false",
    "load_format": "always safetensors",
    "dtype": "evaluation.generation.dtype",
    "max_model_len": "evaluation.generation.prompt_tokens and max_tokens",
    "tensor_parallel_size": "evaluation.generation.gpus",
    "enable_prefix_caching": "always false",
    "seed": "seed",
}


class GenerationConfig(Section):
    """Answers of the trained policy, and of the one that it is compared with, by vLLM."""

    prompts: Name | None = Field(
        None,
        description="a .jsonl or .parquet file with prompt, strings or messages, and a column set where it holds "
        "several sets of prompts; null: the prompts of evaluation.pairs",
        json_schema_extra=HOW,  # its bytes decide, not where they lie
    )
    max_prompts: Count = Field(1_000, description="most distinct prompts; the seed chooses which")
    baseline: Name | None = Field(
        None,
        description="what the policy is compared with: a model folder, or the folder of a finished run, whose policy "
        "is taken; null: alignment.policy, which it was trained from",
        json_schema_extra=HOW,
    )
    max_tokens: Count = Field(512, description="most tokens of an answer")
    prompt_tokens: Count = Field(1_024, description="most tokens of a prompt; a longer one loses its beginning")
    temperature: float = Field(0, ge=0, description="of the sampling, which the seed decides; 0: the likeliest token")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto: bfloat16 where gpus is above 0, else float32"
    )
    engine_args: dict[str, Any] = Field(default_factory=dict, description="passed on to vllm.LLM")
    gpus: float = Field(
        0, ge=0, description="GPUs of each engine; above 1, vLLM splits a model over them", json_schema_extra=HOW
    )

    @field_validator("gpus")
    @classmethod
    def _whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is above 1 and no whole number; set it to {int(gpus)} or {int(gpus) + 1}")
        return gpus

    @field_validator("engine_args")
    @classmethod
    def _free_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if owned := sorted(set(arguments) & set(OWNED_ARGUMENTS)):
            raise ValueError(f"{owned[0]} is decided elsewhere ({OWNED_ARGUMENTS[owned[0]]}); leave it out")
        return arguments

    @property
    def resolved_dtype(self) -> str:
        """The dtype that ``auto`` stands for."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.gpus > 0 else "float32"


class RewardJudgeConfig(Section):
    """A reward model that prefers the answer with the larger reward; of several labels their mean counts."""

    path: Name = Field(
        description="folder of a …ForSequenceClassification, or of a run's proxies",
        json_schema_extra=HOW,  # its files decide, not where they lie
    )
    max_tokens: Annotated[int, Field(ge=8)] = Field(2_048, description="tokens of prompt and answer together")
    prompt_tokens: Count | None = Field(None, description="tokens of the prompt; null: half of max_tokens")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights and activations")


class EndpointConfig(Section):
    """A judge behind the chat API of OpenAI or a server that speaks it, asked about both orders of two answers."""

    url: Name = Field(description="its base, as in http://localhost:8000/v1", json_schema_extra=HOW)
    model: Name = Field(description="name of the model there; it decides, and not the url")
    key_variable: Name | None = Field(
        None,
        description="name of the environment variable with the API key, which stands nowhere else; null: no key",
        json_schema_extra=HOW,
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of each request, as a server takes them"
    )
    verdict_tokens: Count = Field(
        16, description="most tokens of a reply, whose last line is the verdict; more for a model that thinks first"
    )
    timeout: float = Field(120, gt=0, description="seconds that a reply may take", json_schema_extra=HOW)
    tries: Annotated[int, Field(ge=1, le=20)] = Field(
        4,
        description="times that a question is asked, with growing pauses, until a verdict comes",
        json_schema_extra=HOW,
    )
    concurrency: Count = Field(16, description="questions under way at once", json_schema_extra=HOW)

    @property
    def decisive(self) -> tuple[str, dict[str, Any], int]:
        """What of the settings decides a verdict, so that a server that moves is not asked again."""
        return self.model, self.extra_body, self.verdict_tokens

    @field_validator("url")
    @classmethod
    def _a_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"is {url!r}, but has to begin with http:// or https://; as in http://localhost:8000/v1")
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and (not re.fullmatch("[A-Z_][A-Z0-9_]*", name) or looks_like_key(name)):
            # It may be the key itself, so it is not quoted.
            raise ValueError(
                "is no name of an environment variable, in capital letters as such names are; put the key into one, "
                "and its name here"
            )
        return name


class EvaluationConfig(Section):
    """How often the trained policy prefers the better response of held-out pairs, and how often its answers win."""

    pairs: Name = Field(
        description="held-out pairs: a .jsonl or .parquet file with prompt, chosen and rejected, and an aspect where "
        "they have one",
        json_schema_extra=HOW,  # its bytes decide, not where they lie
    )
    max_pairs: Count = Field(2_000, description="most pairs that are read; the seed chooses which")
    gpus: float = Field(
        0, ge=0, description="GPUs of each task that reads them, or that runs a reward model", json_schema_extra=HOW
    )
    generation: GenerationConfig | None = Field(
        None, description="{max_tokens: 512, ...}: answers of policy and baseline; null: none are generated"
    )
    reward_models: dict[str, RewardJudgeConfig] = Field(
        {}, description="judge -> {path: FOLDER, ...}: reward models that compare the answers"
    )
    endpoints: dict[str, EndpointConfig] = Field(
        {}, description="judge -> {url: URL, model: NAME, ...}: models behind an API that compare the answers"
    )
    max_failed: Failing = Field(
        0.1,
        description="largest share of an endpoint's questions that may stay without a verdict",
        json_schema_extra=HOW,
    )

    @property
    def judges(self) -> list[str]:
        """Names of all judges."""
        return [*self.reward_models, *self.endpoints]

    @model_validator(mode="after")
    def _judges_fit(self) -> EvaluationConfig:
        if self.judges and self.generation is None:
            raise ValueError(
                f"{self.judges[0]} is to judge answers, but none are generated; add generation: {{max_tokens: 512}}"
            )
        if twice := set(self.reward_models) & set(self.endpoints):
            raise ValueError(f"two judges are called {min(twice)}; rename one of them")
        if MEAN in self.judges:
            raise ValueError(f"a judge is called {MEAN}, which is what the mean of all judges is called; rename it")
        for (name, one), (other, judge) in combinations(self.endpoints.items(), 2):
            if one.decisive == judge.decisive:
                raise ValueError(
                    f"the endpoints {name} and {other} have the same model {one.model}, extra_body and verdict_tokens, "
                    "so that the verdicts of one would count for both; take one out or, if these are different models, "
                    "serve them under different names and set model to those"
                )
        return self

"""Settings of the log-probabilities that rivals of the method select by."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from pdray.config.engine import OWNED_ARGUMENTS, EngineConfig
from pdray.config.section import HOW, Count, Name


class LogprobsConfig(EngineConfig):
    """How likely the policy and the reference find every response."""

    section: ClassVar[str] = "logprobs"
    owned_arguments: ClassVar[dict[str, str]] = OWNED_ARGUMENTS | {"model": "logprobs.policy and logprobs.reference"}

    # Of both the files decide, not where they lie.
    policy: Name = Field(description="model folder of the policy, a …ForCausalLM", json_schema_extra=HOW)
    reference: Name | None = Field(
        None,
        description="model folder of the reference, with the vocabulary of the policy; null: the policy itself, so "
        "that there is no ratio of the two",
        json_schema_extra=HOW,
    )
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
    def _prompt_fits(self) -> LogprobsConfig:
        if self.prompt_tokens is not None and self.prompt_tokens >= self.max_tokens:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} fills max_tokens {self.max_tokens} and leaves no room for a "
                "response; lower it or raise max_tokens"
            )
        return self

    @property
    def folders(self) -> dict[str, str]:
        """The model folders that are read, by the name of their setting in this section: the policy first."""
        return {"policy": self.policy} | ({"reference": self.reference} if self.reference else {})

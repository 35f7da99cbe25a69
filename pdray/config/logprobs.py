"""Settings of the log-probabilities that rivals of the method select by."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pdray.config.engine import OWNED_ARGUMENTS, LogprobEngineConfig
from pdray.config.section import HOW, Name


class LogprobsConfig(LogprobEngineConfig):
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

    @property
    def folders(self) -> dict[str, str]:
        """The model folders that are read, by the name of their setting in this section: the policy first."""
        return {"policy": self.policy} | ({"reference": self.reference} if self.reference else {})

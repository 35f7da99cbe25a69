"""Settings of the cross-fitted trainings that Selective DPO selects by."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pdray.config.alignment import AlignmentConfig
from pdray.config.engine import OWNED_ARGUMENTS, EngineConfig
from pdray.config.section import HOW, Count


class CrossfitConfig(EngineConfig):
    """The loss of every pair under policies that were trained on pairs of other prompts."""

    section: ClassVar[str] = "crossfit"
    owned_arguments: ClassVar[dict[str, str]] = OWNED_ARGUMENTS | {"model": "alignment.policy"}

    folds: Annotated[int, Field(ge=2, le=100)] = Field(
        2, description="parts of the prompts; a policy is trained on all but one, and judges that one"
    )
    repeats: Count = Field(3, description="times that the prompts are parted anew; the mean of the losses counts")
    max_steps: Count | None = Field(
        None, description="optimizer steps of each training; null: as many as the alignment's settings say"
    )
    parity_tolerance: float = Field(
        0.01,
        gt=0,
        description="largest difference, in nats of a whole response, that the comparison accepts in float32",
        json_schema_extra=HOW,
    )

    @model_validator(mode="after")
    def _prompt_fits(self) -> CrossfitConfig:
        if self.prompt_tokens is not None and self.prompt_tokens >= self.max_tokens:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} fills max_tokens {self.max_tokens} and leaves no room for a "
                "response; lower it or raise max_tokens"
            )
        return self

    def training(self, alignment: AlignmentConfig) -> AlignmentConfig:
        """How each policy is trained: as in the alignment, with DPO, nothing held out, and these tokens."""
        return alignment.model_copy(
            update={
                "loss": "dpo",
                "held_out": 0.0,
                "max_steps": self.max_steps or alignment.max_steps,
                "max_tokens": self.max_tokens,
                "prompt_tokens": self.prompt_tokens,
                "report_to": [],
            }
        )

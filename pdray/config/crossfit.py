"""Settings of the cross-fitted trainings that Selective DPO selects by."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pdray.config.alignment import AlignmentConfig
from pdray.config.engine import OWNED_ARGUMENTS, LogprobEngineConfig
from pdray.config.section import Count


class CrossfitConfig(LogprobEngineConfig):
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

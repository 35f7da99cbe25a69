"""Settings of the scores stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pdray.config.engine import OWNED_ARGUMENTS, EngineConfig
from pdray.config.section import Count


class ScoresConfig(EngineConfig):
    """How reward models read texts: in scoring, and where a frozen backbone computes features."""

    section: ClassVar[str] = "scores"
    owned_arguments: ClassVar[dict[str, str]] = OWNED_ARGUMENTS | {"model": "proxies"}

    max_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="tokens of prompt and response together, in scoring and in training the proxies"
    )
    prompt_tokens: Count | None = Field(
        None, description="most tokens of the prompt, so that its responses share a prefix; null: half of max_tokens"
    )
    keep_prompt: Literal["end", "start"] = Field(
        "end", description="which side of a prompt survives when it is longer than prompt_tokens"
    )

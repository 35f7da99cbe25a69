"""Settings of adapters, for every stage that trains all weights or adapters."""

from __future__ import annotations

from pydantic import Field

from pdray.config.section import Count, Name, Section


class LoraConfig(Section):
    """Adapters of low rank in place of all weights, through peft; merged into the model at the end."""

    r: Count = Field(16, description="rank of the adapters")
    alpha: Count = Field(32, description="the adapters' part is scaled by alpha / r")
    target_modules: list[Name] | Name = Field(
        "all-linear", description="modules that get an adapter, by name; all-linear: every linear layer but the head"
    )

"""Settings of the evaluation stage."""

from __future__ import annotations

from pydantic import Field

from pdray.config.section import HOW, Count, Name, Section


class EvaluationConfig(Section):
    """How often the trained policy prefers the better response, on pairs that nothing was trained on."""

    pairs: Name = Field(
        description="held-out pairs: a .jsonl or .parquet file with prompt, chosen and rejected, and an aspect where "
        "they have one",
        json_schema_extra=HOW,  # its bytes decide, not where they lie
    )
    max_pairs: Count = Field(2_000, description="most pairs that are read; the seed chooses which")
    gpus: float = Field(0, ge=0, description="GPUs of each task that reads them", json_schema_extra=HOW)

"""Preference data selection at cluster scale: preference divergence, exact cut, DPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdray.api import (
        Job,
        PlannedStage,
        Run,
        Shipment,
        StageOutput,
        preference_divergence,
        score_pairs,
        select,
        submit,
    )

__version__ = "0.1.0"
__all__ = [
    "Job",
    "PlannedStage",
    "Run",
    "Shipment",
    "StageOutput",
    "preference_divergence",
    "score_pairs",
    "select",
    "submit",
]


def __getattr__(name: str) -> Any:
    """What :mod:`pdray.api` offers, imported when it is asked for: ``import pdray`` alone reads nothing else."""
    if name in __all__:
        from pdray import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

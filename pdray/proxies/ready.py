"""Reward models that the user brought."""

from __future__ import annotations

from pdray.schema import ProxiesOutput, RewardModel
from pdray.stages import StageContext, StageResult


def ready_models(ctx: StageContext) -> StageResult:
    """Hand over those of ``proxies.models`` that the corpus needs; the stage's ``check`` has seen them."""
    corpus, models = ctx.upstream.corpus, ctx.config.proxies.models
    assert corpus is not None and models is not None
    return StageResult(
        ProxiesOutput(
            [RewardModel(models[aspect], [aspect]) for aspect in corpus.aspects], dict.fromkeys(corpus.aspects, 0.0)
        ),
        rows_in=0,
        rows_out=0,
        metrics={"trained": False, "aspects": {aspect: {"path": models[aspect]} for aspect in corpus.aspects}},
        notes=[
            f"no pair has the aspect {aspect}; its model is not used"
            for aspect in sorted(set(models) - set(corpus.aspects))
        ],
    )

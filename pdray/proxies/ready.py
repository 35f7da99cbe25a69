"""Reward models that the user brought."""

from __future__ import annotations

from pdray.aspects import UNIFIED
from pdray.config import ProxiesConfig
from pdray.models.folder import num_labels, read_config
from pdray.schema import ProxiesOutput, RewardModel
from pdray.stages import StageContext, StageResult


def ready_models(ctx: StageContext) -> StageResult:
    """Hand over those of ``proxies.models`` that the corpus needs; the stage's ``check`` has seen them."""
    corpus, proxies = ctx.upstream.corpus, ctx.config.proxies
    assert corpus is not None
    aspects = [*corpus.aspects, *([UNIFIED] if proxies.has_unified else [])]
    models = reward_models(proxies, aspects)
    paths = {aspect: model.path for model in models for aspect in model.aspects if aspect is not None}
    unused = sorted(set(proxies.model_aspects) - set(corpus.aspects))
    return StageResult(
        ProxiesOutput(models, dict.fromkeys(aspects, 0.0)),
        rows_in=0,
        rows_out=0,
        metrics={"trained": False, "aspects": {aspect: {"path": paths[aspect]} for aspect in aspects}},
        notes=[f"no pair has the aspect {aspect}; its model is not used" for aspect in unused],
    )


def reward_models(proxies: ProxiesConfig, aspects: list[str]) -> list[RewardModel]:
    """The models that score some aspects, with the aspect of each of their labels."""
    if isinstance(proxies.models, dict):
        return [RewardModel(proxies.models[aspect], [aspect]) for aspect in aspects]
    assert proxies.models is not None
    path, labels = proxies.models.path, proxies.models.labels
    aspect_of = {labels[aspect]: aspect for aspect in aspects}
    count = num_labels(read_config(f"proxies.models.path is {path}", path))
    return [RewardModel(path, [aspect_of.get(label) for label in range(count)])]

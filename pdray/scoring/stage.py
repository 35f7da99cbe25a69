"""The scores stage: every text gets its reward for every aspect, once, however many pairs it stands in.

scores-<hash8>/
  texts/shard-00017.parquet   see pdray.schema.scores_schema; row-aligned with the corpus' texts
  parity.parquet              the engine beside Transformers on sampled texts
  parity-features.parquet     the same for rewards that come from features
"""

from __future__ import annotations

from typing import Any

from pdray.config import RunConfig, ScoresConfig, fingerprinted
from pdray.engines.engine import EngineLoader, load_engine
from pdray.engines.report import pass_metrics, pass_notes
from pdray.engines.shards import TextPass, run_text_pass
from pdray.models.positions import check_positions
from pdray.schema import ScoresOutput
from pdray.scoring.features import KnownRewards, WithoutFeatures, read_head
from pdray.scoring.known import check_known, covers_all, run_known
from pdray.scoring.models import RewardModels, find_models
from pdray.scoring.writer import RewardWriter
from pdray.shards import ShardedFolder
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.tokens import token_rule


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the scores; how many actors compute them does not."""
    return fingerprinted(config.scores) | {"dtype": config.scores.resolved_dtype}


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse texts that are longer than a model reads, before proxies are trained.

    Raises:
        UserError: a model has fewer positions than ``scores.max_tokens``.
    """
    for folder in config.proxies.folders.values():
        check_positions("scores.max_tokens", config.scores.max_tokens, folder)


def run(ctx: StageContext, load: EngineLoader = load_engine) -> StageResult:
    """Score the corpus' texts; those with features by the head alone, the others by an engine.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        load: loads a reward model; tests bring their own.

    Raises:
        UserError: the models, the cluster or the engine do not fit the config, the rewards are not those of
            Transformers, or more than ``scores.max_failed`` of the texts cannot be scored.
    """
    corpus, proxies, scores = ctx.upstream.corpus, ctx.upstream.proxies, ctx.config.scores
    assert corpus is not None and proxies is not None, "the pipeline hands over what the stage names as upstream"
    models = find_models(proxies, ctx.run, scores.max_tokens)
    known = _known(ctx, models)
    text_pass = TextPass(
        models=models.folders,
        rule=token_rule(scores),
        corpus=ctx.upstream.shards("corpus"),
        target=ctx.shards(corpus.num_shards),
        rows=WithoutFeatures(known) if known else None,
        write=RewardWriter(models.aspects, models.columns, known),
        config=scores,
        labels=models.labels,
        load=load,
    )
    known_parity = check_known(text_pass, known) if known else None
    if known and covers_all(known, text_pass.corpus):
        result = run_known(text_pass, len(models.outputs), ctx.progress.note)
    else:
        result = run_text_pass(text_pass, ctx.progress, "scoring")
    metrics = pass_metrics(scores, corpus, result) | {
        "reused": result.total("reused"),
        "scoring_seconds": result.rates["seconds"],
        "max_parity_error_features": known_parity and known_parity.max_error,
        "shards_digest": text_pass.target.digest(result.markers),
    }
    output = ScoresOutput(corpus.num_shards, models.aspects, corpus.texts)
    return StageResult(output, corpus.texts, corpus.texts, metrics=metrics, notes=_notes(scores, metrics))


def _known(ctx: StageContext, models: RewardModels) -> KnownRewards | None:
    corpus, proxies = ctx.upstream.corpus, ctx.upstream.proxies
    assert corpus is not None and proxies is not None
    if proxies.features is None:
        return None
    (model,), (folder,) = proxies.models, models.folders
    features = ShardedFolder(ctx.upstream.folders["proxies"], ctx.upstream.fingerprints["proxies"], corpus.num_shards)
    return KnownRewards(features, read_head(folder, model.head, model.dense), proxies.features, model.first_feature)


def _notes(scores: ScoresConfig, metrics: dict[str, Any]) -> list[str]:
    cut = f"of a long prompt its {scores.keep_prompt} was kept, of a response its beginning"
    return pass_notes(scores, metrics, ("reward", "rewards"), cut)


STAGE = Stage(
    name="scores",
    version=2,
    upstream=("corpus", "proxies"),
    settings=settings,
    run=run,
    load=lambda value: ScoresOutput(**value),
    shown=(
        "engine",
        "dtype",
        "texts",
        "computed",
        "pairs_per_second",
        "texts_per_second",
        "max_parity_error",
        "truncated",
        "non_finite",
        "failed",
    ),
    check=check,
)

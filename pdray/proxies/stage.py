"""The proxies stage: κ reward models, trained here or brought by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from pdray.aspects import UNIFIED
from pdray.config import MultiHeadModel, ProxiesConfig, RunConfig, ScoresConfig, fingerprinted
from pdray.errors import UserError, check_together, user_errors
from pdray.identity import model_identity
from pdray.models.folder import Kind, check_model_folder
from pdray.models.pooling import stated_pooling
from pdray.models.positions import check_positions
from pdray.proxies.quality import baseline_notes, chance_notes, form_notes, reading_notes
from pdray.proxies.remedies import remedy_notes
from pdray.schema import CorpusOutput, ProxiesOutput
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.tokens import token_rule
from pdray.trackers import check_trackers


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the proxies: their section, the seed, how texts are cut, the models, and what computes features."""
    proxies = config.proxies
    trains_heads = proxies.models is None and proxies.train == "head"
    return {
        "proxies": fingerprinted(proxies),
        "seed": config.seed,
        "tokens": asdict(token_rule(config.scores)),
        "models": {name: model_identity(folder) for name, folder in sorted(proxies.folders.items())},
        "features": _feature_settings(config.scores) if trains_heads else None,
        "pooling": _apart_pooling(proxies),
    }


def _feature_settings(scores: ScoresConfig) -> dict[str, Any]:
    return {"engine": scores.engine, "engine_args": scores.engine_args, "dtype": scores.resolved_dtype}


def _apart_pooling(proxies: ProxiesConfig) -> str | None:
    """The pooling that the base model's own file asks for, where prompt and response may be embedded apart."""
    if proxies.models is not None or proxies.train != "head" or proxies.reading == "together":
        return None
    assert proxies.base_model is not None
    return stated_pooling(f"proxies.base_model is {proxies.base_model}", proxies.base_model)


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse model folders that are not whole, texts that are longer than the base model reads, aspects without model.

    Raises:
        UserError: one of these; see :func:`~pdray.models.folder.check_model_folder`.
    """
    models = config.proxies.models
    label = max(models.labels.values()) if isinstance(models, MultiHeadModel) else None
    kind: Kind = "backbone" if models is None else "reward"
    checks: list[Callable[[], object]] = [partial(_apart_pooling, config.proxies)]
    for name, folder in config.proxies.folders.items():
        checks.append(partial(check_model_folder, name, folder, kind, label))
        checks.append(partial(check_positions, "scores.max_tokens", config.scores.max_tokens, folder))
    checks.append(partial(check_trackers, "proxies.report_to", config.proxies.report_to))
    if models is not None:
        checks.append(partial(_check_aspects, config.proxies.model_aspects, upstream.corpus))
    if config.proxies.has_unified:
        checks.append(partial(_check_unified, upstream.corpus))
    check_together(checks)


def _check_aspects(aspects: list[str], corpus: CorpusOutput | None) -> None:
    if corpus is None:
        return
    missing = sorted(set(corpus.aspects) - set(aspects))
    if missing:
        raise UserError(
            f"proxies.models has no model for {', '.join(missing)}, which the corpus holds; add it, or set "
            "corpus.aspects to the aspects that have one"
        )


def _check_unified(corpus: CorpusOutput | None) -> None:
    if corpus is not None and UNIFIED in corpus.aspects:
        raise UserError(
            f"the corpus has an aspect named {UNIFIED}, which is what the reward model of all aspects together is "
            "called; leave that model out, or name the aspect otherwise"
        )


def run(ctx: StageContext) -> StageResult:
    """Train the proxies, or hand over the ready ones.

    ``train: head`` writes ``features/`` (see :func:`pdray.schema.features_schema`) and ``model/``, one classifier with
    a label for each aspect, or an encoder with a head beside it (see :mod:`pdray.models.apart`); ``train: all`` writes
    the classifier where one backbone is shared, else a folder with one label for each aspect.

    ``metrics["aspects"][NAME]`` holds ``train_pairs``, ``held_out_pairs``, ``held_out_accuracy`` with its 95%
    ``held_out_interval`` and ``length_correlation`` (``before`` and ``after`` the remedies).

    Raises:
        UserError: a model, an aspect or the cluster does not allow it; the message holds the cure.
    """
    if ctx.config.proxies.models is not None:
        from pdray.proxies.ready import ready_models

        return ready_models(ctx)
    with user_errors():
        return _train(ctx)


def _train(ctx: StageContext) -> StageResult:
    from pdray.proxies.full import train_models
    from pdray.proxies.linear import train_heads
    from pdray.proxies.pairs import choose_pairs, look_with_ray, of_all_aspects

    corpus, proxies = ctx.upstream.corpus, ctx.config.proxies
    assert corpus is not None
    look = look_with_ray(ctx.upstream.shards("corpus"), ctx.config.seed)
    chosen = choose_pairs(look, corpus.aspect_pairs, proxies)
    unified = [of_all_aspects(chosen, proxies.max_pairs_per_aspect)] if proxies.unified else []
    output, metrics = (train_heads if proxies.train == "head" else train_models)(ctx, [*chosen, *unified])
    unread = sum(metrics["aspects"][one.aspect].get("unread_pairs", 0) for one in chosen)
    used = sum(len(one.used) for one in chosen) - unread
    for one in [*chosen, *unified]:
        metrics["aspects"][one.aspect]["length_penalty"] = output.length_penalty[one.aspect]
    return StageResult(
        output,
        rows_in=corpus.pairs,
        rows_out=used,
        dropped={
            "beyond proxies.share and the caps, or of a held-out prompt": corpus.pairs - used - unread,
            "with a text that could not be read": unread,
        },
        metrics={"trained": True, "train": proxies.train, **metrics},
        notes=_notes(metrics, ctx.config.scores.max_tokens)
        + baseline_notes(metrics, proxies.max_baseline_pairs)
        + remedy_notes(metrics["aspects"], proxies),
    )


def _notes(metrics: dict[str, Any], max_tokens: int) -> list[str]:
    notes = reading_notes(metrics) + chance_notes(metrics["aspects"]) + form_notes(metrics["aspects"])
    unfinished = [aspect for aspect, facts in metrics["aspects"].items() if not facts.get("converged", True)]
    if unfinished:
        notes.append(f"the fit of {', '.join(unfinished)} stopped before its optimum; see iterations and gradient")
    if metrics["truncated"]:
        notes.append(f"{metrics['truncated']:,} texts of used pairs are longer than scores.max_tokens {max_tokens}")
    return notes


STAGE = Stage(
    name="proxies",
    version=5,
    upstream=("corpus",),
    settings=settings,
    run=run,
    load=ProxiesOutput.load,
    shown=("kind", "reading", "readings", "aspects", "agreement", "truncated"),
    check=check,
    anew=True,
)

"""``train: head``: one frozen backbone, one pass over the texts of used pairs, one linear head per aspect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import length, quality
from pdray.proxies.backbone import Backbone, write_heads, write_identity
from pdray.proxies.data import trains_baseline
from pdray.proxies.features import FeatureWriter, PairFeatures, RowsOfPairs, final_margins, joined, read_pairs
from pdray.proxies.fit import Pairs, fit_cross_validated, fit_head
from pdray.proxies.pairs import AspectPairs, seen_shares
from pdray.proxies.tasks import run_tasks
from pdray.schema import ProxiesOutput, RewardModel
from pdray.shards import ShardedFolder
from pdray.stages import StageContext
from pdray.tokens import token_rule

MODEL, IDENTITY = "model", "identity"
TASK_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class HeadJob:
    """What is needed to fit the head of one aspect.

    Attributes:
        pairs: which pairs.
        features: shards of this stage.
        num_features: H.
        proxies: the settings of the stage.
        seen_share: of :func:`pdray.proxies.pairs.seen_shares`.
    """

    pairs: AspectPairs
    features: ShardedFolder
    num_features: int
    proxies: ProxiesConfig
    seen_share: float


@dataclass(frozen=True)
class FittedHead:
    """The head of one aspect.

    Attributes:
        weights: (H,) float32 on raw features, fitted to all used pairs with the strength that the training pairs chose.
        measured: (H,) float32, fitted to the training pairs alone, which the figures are of.
        facts: what the manifest says of it.
    """

    weights: np.ndarray
    measured: np.ndarray
    facts: dict[str, Any]


def fit_aspect(job: HeadJob) -> FittedHead:
    """Fit the head of an aspect: choose the strength, measure on held-out pairs, then fit to these as well.

    Raises:
        UserError: too few texts could be read.
    """
    start, proxies = time.monotonic(), job.proxies
    train, prompts = _readable(job, job.pairs.train)
    held_out, _ = _readable(job, job.pairs.held_out)
    spread = train.spread()
    pairs = _standardised(train, spread, proxies)
    chosen = fit_cross_validated(pairs, prompts, job.seen_share)
    final = fit_head(_standardised(joined(train, held_out), spread, proxies), chosen.l2, chosen.weights)
    measured = (chosen.weights / spread).astype(np.float32)
    penalty = length.scoring_penalty(proxies.length_penalty, proxies.length_penalty_form)
    margin, baseline = final_margins(held_out, measured, penalty), None
    if trains_baseline(proxies):
        plain = Pairs(pairs.difference, np.zeros_like(pairs.margin), np.ones_like(pairs.weight))
        baseline = final_margins(held_out, fit_head(plain, chosen.l2).weights / spread, 0.0)
    facts = {
        "train_pairs": len(pairs.margin),
        "unread_pairs": len(job.pairs.used) - len(pairs.margin) - len(margin),
        **quality.held_out_facts(margin, held_out.length_difference, baseline),
        "seen_share": round(job.seen_share, 4),
        "validation_accuracy": chosen.accuracy,
        "l2": final.l2,
        "iterations": final.iterations,
        "gradient": final.gradient,
        "converged": chosen.converged and final.converged,
        "seconds": round(time.monotonic() - start, 2),
    }
    return FittedHead((final.weights / spread).astype(np.float32), measured, facts)


def _standardised(features: PairFeatures, spread: np.ndarray, proxies: ProxiesConfig) -> Pairs:
    tokens = features.length_difference
    return Pairs(
        features.difference / spread,
        length.training_margin(tokens, proxies.length_penalty, proxies.length_penalty_form),
        length.balance_weights(tokens, proxies.balance_temperature),
    )


def _readable(job: HeadJob, pairs: pa.Table) -> tuple[PairFeatures, np.ndarray]:
    """The features of the pairs whose texts could both be read, and the hash of the prompt of each.

    Raises:
        UserError: of some texts no pair is left.
    """
    features = read_pairs(job.features, pairs, job.num_features)
    known, prompts = features.finite(), pairs["prompt_hash"].to_numpy()
    if len(np.unique(prompts[known])) < min(2, len(np.unique(prompts))):
        raise UserError(
            f"the aspect {job.pairs.aspect!r} has {known.sum()} pairs left of {len(known)} whose texts have finite "
            "features; use scores.dtype float32, or another proxies.base_model"
        )
    return features.take(known), prompts[known]


def agreement_of(
    heads: np.ndarray, held_out: pa.Table, features: ShardedFolder, penalty: float
) -> list[list[float | None]]:
    """How much the heads' margins go together on held-out pairs, (κ, κ); see :mod:`pdray.proxies.quality`."""
    pairs = read_pairs(features, held_out, heads.shape[1])
    pairs = pairs.take(pairs.finite())
    margins = np.stack([final_margins(pairs, head, penalty) for head in heads], axis=1)
    return [
        [round(float(value), 4) if np.isfinite(value) else None for value in row] for row in quality.agreement(margins)
    ]


def train_heads(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ProxiesOutput, dict[str, Any]]:
    """Write features, fit every head, write them as one model.

    Returns:
        the hand-over and the metrics of the stage.

    Raises:
        UserError: the model or the features do not allow it.
    """
    proxies = ctx.config.proxies
    assert proxies.base_model is not None
    aspects = [one.aspect for one in chosen]
    penalty = length.scoring_penalty(proxies.length_penalty, proxies.length_penalty_form)
    identity = ctx.folder / IDENTITY
    backbone: Backbone = _one_task(write_identity, proxies.base_model, ctx.config.seed, identity)
    features, feature_metrics = _write_features(ctx, chosen, backbone.scale)
    jobs = [
        HeadJob(one, features, backbone.num_features, proxies, seen)
        for one, seen in zip(chosen, seen_shares(chosen), strict=True)
    ]
    fitted = _fit_all(ctx, jobs)
    model = ctx.folder / MODEL
    weights = np.stack([one.weights for one in fitted])
    _one_task(write_heads, proxies.base_model, ctx.config.seed, weights, aspects, model)
    held_out, measured = pa.concat_tables([one.held_out for one in chosen]), np.stack([one.measured for one in fitted])
    metrics = {
        "aspects": {aspect: one.facts for aspect, one in zip(aspects, fitted, strict=True)},
        "agreement": dict(zip(aspects, _one_task(agreement_of, measured, held_out, features, penalty), strict=True)),
        "features": feature_metrics | {"num_features": backbone.num_features},
        "truncated": feature_metrics["truncated"],
    }
    identity.delete()
    reward_model = RewardModel(f"{ctx.folder.name}/{MODEL}", list(aspects), backbone.head)
    output = ProxiesOutput([reward_model], dict.fromkeys(aspects, penalty), backbone.num_features, features.num_shards)
    return output, metrics


def _one_task(function: Any, *arguments: Any) -> Any:
    return next(iter(run_tasks(function, [arguments], TASK_SECONDS)))[1]


def _write_features(ctx: StageContext, chosen: list[AspectPairs], scale: float) -> tuple[ShardedFolder, dict[str, Any]]:
    from pdray.engines.shards import TextPass, run_text_pass

    corpus = ctx.upstream.shards("corpus")
    target = ctx.shards(corpus.num_shards)
    rows = RowsOfPairs.of([one.used for one in chosen])
    text_pass = TextPass(
        models=[ctx.folder / IDENTITY],
        rule=token_rule(ctx.config.scores),
        corpus=corpus,
        target=target,
        rows=rows,
        write=FeatureWriter(scale),
        scores=ctx.config.scores,
    )
    result = run_text_pass(text_pass, ctx.progress, "features")
    return target, {"texts": rows.count, "truncated": result.total("truncated"), **result.rates}


def _fit_all(ctx: StageContext, jobs: list[HeadJob]) -> list[FittedHead]:
    done: dict[int, FittedHead] = {}
    with ctx.progress.counting("fitting", total=len(jobs), unit="heads") as counter:
        for number, fitted in run_tasks(fit_aspect, [(job,) for job in jobs], TASK_SECONDS):
            done[number] = fitted
            counter.add(1)
    return [done[number] for number in range(len(jobs))]

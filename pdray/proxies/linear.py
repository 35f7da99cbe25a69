"""``train: head``: one frozen backbone, one pass over the texts of used pairs, one head per aspect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import length, quality, tanh
from pdray.proxies.backbone import Backbone, write_heads, write_identity
from pdray.proxies.data import trains_baseline
from pdray.proxies.features import FeatureWriter, PairFeatures, RowsOfPairs, final_margins, joined, read_pairs
from pdray.proxies.forms import Form, Linear, ProxyPairs, Scale, Tanh, stacked
from pdray.proxies.pairs import AspectPairs, seen_shares
from pdray.proxies.tasks import run_tasks
from pdray.proxies.validation import choose
from pdray.rewards import RewardHead
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
        dense: whether the model has a dense layer with tanh that the proxies may train.
        num_aspects: κ, which share its units.
        seed: of weights to begin with.
    """

    pairs: AspectPairs
    features: ShardedFolder
    num_features: int
    proxies: ProxiesConfig
    seen_share: float
    dense: bool
    num_aspects: int
    seed: int

    def forms(self, num_texts: int) -> list[Form]:
        """What the head may be, the simplest first."""
        units = tanh.units_of(num_texts, self.num_features, self.num_aspects) if self.dense else 0
        return [Linear(self.dense), *([Tanh(units, self.seed)] if units else [])]


@dataclass(frozen=True)
class FittedHead:
    """The head of one aspect.

    Attributes:
        head: on raw features, fitted to all used pairs with the form and strength that the training pairs chose.
        measured: fitted to the training pairs alone, which the figures are of.
        facts: what the manifest says of it.
    """

    head: RewardHead
    measured: RewardHead
    facts: dict[str, Any]


def fit_aspect(job: HeadJob) -> FittedHead:
    """Fit the head of an aspect: choose form and strength, measure on held-out pairs, then fit to these as well.

    Raises:
        UserError: too few texts could be read.
    """
    start, proxies = time.monotonic(), job.proxies
    train, prompts = _readable(job, job.pairs.train)
    held_out, _ = _readable(job, job.pairs.held_out)
    everything, scale = joined(train, held_out), Scale(*train.moments())
    pairs = _with_remedies(train, proxies)
    chosen = choose(job.forms(len(everything.values)), pairs, scale, prompts, job.seen_share)
    form, strength = chosen.form, chosen.fit.l2
    final = form.fit(_with_remedies(everything, proxies), scale, strength, chosen.fit.weights)
    measured = form.head(chosen.fit.weights, scale)
    penalty = length.scoring_penalty(proxies.length_penalty, proxies.length_penalty_form)
    margin, baseline = final_margins(held_out, measured, penalty), None
    if trains_baseline(proxies):
        plain = ProxyPairs(train, np.zeros_like(pairs.margin), np.ones_like(pairs.weight))
        baseline = final_margins(held_out, form.head(form.fit(plain, scale, strength).weights, scale), 0.0)
    facts = {
        "train_pairs": len(pairs.margin),
        "unread_pairs": len(job.pairs.used) - len(pairs.margin) - len(margin),
        **quality.held_out_facts(margin, held_out.length_difference, baseline),
        "seen_share": round(job.seen_share, 4),
        "texts": len(everything.values),
        "form": form.name,
        "validation_loss": {name: round(min(losses), 6) for name, losses in chosen.losses.items()},
        "validation_accuracy": round(chosen.accuracy, 6),
        "l2": strength,
        "iterations": final.iterations,
        "gradient": final.gradient,
        "converged": chosen.fit.converged and final.converged,
        "seconds": round(time.monotonic() - start, 2),
    }
    return FittedHead(form.head(final.weights, scale), measured, facts)


def _with_remedies(features: PairFeatures, proxies: ProxiesConfig) -> ProxyPairs:
    tokens = features.length_difference
    return ProxyPairs(
        features,
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
    heads: list[RewardHead], held_out: pa.Table, features: ShardedFolder, num_features: int, penalty: float
) -> list[list[float | None]]:
    """How much the heads' margins go together on held-out pairs, (κ, κ); see :mod:`pdray.proxies.quality`."""
    pairs = read_pairs(features, held_out, num_features)
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
    features, feature_metrics = _write_features(ctx, chosen)
    size = backbone.num_features
    jobs = [
        HeadJob(one, features, size, proxies, seen, backbone.dense is not None, len(chosen), ctx.config.seed)
        for one, seen in zip(chosen, seen_shares(chosen), strict=True)
    ]
    fitted = _fit_all(ctx, jobs)
    model = ctx.folder / MODEL
    head = stacked([one.head for one in fitted], size)
    _one_task(write_heads, proxies.base_model, ctx.config.seed, head, aspects, model)
    held_out, measured = pa.concat_tables([one.held_out for one in chosen]), [one.measured for one in fitted]
    agreement = _one_task(agreement_of, measured, held_out, features, size, penalty)
    metrics = {
        "aspects": {aspect: one.facts for aspect, one in zip(aspects, fitted, strict=True)},
        "agreement": dict(zip(aspects, agreement, strict=True)),
        "features": feature_metrics | {"num_features": size},
        "truncated": feature_metrics["truncated"],
    }
    identity.delete()
    reward_model = RewardModel(f"{ctx.folder.name}/{MODEL}", list(aspects), backbone.head, backbone.dense)
    output = ProxiesOutput([reward_model], dict.fromkeys(aspects, penalty), size, features.num_shards)
    return output, metrics


def _one_task(function: Any, *arguments: Any) -> Any:
    return next(iter(run_tasks(function, [arguments], TASK_SECONDS)))[1]


def _write_features(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ShardedFolder, dict[str, Any]]:
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
        write=FeatureWriter(),
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

"""``train: head``: one frozen backbone, one pass over the texts of used pairs, one head per aspect.

With ``reading: auto`` the pass reads every text in both ways, heads are fitted to both, and those stay whose
cross-validated loss is smaller in the mean over the aspects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.aspects import UNIFIED
from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import length, quality, tanh
from pdray.proxies.data import trains_baseline
from pdray.proxies.features import FeatureWriter, PairFeatures, RowsOfPairs, final_margins, joined, read_pairs
from pdray.proxies.forms import Form, Linear, ProxyPairs, Tanh
from pdray.proxies.pairs import AspectPairs, seen_shares
from pdray.proxies.readings import SIMPLEST_FIRST, Name, Reading, best, handed_over, prepare, write_model
from pdray.proxies.remedies import Remedies, find, given
from pdray.proxies.validation import choose
from pdray.rewards import RewardHead
from pdray.runtime.tasks import run_tasks
from pdray.schema import ProxiesOutput
from pdray.shards import ShardedFolder
from pdray.stages import StageContext
from pdray.tokens import token_rule

MODEL = "model"
FEATURE_MODELS: dict[Name, str] = {"together": "identity", "apart": "encoder"}
TASK_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class HeadJob:
    """What is needed to fit the head of one aspect.

    Attributes:
        pairs: which pairs.
        features: shards of this stage.
        reading: whose features the head reads.
        proxies: the settings of the stage.
        seen_share: of :func:`pdray.proxies.pairs.seen_shares`.
        num_aspects: κ, which share its units.
        seed: of weights to begin with.
        length_pairs: held-out pairs of all aspects, on which τ and ρ are found where they are auto.
    """

    pairs: AspectPairs
    features: ShardedFolder
    reading: Reading
    proxies: ProxiesConfig
    seen_share: float
    num_aspects: int
    seed: int
    length_pairs: pa.Table

    def forms(self, num_texts: int) -> list[Form]:
        """What the head may be, the simplest first."""
        reading = self.reading
        units = tanh.units_of(num_texts, reading.num_features, self.num_aspects) if reading.tanh else 0
        return [Linear(reading.tanh), *([Tanh(units, self.seed)] if units else [])]

    def remedies(self, head: Callable[[Remedies], RewardHead]) -> Remedies:
        """How strong the remedies are, given the head that such remedies make, which saw no held-out pair."""
        if "auto" not in (self.proxies.balance_temperature, self.proxies.length_penalty):
            return given(self.proxies)
        pairs = read_pairs(self.features, self.length_pairs, self.reading.num_features, self.reading.first)
        pairs = pairs.take(pairs.finite())
        return find(self.proxies, pairs.length_difference, lambda one: final_margins(pairs, head(one), 0.0))


@dataclass(frozen=True)
class FittedHead:
    """The head of one aspect.

    Attributes:
        head: on raw features, fitted to all used pairs with the form and strength that the training pairs chose.
        measured: fitted to the training pairs alone, which the figures are of.
        penalty: ρ that scoring subtracts.
        facts: what the manifest says of it.
    """

    head: RewardHead
    measured: RewardHead
    penalty: float
    facts: dict[str, Any]


def fit_aspect(job: HeadJob) -> FittedHead:
    """Fit the head of an aspect: choose form and strength, measure on held-out pairs, then fit to these as well.

    Raises:
        UserError: too few texts could be read.
    """
    start, proxies = time.monotonic(), job.proxies
    train, prompts = _readable(job, job.pairs.train)
    held_out, _ = _readable(job, job.pairs.held_out)
    everything, scale = joined(train, held_out), job.reading.scale(train)
    pairs = _with_remedies(train, proxies, given(proxies))
    chosen = choose(job.forms(len(everything.values)), pairs, scale, prompts, job.seen_share)
    form, strength = chosen.form, chosen.fit.l2

    def fitted_with(remedies: Remedies) -> RewardHead:
        if (remedies.temperature, remedies.loss_penalty) == (proxies.training_temperature, proxies.training_penalty):
            return form.head(chosen.fit.weights, scale)
        return form.head(
            form.fit(_with_remedies(train, proxies, remedies), scale, strength, chosen.fit.weights).weights, scale
        )

    remedies = job.remedies(fitted_with)
    measured, penalty = fitted_with(remedies), remedies.penalty
    final = form.fit(_with_remedies(everything, proxies, remedies), scale, strength, chosen.fit.weights)
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
        "balance_temperature": remedies.temperature,
        "training_penalty": remedies.loss_penalty,
        "reached_correlation": remedies.correlation,
        "form": form.name,
        "validation_loss": {name: round(one.loss, 6) for name, one in chosen.measured.items()},
        "validation_accuracy": round(chosen.measured[form.name].accuracy, 6),
        "l2": strength,
        "iterations": final.iterations,
        "gradient": final.gradient,
        "converged": chosen.fit.converged and final.converged,
        "seconds": round(time.monotonic() - start, 2),
    }
    return FittedHead(form.head(final.weights, scale), measured, penalty, facts)


def _with_remedies(features: PairFeatures, proxies: ProxiesConfig, remedies: Remedies) -> ProxyPairs:
    tokens = features.length_difference
    return ProxyPairs(
        features,
        length.training_margin(tokens, remedies.loss_penalty, proxies.length_penalty_form),
        length.balance_weights(tokens, remedies.temperature),
    )


def _readable(job: HeadJob, pairs: pa.Table) -> tuple[PairFeatures, np.ndarray]:
    """The features of the pairs whose texts could both be read, and the hash of the prompt of each.

    Raises:
        UserError: of some texts no pair is left.
    """
    features = read_pairs(job.features, pairs, job.reading.num_features, job.reading.first)
    known, prompts = features.finite(), pairs["prompt_hash"].to_numpy()
    if len(np.unique(prompts[known])) < min(2, len(np.unique(prompts))):
        raise UserError(
            f"the aspect {job.pairs.aspect!r} has {known.sum()} pairs left of {len(known)} whose texts have finite "
            "features; use scores.dtype float32, or another proxies.base_model"
        )
    return features.take(known), prompts[known]


def agreement_of(
    heads: list[FittedHead], held_out: pa.Table, features: ShardedFolder, reading: Reading
) -> list[list[float | None]]:
    """How much the heads' margins go together on held-out pairs, (κ, κ); see :mod:`pdray.proxies.quality`."""
    pairs = read_pairs(features, held_out, reading.num_features, reading.first)
    pairs = pairs.take(pairs.finite())
    margins = np.stack([final_margins(pairs, one.measured, one.penalty) for one in heads], axis=1)
    return quality.agreement_rows(margins)


def train_heads(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ProxiesOutput, dict[str, Any]]:
    """Write features, fit every head, write them as one model.

    Returns:
        the hand-over and the metrics of the stage.

    Raises:
        UserError: the model or the features do not allow it.
    """
    proxies, seed = ctx.config.proxies, ctx.config.seed
    assert proxies.base_model is not None
    aspects = [one.aspect for one in chosen]
    readings: list[Reading] = []
    for name in SIMPLEST_FIRST if proxies.reading == "auto" else (proxies.reading,):
        first = sum(one.num_features for one in readings)
        folder = ctx.folder / FEATURE_MODELS[name]
        readings.append(_one_task(prepare, name, proxies.base_model, seed, folder, first))
    features, feature_metrics, costs = _write_features(ctx, chosen, readings)
    fitted = _fit_all(ctx, chosen, features, readings)
    compared = {name: _measured(heads) | costs[name] for name, heads in fitted.items()}
    taken = best({name: facts["validation_loss"] for name, facts in compared.items()})
    reading, heads = next(one for one in readings if one.name == taken), fitted[taken]
    model = ctx.folder / MODEL
    _one_task(write_model, reading, proxies.base_model, seed, [one.head for one in heads], aspects, model)
    agreement = _one_task(agreement_of, heads, _held_out(chosen), features, reading)
    metrics = {
        "reading": taken,
        "readings": compared,
        "aspects": {aspect: one.facts for aspect, one in zip(aspects, heads, strict=True)},
        "agreement": dict(zip(aspects, agreement, strict=True)),
        "features": feature_metrics | {"num_features": reading.num_features},
        "truncated": feature_metrics["truncated"],
    }
    for one in readings:
        (ctx.folder / FEATURE_MODELS[one.name]).delete()
    output = ProxiesOutput(
        [handed_over(reading, f"{ctx.folder.name}/{MODEL}", aspects)],
        {aspect: one.penalty for aspect, one in zip(aspects, heads, strict=True)},
        sum(one.num_features for one in readings),
        features.num_shards,
    )
    return output, metrics


def _held_out(chosen: list[AspectPairs]) -> pa.Table:
    """The held-out pairs of all aspects, each once."""
    return pa.concat_tables([one.held_out for one in chosen if one.aspect != UNIFIED])


def _measured(heads: list[FittedHead]) -> dict[str, float]:
    """Means over the aspects."""
    losses = [min(one.facts["validation_loss"].values()) for one in heads]
    accuracies = [one.facts["validation_accuracy"] for one in heads]
    return {
        "validation_loss": round(float(np.mean(losses)), 6),
        "validation_accuracy": round(float(np.mean(accuracies)), 6),
    }


def _one_task(function: Any, *arguments: Any) -> Any:
    return next(iter(run_tasks(function, [arguments], TASK_SECONDS)))[1]


def _write_features(
    ctx: StageContext, chosen: list[AspectPairs], readings: list[Reading]
) -> tuple[ShardedFolder, dict[str, Any], dict[Name, dict[str, float]]]:
    """The features of all readings in one pass: its shards, its figures, and tokens and seconds of each reading."""
    from pdray.engines.shards import TextPass, run_text_pass

    corpus = ctx.upstream.shards("corpus")
    target = ctx.shards(corpus.num_shards)
    rows = RowsOfPairs.of([one.used for one in chosen])
    text_pass = TextPass(
        models=[ctx.folder / FEATURE_MODELS[one.name] for one in readings],
        rule=token_rule(ctx.config.scores),
        corpus=corpus,
        target=target,
        rows=rows,
        write=FeatureWriter(),
        config=ctx.config.scores,
    )
    result = run_text_pass(text_pass, ctx.progress, "features")
    costs = {
        one.name: {fact: result.model_total(f"model_{fact}", number) for fact in ("tokens", "seconds")}
        for number, one in enumerate(readings)
    }
    return target, {"texts": rows.count, "truncated": result.total("truncated"), **result.rates}, costs


def _fit_all(
    ctx: StageContext, chosen: list[AspectPairs], features: ShardedFolder, readings: list[Reading]
) -> dict[Name, list[FittedHead]]:
    """The heads of every reading, in the order of the aspects."""
    proxies, seed = ctx.config.proxies, ctx.config.seed
    jobs = [
        HeadJob(one, features, reading, proxies, seen, len(chosen), seed, _held_out(chosen))
        for reading in readings
        for one, seen in zip(chosen, seen_shares(chosen), strict=True)
    ]
    done: dict[int, FittedHead] = {}
    with ctx.progress.counting("fitting", total=len(jobs), unit="heads") as counter:
        for number, fitted in run_tasks(fit_aspect, [(job,) for job in jobs], TASK_SECONDS):
            done[number] = fitted
            counter.add(1)
    numbered = enumerate(readings)
    return {one.name: [done[number * len(chosen) + row] for row in range(len(chosen))] for number, one in numbered}

"""The alignment stage: DPO or DFPO on the kept pairs, from selection's folder to a policy folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pdray.alignment import data
from pdray.alignment.deepspeed import deepspeed_config
from pdray.alignment.dfpo import REFERENCE_LOSS
from pdray.alignment.inputs import PairInput, ShardEncoder, kept_batches, prepare_input
from pdray.alignment.known import KnownWriter, known_model
from pdray.alignment.reference import ReferenceStore
from pdray.alignment.train import train_policy
from pdray.config import AlignmentConfig, RunConfig, fingerprinted
from pdray.errors import check_together
from pdray.identity import model_identity
from pdray.models.folder import check_model_folder
from pdray.models.positions import check_positions
from pdray.responses import cut_rule
from pdray.runtime.tasks import sum_over_shards
from pdray.schema import AlignmentOutput
from pdray.selection.check import find_strategy
from pdray.selection.divergence import num_kept
from pdray.shards import ShardedFolder
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath
from pdray.store import SHARED, fingerprint
from pdray.trackers import check_trackers

VERSION = 5


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the trained policy."""
    alignment = _section(config)
    return {**fingerprinted(alignment), "seed": config.seed, "policy_files": model_identity(alignment.policy)}


def reads_also(config: RunConfig) -> tuple[str, ...]:
    """The log-probabilities, where they are those of the reference."""
    return ("corpus", "logprobs") if known_model(config) else ()


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse contradictory settings, a policy that is not whole or reads fewer tokens, and too few pairs once known.

    Raises:
        UserError: with the cure.
    """
    alignment = _section(config)
    check_together(
        [
            partial(deepspeed_config, alignment),
            partial(check_trackers, "alignment.report_to", alignment.report_to),
            partial(check_model_folder, "alignment.policy", alignment.policy, "policy"),
            partial(check_positions, "alignment.max_tokens", alignment.max_tokens, alignment.policy),
        ]
    )
    if upstream.corpus is not None:
        everything = find_strategy(config.selection.strategy).keeps_all
        num_pairs = num_kept(1.0 if everything else config.selection.budget, upstream.corpus.pairs)
        data.check_enough(num_pairs - data.num_held_out(num_pairs, alignment), alignment)


def run(ctx: StageContext) -> StageResult:
    """Train, or continue what an interrupted attempt left in the folder, and publish the policy.

    Raises:
        UserError: too few pairs, a tokenizer that does not take them, an engine other than DeepSpeed, a first loss
            that is not the reference's (ln 2 in DPO).
        RuntimeError: more than ``max_failures`` attempts in a row came no further; the message holds the last reason.
    """
    alignment, folder = _section(ctx.config), ctx.folder.local
    assert ctx.upstream.selection is not None, "alignment reads the selection"
    trained = train_policy(
        alignment, ctx.config.seed, lambda: _prepare(ctx), reference_store(ctx.run, alignment), folder, ctx.progress
    )
    policy = f"{ctx.folder.name}/{trained.policy.name}"
    return _result(ctx.upstream.selection.kept, trained.facts, trained.history, policy, alignment)


def _prepare(ctx: StageContext) -> PairInput:
    """The tokenised pairs; says what becomes of each before any training.

    Raises:
        UserError: there are too few, or the tokenizer does not take them.
    """
    alignment, selection, seed = _section(ctx.config), ctx.upstream.shards("selection"), ctx.config.seed
    assert ctx.upstream.selection is not None, "alignment reads the selection"
    rule, weights = cut_rule(alignment.max_tokens, alignment.prompt_tokens), ctx.upstream.selection.weights
    target = input_shards(ctx.run, selection, alignment, seed)
    encoder = ShardEncoder(partial(kept_batches, selection), target, alignment.policy, rule, seed, weights)
    pairs = prepare_input(encoder, ctx.progress)
    held_out, trained = data.num_held_out(pairs.pairs, alignment), data.num_trained(pairs.pairs, alignment)
    data.check_enough(pairs.pairs - held_out, alignment)
    unread = pairs.pairs - held_out - trained
    ending = f" and {unread:,} that max_steps {alignment.max_steps} does not come to" if unread else ""
    ctx.progress.note(
        f"{trained:,} pairs to train on{ending}, {held_out:,} held out, {pairs.empty:,} dropped (a response "
        f"without tokens); cut to {rule.max_tokens} tokens: {pairs.prompts_cut:,} prompts at the beginning, responses "
        f"of {pairs.responses_cut:,} pairs at the end"
    )
    return replace(pairs, known=_known(ctx, target))


def _known(ctx: StageContext, inputs: ShardedFolder) -> StoragePath | None:
    """Folder of what ``logprobs`` tells of the reference."""
    model, alignment = known_model(ctx.config), _section(ctx.config)
    if model is None:
        return None
    corpus, logprobs = ctx.upstream.shards("corpus"), ctx.upstream.shards("logprobs")
    key = fingerprint(["known", VERSION, inputs.fingerprint, logprobs.fingerprint, model])
    target = ReferenceStore(ctx.run / "shared" / f"known-{key[:8]}")
    writer = KnownWriter(corpus, logprobs, model, inputs, ctx.config.seed, alignment.max_tokens, target)
    pairs = sum_over_shards(writer, inputs.num_shards, ctx.progress, "log-probabilities that are known")
    ctx.progress.note(f"{pairs:,} pairs were read whole by logprobs.{model}, which is the reference")
    return target.folder


def input_shards(run: StoragePath, selection: ShardedFolder, alignment: AlignmentConfig, seed: int) -> ShardedFolder:
    """Where the tokenised pairs lie: beside the stage folders, by everything that decides them."""
    rule = cut_rule(alignment.max_tokens, alignment.prompt_tokens)
    identity = [selection.fingerprint, model_identity(alignment.policy), rule.max_tokens, rule.prompt_tokens, seed]
    key = fingerprint(["input", VERSION, *identity])
    return ShardedFolder(run / SHARED / f"alignment-input-{key[:8]}", key, selection.num_shards)


def reference_store(run: StoragePath, alignment: AlignmentConfig) -> ReferenceStore:
    """Where the reference's log-probabilities lie: by everything but the tokens that decides them."""
    identity = [model_identity(alignment.policy), alignment.dtype, alignment.attn_implementation]
    return ReferenceStore(run / SHARED / f"reference-{fingerprint(['reference', VERSION, *identity])[:16]}")


def _section(config: RunConfig) -> AlignmentConfig:
    assert config.alignment is not None, "the pipeline leaves the stage out where it is not configured"
    return config.alignment


def _result(
    num_pairs: int, facts: dict[str, Any], history: list[dict[str, Any]], policy: str, alignment: AlignmentConfig
) -> StageResult:
    steps = [entry for entry in history if "loss" in entry]
    evaluation: dict[str, Any] = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
    empty = facts["empty"]
    metrics = {
        **{key: value for key, value in facts.items() if key not in ("step", "max_steps")},
        "steps": facts["step"],
        "loss": alignment.loss,
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "eval_loss": evaluation.get("eval_loss"),
        "eval_accuracy": evaluation.get("eval_rewards/accuracies"),
        # What the reference has on the same pairs: in DFPO a loss depends on the pairs that it is of. None in DPO.
        "last_reference_loss": steps[-1].get(REFERENCE_LOSS),
        "eval_reference_loss": evaluation.get(f"eval_{REFERENCE_LOSS}"),
        "policy_path": policy,
    }
    notes = []
    if facts.get("reference_error") is not None and not facts["reference_known"]:
        notes.append(
            f"the policy margins that logprobs tells differ by up to {facts['reference_error']:.2g} from those of the "
            "training, more than its first loss may, so it computed the reference itself; with logprobs.dtype and "
            "alignment.dtype float32 they come nearer"
        )
    if alignment.held_out and not facts["eval_pairs"]:
        notes.append(f"held_out {alignment.held_out} of {num_pairs} pairs is less than one per worker: no evaluation")
    return StageResult(
        output=AlignmentOutput(policy),
        rows_in=num_pairs,
        rows_out=num_pairs - empty,
        dropped={"response without tokens": empty} if empty else {},
        metrics=metrics,
        notes=notes,
    )


STAGE = Stage(
    name="alignment",
    version=VERSION,
    upstream=("selection",),
    settings=settings,
    run=run,
    load=lambda value: AlignmentOutput(**value),
    shown=(
        "loss",
        "engine",
        "zero_stage",
        "num_workers",
        "worker_start_seconds",
        "train_pairs",
        "prompts_cut",
        "responses_cut",
        "steps",
        "first_loss",
        "last_loss",
        "last_reference_loss",
        "eval_accuracy",
        "policy_path",
    ),
    check=check,
    reads_also=reads_also,
    optional=True,
)

"""The crossfit stage: how hard every pair is for policies that were trained on pairs of other prompts.

crossfit-<hash8>/
  pairs/shard-00017.parquet    see pdray.schema.crossfit_schema; row-aligned with the corpus' pairs
  reference/texts/…            what the untouched policy gives to every text
  policy-1-2/texts/…           what the policy that did not see fold 2 of repeat 1 gives to the texts of that fold

A policy is trained, reads its fold, and is deleted: of every training these log-probabilities stay, by which a run that
was interrupted knows what is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from pdray.config import AlignmentConfig, CrossfitConfig, RunConfig, fingerprinted
from pdray.crossfit.folds import FoldTexts, OtherPairs, Split, splits
from pdray.crossfit.losses import FoldLogps, LossWriter
from pdray.engines.engine import EngineLoader, load_engine
from pdray.engines.shards import TextPass, run_text_pass
from pdray.errors import UserError, check_together, user_errors
from pdray.identity import model_identity
from pdray.models.folder import check_model_folder
from pdray.models.positions import check_positions
from pdray.responses import cut_rule
from pdray.runtime.tasks import outcomes
from pdray.schema import CrossfitOutput
from pdray.shards import Markers, Outcome, ShardedFolder, run_rounds
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath

REFERENCE = "reference"
TRAINING = "training"
FACTS = "training.json"


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the losses: the section, the seed, the untouched policy and how it is trained."""
    crossfit, training = _sections(config)
    return {
        "crossfit": fingerprinted(crossfit) | {"dtype": crossfit.resolved_dtype},
        "training": fingerprinted(training),
        "seed": config.seed,
        "policy_files": model_identity(training.policy),
    }


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse a policy that is not whole or reads fewer tokens, and once the corpus is known too few pairs.

    Raises:
        UserError: with the cure.
    """
    crossfit, training = _sections(config)
    # vLLM has to generate a token after every text.
    spare = 1 if crossfit.engine == "vllm" else 0
    checks: list[Callable[[], object]] = [
        partial(check_model_folder, "alignment.policy", training.policy, "policy"),
        partial(check_positions, "crossfit.max_tokens", crossfit.max_tokens, training.policy, spare),
    ]
    if upstream.corpus is not None:
        expected = upstream.corpus.pairs * (crossfit.folds - 1) // crossfit.folds
        checks.append(partial(_check_enough, expected, training))
    check_together(checks)


def _check_enough(pairs: int, training: AlignmentConfig) -> None:
    if pairs < training.pairs_per_step:
        raise UserError(
            f"all folds but one have {pairs} pairs, but one optimizer step takes alignment.pairs_per_step "
            f"{training.pairs_per_step}; lower it, or leave the crossfit section out"
        )


def run(ctx: StageContext, load: EngineLoader = load_engine) -> StageResult:
    """Train a policy for every fold of every repeat, let it read its fold, and add up the losses.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        load: loads a model to read with; tests bring their own.

    Raises:
        UserError: a training or a pass over texts does not work with these settings.
    """
    corpus, (crossfit, training) = ctx.upstream.corpus, _sections(ctx.config)
    assert corpus is not None, "the pipeline hands over what the stage names as upstream"
    reference = _read(ctx, StoragePath(training.policy), REFERENCE, None, load)
    judged: list[tuple[Split, ShardedFolder]] = []
    trainings: dict[str, dict[str, Any]] = {}
    for split in splits(crossfit.folds, crossfit.repeats, ctx.config.seed):
        target = _target(ctx, split.name)
        if _facts(ctx, split) is None or len(target.done()) < corpus.num_shards:
            _train_and_read(ctx, split, load)
        shutil.rmtree((ctx.folder / split.name / TRAINING).local, ignore_errors=True)
        facts = _facts(ctx, split)
        assert facts is not None, "just written"
        trainings[split.name] = facts
        judged.append((split, target))
    writer = LossWriter(ctx.upstream.shards("corpus"), reference, judged, training.beta, ctx.shards(corpus.num_shards))
    markers = _write(ctx, writer)
    sums = {fact: sum(marker.facts[fact] for marker in markers.values()) for fact in ("finite", "right", "loss")}
    finite = int(sums["finite"])
    unread = corpus.pairs - finite
    return StageResult(
        CrossfitOutput(corpus.num_shards, corpus.pairs),
        corpus.pairs,
        corpus.pairs,
        metrics={
            "folds": crossfit.folds,
            "repeats": crossfit.repeats,
            "trainings": trainings,
            "mean_loss": sums["loss"] / finite if finite else None,
            "below_ln2": sums["right"] / finite if finite else None,
            "shards_digest": writer.target.digest(markers),
        },
        notes=[f"{unread:,} pairs have a text that could not be read, and no loss"] if unread else [],
    )


def _facts(ctx: StageContext, split: Split) -> dict[str, Any] | None:
    """What is told of a training; None where it is gone or damaged, and the training is made again."""
    try:
        found = (ctx.folder / split.name / FACTS).read_json()
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _train_and_read(ctx: StageContext, split: Split, load: EngineLoader) -> None:
    from pdray.alignment.stage import reference_store
    from pdray.alignment.train import train_policy

    training = _sections(ctx.config)[1]
    ctx.progress.note(f"{split.name}: trained on all but fold {split.fold + 1} of {split.folds}, which it then reads")
    folder = ctx.folder / split.name / TRAINING
    folder.make_folder()
    trained = train_policy(
        training,
        ctx.config.seed,
        lambda: _prepare(ctx, split, folder),
        reference_store(ctx.run, training),
        folder.local,
        ctx.progress,
    )
    losses = [entry["loss"] for entry in trained.history if "loss" in entry]
    facts = {"train_pairs": trained.facts["train_pairs"], "steps": trained.facts["step"]}
    (ctx.folder / split.name / FACTS).write_json(facts | {"first_loss": losses[0], "last_loss": losses[-1]})
    rows = FoldTexts(ctx.upstream.shards("corpus"), split)
    _read(ctx, StoragePath(str(trained.policy)), split.name, rows, load)


def _prepare(ctx: StageContext, split: Split, folder: StoragePath) -> Any:
    """The tokenised pairs of the other folds."""
    from pdray.alignment.inputs import ShardEncoder, prepare_input

    corpus, training = ctx.upstream.corpus, _sections(ctx.config)[1]
    assert corpus is not None
    pairs = OtherPairs(ctx.upstream.shards("corpus"), split, corpus.conversational)
    target = ShardedFolder(folder / "input", f"{ctx.fingerprint}/{split.name}", corpus.num_shards)
    rule, weights = cut_rule(training.max_tokens, training.prompt_tokens), dict.fromkeys(corpus.aspects, 1.0)
    found = prepare_input(ShardEncoder(pairs, target, training.policy, rule, ctx.config.seed, weights), ctx.progress)
    _check_enough(found.pairs, training)
    return found


def _read(
    ctx: StageContext, model: StoragePath, name: str, rows: FoldTexts | None, load: EngineLoader
) -> ShardedFolder:
    """Log-probabilities of some texts under a policy, in a folder of that name."""
    crossfit, target = _sections(ctx.config)[0], _target(ctx, name)
    if rows is not None:  # the tokenizer is that of the untouched policy, which has read the whole corpus before
        crossfit = crossfit.model_copy(update={"max_unknown_tokens": 1.0})
    text_pass = TextPass(
        models=[model],
        rule=cut_rule(crossfit.max_tokens, crossfit.prompt_tokens),
        corpus=ctx.upstream.shards("corpus"),
        target=target,
        rows=rows,
        write=FoldLogps(),
        config=crossfit,
        labels=[name],
        load=load,
        output="logps",
    )
    run_text_pass(text_pass, ctx.progress, f"log-probabilities of {name}")
    return target


def _target(ctx: StageContext, name: str) -> ShardedFolder:
    assert ctx.upstream.corpus is not None
    return ShardedFolder(ctx.folder / name, f"{ctx.fingerprint}/{name}", ctx.upstream.corpus.num_shards)


def _write(ctx: StageContext, writer: LossWriter) -> Markers:
    def attempt(missing: Sequence[int]) -> Iterable[Outcome]:
        with ctx.progress.counting_here("losses", len(missing), "shards") as counter, user_errors():
            for outcome in outcomes(writer, missing, counter):
                counter.add(1)
                yield outcome

    return run_rounds(writer.target, attempt, ctx.progress.note)


def _sections(config: RunConfig) -> tuple[CrossfitConfig, AlignmentConfig]:
    """The section, and how its policies are trained."""
    assert config.crossfit is not None and config.alignment is not None, "checked with the config"
    return config.crossfit, config.crossfit.training(config.alignment)


STAGE = Stage(
    name="crossfit",
    version=1,
    upstream=("corpus",),
    settings=settings,
    run=run,
    load=lambda value: CrossfitOutput(**value),
    shown=("folds", "repeats", "mean_loss", "below_ln2"),
    check=check,
    optional=True,
)

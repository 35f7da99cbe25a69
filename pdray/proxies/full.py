"""``train: all``: every weight of a model per aspect, or of one model for all, with TRL under Ray Train."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pdray.config import ProxiesConfig
from pdray.proxies import quality
from pdray.proxies.data import BASELINE, TablesJob, trains_baseline, write_held_out, write_tables
from pdray.proxies.done import SCRATCH, is_done, read_done, read_margins, slug
from pdray.proxies.encoded import EncodeJob
from pdray.proxies.features import RowsOfPairs
from pdray.proxies.pairs import AspectPairs
from pdray.runtime.tasks import run_tasks
from pdray.schema import ProxiesOutput, RewardModel
from pdray.shards import ShardedFolder, run_rounds
from pdray.stages import StageContext
from pdray.tokens import require_known, token_rule

SHARED = "model"
TASK_SECONDS = 3600.0


def models_of(chosen: list[AspectPairs], kind: str) -> dict[str, list[AspectPairs]]:
    """Folder name -> the aspects that its model learns."""
    if kind == "shared":
        return {SHARED: chosen}
    return {slug(one.aspect): [one] for one in chosen}


def train_models(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ProxiesOutput, dict[str, Any]]:
    """Train what is not trained yet; a model that is finished is not trained again.

    Returns:
        the hand-over and the metrics of the stage.

    Raises:
        UserError: a model, an aspect or the cluster does not allow it.
    """
    from pdray.proxies.launch import trainings_at_once

    proxies, models = ctx.config.proxies, models_of(chosen, ctx.config.proxies.kind)
    limit = trainings_at_once(proxies, ctx.progress.note)
    encoded, truncated = _encode(ctx, chosen)
    tables = {
        name: TablesJob(members, encoded, ctx.folder / SCRATCH / name, proxies, ctx.config.seed)
        for name, members in models.items()
    }
    _train(ctx, chosen, {name: job for name, job in tables.items() if not is_done(ctx.folder, name)}, limit)
    done = {name: read_done(ctx.folder, name) for name in models}
    trainings: dict[str, dict[str, Any]] = {name: facts for name, facts in done.items() if facts is not None}
    assert trainings.keys() == models.keys(), "the folder of a trained proxy changed meanwhile"
    aspects = [one.aspect for one in chosen]
    facts = {aspect: found for one in trainings.values() for aspect, found in one["aspects"].items()}
    metrics = {
        "kind": proxies.kind,
        "aspects": {aspect: facts[aspect] for aspect in aspects},
        "agreement": _agreement(ctx, list(models), aspects),
        "trainings": {name: {key: one[key] for key in one if key != "aspects"} for name, one in trainings.items()},
        "without_baseline": _without_baseline(tables, proxies),
        "truncated": truncated,
    }
    (ctx.folder / SCRATCH).delete()
    reward_models = [
        RewardModel(f"{ctx.folder.name}/{name}", [one.aspect for one in members]) for name, members in models.items()
    ]
    return ProxiesOutput(reward_models, {aspect: facts[aspect]["length_penalty"] for aspect in aspects}), metrics


def _agreement(ctx: StageContext, models: list[str], aspects: list[str]) -> dict[str, list[float | None]]:
    """How much the margins of the aspects go together on all held-out pairs; see :mod:`pdray.proxies.quality`."""
    columns: dict[str, np.ndarray] = {}
    for name in models:
        table = read_margins(ctx.folder, name)
        columns |= {aspect: table[aspect].to_numpy() for aspect in table.column_names}
    rows = quality.agreement_rows(np.stack([columns[aspect] for aspect in aspects], axis=1))
    return dict(zip(aspects, rows, strict=True))


def _without_baseline(tables: dict[str, TablesJob], proxies: ProxiesConfig) -> list[str]:
    """The aspects of which no baseline is trained, though one is asked for, because they have too many pairs."""
    if not trains_baseline(proxies):
        return []
    return [one.aspect for job in tables.values() if BASELINE not in job.uses for one in job.members]


def _encode(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ShardedFolder, int]:
    assert ctx.config.proxies.base_model is not None
    corpus = ctx.upstream.shards("corpus")
    target = ShardedFolder(ctx.folder / SCRATCH / "texts", ctx.fingerprint, corpus.num_shards)
    rows = RowsOfPairs.of([one.used for one in chosen])
    job = EncodeJob(ctx.config.proxies.base_model, token_rule(ctx.config.scores), corpus, target, rows)
    markers = run_rounds(target, job.attempt, ctx.progress.note).values()
    truncated, unknown, tokens = (
        sum(marker.facts[fact] for marker in markers) for fact in ("truncated", "unknown", "tokens")
    )
    require_known(job.base_model, unknown, tokens, ctx.config.scores.max_unknown_tokens)
    return target, truncated


def _train(ctx: StageContext, chosen: list[AspectPairs], missing: dict[str, TablesJob], limit: int) -> None:
    from pdray.proxies.launch import fit, lanes_of, side_by_side
    from pdray.proxies.training import TrainingJob

    if not missing:
        return
    written = dict(run_tasks(write_tables, [(job,) for job in missing.values()], TASK_SECONDS))
    held_out = ctx.folder / SCRATCH / "held-out.parquet"
    encoded = next(iter(missing.values())).encoded
    list(run_tasks(write_held_out, [(chosen, encoded, held_out)], TASK_SECONDS))
    jobs = [
        TrainingJob(
            name,
            [one.aspect for one in job.members],
            written[number],
            held_out,
            [len(one.train) for one in job.members],
            sum(job.draws),
            ctx.folder,
            job.proxies,
            job.seed,
        )
        for number, (name, job) in enumerate(missing.items())
    ]
    with ctx.progress.counting("training", total=sum(job.steps for job in jobs), unit="steps") as counter:
        counter.add(sum(job.steps_done() for job in jobs))
        lanes = lanes_of([job.counted_by(counter) for job in jobs], limit)
        side_by_side(partial(fit, note=ctx.progress.note), lanes, len(lanes))

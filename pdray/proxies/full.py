"""``train: all``: every weight of a model per aspect, with TRL under Ray Train."""

from __future__ import annotations

import re
import time
from typing import Any

from pdray.hashing import digest
from pdray.proxies import length
from pdray.proxies.data import TablesJob, write_tables
from pdray.proxies.encoded import EncodeJob
from pdray.proxies.features import RowsOfPairs
from pdray.proxies.pairs import AspectPairs
from pdray.runtime.tasks import run_tasks
from pdray.schema import ProxiesOutput, RewardModel
from pdray.shards import ShardedFolder, run_rounds
from pdray.stages import StageContext
from pdray.storage import StoragePath
from pdray.tokens import require_known, token_rule

SCRATCH, DONE = "work", "trained"
TASK_SECONDS = 3600.0


def slug(aspect: str) -> str:
    """A folder name for an aspect: the name itself where it is plain lower case, else with part of its digest.

    Two aspects never share one, also on file systems that do not tell case apart.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", aspect) and aspect not in (SCRATCH, DONE):
        return aspect
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", aspect.lower()).strip("-")[:48]
    return f"{cleaned or 'aspect'}-{digest(aspect)[:8]}"


def train_models(ctx: StageContext, chosen: list[AspectPairs]) -> tuple[ProxiesOutput, dict[str, Any]]:
    """Train what is not trained yet; an aspect that is finished is not trained again.

    Returns:
        the hand-over and the metrics of the stage.

    Raises:
        UserError: a model, an aspect or the cluster does not allow it.
    """
    from pdray.proxies.launch import trainings_at_once

    limit = trainings_at_once(ctx.config.proxies, ctx.progress.note)
    encoded, truncated = _encode(ctx, chosen)
    missing = [one for one in chosen if read_done(ctx.folder, one.aspect) is None]
    _train(ctx, missing, encoded, limit)
    facts = {one.aspect: read_done(ctx.folder, one.aspect) for one in chosen}
    assert all(fact is not None for fact in facts.values()), "the folder of a trained proxy changed meanwhile"
    (ctx.folder / SCRATCH).delete()
    penalty = length.scoring_penalty(ctx.config.proxies.length_penalty, ctx.config.proxies.length_penalty_form)
    models = [RewardModel(f"{ctx.folder.name}/{slug(aspect)}", [aspect]) for aspect in facts]
    return ProxiesOutput(models, dict.fromkeys(facts, penalty)), {"aspects": facts, "truncated": truncated}


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


def _train(ctx: StageContext, missing: list[AspectPairs], encoded: ShardedFolder, limit: int) -> None:
    from pdray.proxies.launch import fit, side_by_side
    from pdray.proxies.training import TrainingJob

    proxies, seed, scratch = ctx.config.proxies, ctx.config.seed, ctx.folder / SCRATCH
    tables_jobs = [TablesJob(one, encoded, scratch / slug(one.aspect), proxies, seed) for one in missing]
    tables = dict(run_tasks(write_tables, [(job,) for job in tables_jobs], TASK_SECONDS))
    jobs = [
        TrainingJob(
            slug(one.aspect), tables[number], len(one.train), ctx.folder / slug(one.aspect), scratch, proxies, seed
        )
        for number, one in enumerate(missing)
    ]

    def train(job: TrainingJob) -> None:
        start = time.monotonic()
        facts = fit(job)
        write_done(ctx.folder, job.name, {**facts, "seconds": round(time.monotonic() - start, 2)})

    with ctx.progress.counting("training", total=sum(job.steps for job in jobs), unit="steps") as counter:
        side_by_side(train, [job.counted_by(counter) for job in jobs], limit)


def write_done(folder: StoragePath, name: str, facts: dict[str, Any]) -> None:
    """Say that the proxy in ``<folder>/<name>`` is whole; written after it."""
    (folder / DONE / f"{name}.json").write_json({"files": (folder / name).sizes(recursive=True), "facts": facts})


def read_done(folder: StoragePath, aspect: str) -> dict[str, Any] | None:
    """What is known of an aspect's finished proxy; None where it is not finished, or its files are not whole."""
    name = slug(aspect)
    try:
        done = (folder / DONE / f"{name}.json").read_json()
        whole = done["files"] == (folder / name).sizes(recursive=True)
        facts: dict[str, Any] = done["facts"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return facts if whole else None

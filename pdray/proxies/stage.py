"""The proxies stage: κ reward models, trained here or brought by the user."""

from __future__ import annotations

import re
import shutil
import time
from typing import Any

from pdray.config import RunConfig, fingerprinted
from pdray.errors import UserError, user_errors
from pdray.hashing import digest
from pdray.models.folder import check_model_folder
from pdray.models.positions import check_positions
from pdray.stages import StageContext, StageResult
from pdray.store import model_identity

SCRATCH = "work"


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the proxies: their section, the seed, the truncation rule and the files of the models."""
    proxies = config.proxies
    folders = proxies.models or {"base_model": proxies.base_model or ""}
    return {
        "proxies": fingerprinted(proxies),
        "seed": config.seed,
        "keep_prompt": config.scores.keep_prompt,
        "files": {name: model_identity(folder) for name, folder in sorted(folders.items())},
    }


def check(config: RunConfig, manifests: dict[str, dict[str, Any]]) -> None:
    """Refuse model folders that are not whole, and texts that are longer than the base model reads.

    Raises:
        UserError: see :func:`~pdray.models.folder.check_model_folder`; or the base model has fewer positions than
            ``proxies.max_tokens``.
    """
    for aspect, folder in (config.proxies.models or {}).items():
        check_model_folder(f"proxies.models.{aspect}", folder, "reward")
    if config.proxies.base_model is not None:
        check_model_folder("proxies.base_model", config.proxies.base_model, "backbone")
        check_positions("proxies.max_tokens", config.proxies.max_tokens, config.proxies.base_model)


def run(ctx: StageContext) -> StageResult:
    """Train one proxy per aspect into ``<folder>/<slug>``, or take the ready ones, which :func:`check` has seen.

    ``metrics["aspects"][NAME]`` holds ``path``, ``train_pairs``, ``held_out_pairs``, ``held_out_accuracy``,
    ``length_correlation`` (``before`` and ``after`` the remedies), ``length_penalty`` (ρ that scoring has to
    subtract) and ``seconds``.

    Raises:
        UserError: a model, an aspect or the cluster does not allow it; the message holds the cure.
    """
    aspects: list[str] = ctx.manifests["corpus"]["metrics"]["aspects"]
    if ctx.config.proxies.models is not None:
        return _ready(aspects, ctx.config.proxies.models)
    with user_errors():
        return _train(ctx, aspects)


def slug(aspect: str) -> str:
    """A folder name for an aspect: the name itself where it is plain lower case, else with part of its digest.

    Two aspects never share one, also on file systems that do not tell case apart.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", aspect) and aspect != SCRATCH:
        return aspect
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", aspect.lower()).strip("-")[:48]
    return f"{cleaned or 'aspect'}-{digest(aspect)[:8]}"


def _ready(aspects: list[str], models: dict[str, str]) -> StageResult:
    missing = sorted(set(aspects) - set(models))
    if missing:
        raise UserError(
            f"proxies.models has no model for {', '.join(missing)}, which the corpus holds; add it, or set "
            "corpus.aspects to the aspects that have one"
        )
    unused = sorted(set(models) - set(aspects))
    return StageResult(
        rows_in=0,
        rows_out=0,
        metrics={"trained": False, "aspects": {aspect: _ready_metrics(models[aspect]) for aspect in aspects}},
        notes=[f"no pair has the aspect {aspect}; its model is not used" for aspect in unused],
    )


def _ready_metrics(folder: str) -> dict[str, Any]:
    return {
        "path": folder,
        "train_pairs": 0,
        "held_out_pairs": 0,
        "held_out_accuracy": None,
        "length_correlation": {"before": None, "after": None},
        "length_penalty": 0.0,
        "seconds": 0.0,
    }


def _train(ctx: StageContext, aspects: list[str]) -> StageResult:
    from pdray.proxies.launch import fit, side_by_side, trainings_at_once
    from pdray.proxies.training import TrainingJob

    proxies, scratch = ctx.config.proxies, ctx.folder / SCRATCH
    limit = trainings_at_once(proxies)
    prepared = _prepare(ctx, aspects)
    features, feature_metrics = _features(ctx, prepared) if proxies.train == "head" else (None, {})

    def timed_fit(job: TrainingJob) -> dict[str, Any]:
        start = time.monotonic()
        return {**fit(job), "seconds": round(time.monotonic() - start, 2)}

    jobs = [
        TrainingJob(
            slug(aspect), one, features, ctx.folder / slug(aspect), scratch / "train", proxies, ctx.config.seed, None
        )
        for aspect, one in zip(aspects, prepared, strict=True)
    ]
    with ctx.progress.counting("training", total=sum(job.steps for job in jobs), unit="steps") as counter:
        facts = side_by_side(timed_fit, [job.counted_by(counter) for job in jobs], limit)
    shutil.rmtree(scratch)
    return _result(ctx, jobs, aspects, facts, feature_metrics)


def _prepare(ctx: StageContext, aspects: list[str]) -> list[Any]:
    import ray

    from pdray.proxies.data import AspectJob, prepare_aspect

    jobs = [
        AspectJob(
            aspect=aspect,
            pairs=ctx.inputs["corpus"] / "pairs",
            folder=ctx.folder / SCRATCH / slug(aspect),
            proxies=ctx.config.proxies,
            keep_prompt=ctx.config.scores.keep_prompt,
            max_unknown_tokens=ctx.config.scores.max_unknown_tokens,
            seed=ctx.config.seed,
        )
        for aspect in aspects
    ]
    task = ray.remote(num_cpus=1)(prepare_aspect)
    rows = ctx.manifests["corpus"].get("rows_out")
    with ctx.progress.counting("encoding", total=rows, unit="pairs") as counter:
        pending = [task.remote(job, counter) for job in jobs]
        return [ray.get(one) for one in pending]  # one by one, so that the first aspect's error is the one reported


def _features(ctx: StageContext, prepared: list[Any]) -> tuple[Any, dict[str, Any]]:
    import ray

    from pdray.proxies.features import compute_all, index_texts
    from pdray.runtime import living_nodes, worker_places

    proxies, start = ctx.config.proxies, time.monotonic()
    tables = [table for one in prepared for table in one.tables.values()]
    features = ray.get(ray.remote(num_cpus=1)(index_texts).remote(tables, ctx.folder / SCRATCH / "features"))
    with ctx.progress.counting("features", total=features.num_texts, unit="texts") as counter:
        writer = {
            "base_model": proxies.base_model,
            "seed": ctx.config.seed,
            "num_threads": max(1, int(proxies.cpus_per_worker)),
            "use_gpu": proxies.gpus_per_worker > 0,
            "counter": counter,
        }
        resources = {"num_cpus": proxies.cpus_per_worker, "num_gpus": proxies.gpus_per_worker}
        places = worker_places(living_nodes(), proxies.cpus_per_worker, proxies.gpus_per_worker)
        compute_all(features, writer, places, resources)
    seconds = round(time.monotonic() - start, 2)
    return features, {"texts": features.num_texts, "references": features.num_references, "seconds": seconds}


def _result(
    ctx: StageContext, jobs: list[Any], aspects: list[str], facts: list[dict[str, Any]], features: dict[str, Any]
) -> StageResult:
    from pdray.proxies.length import scoring_penalty

    proxies = ctx.config.proxies
    per_aspect = {
        aspect: {
            "path": str(job.folder),
            "train_pairs": job.prepared.train_pairs,
            "held_out_pairs": job.prepared.held_out_pairs,
            "length_penalty": scoring_penalty(proxies.length_penalty, proxies.length_penalty_form),
            **fact,
        }
        for aspect, job, fact in zip(aspects, jobs, facts, strict=True)
    }
    rows_in = sum(job.prepared.pairs for job in jobs)
    rows_out = sum(job.prepared.used for job in jobs)
    truncated = sum(job.prepared.truncated for job in jobs)
    return StageResult(
        rows_in=rows_in,
        rows_out=rows_out,
        dropped={"left out by share and length balance": rows_in - rows_out},
        metrics={"trained": True, "aspects": per_aspect, "truncated": truncated, "features": features},
        notes=_notes(ctx.config, truncated, rows_out),
    )


def _notes(config: RunConfig, truncated: int, used: int) -> list[str]:
    notes = []
    if truncated:
        notes.append(f"{truncated:,} of {used:,} pairs are longer than proxies.max_tokens {config.proxies.max_tokens}")
    if config.proxies.max_tokens != config.scores.max_tokens:
        notes.append(
            f"the proxies read {config.proxies.max_tokens} tokens in training and {config.scores.max_tokens} in "
            "scoring; set proxies.max_tokens and scores.max_tokens alike"
        )
    return notes

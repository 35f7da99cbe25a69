"""The scores stage: every pair gets the rewards of chosen and rejected from the proxies of the other aspects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pdray.config import RunConfig, ScoresConfig, fingerprinted
from pdray.errors import user_errors
from pdray.models.positions import check_positions
from pdray.runtime import living_nodes
from pdray.scoring.actor import ScoringActor, count_non_finite
from pdray.scoring.encode import TEXT_COLUMNS, PairTokenizer
from pdray.scoring.engine import EngineLoader, EngineOptions, load_engine
from pdray.scoring.meter import start_meter, stop_meter
from pdray.scoring.parity import measure_parity, require_parity
from pdray.scoring.pieces import MAX_BLOCKS, PieceEncoder, cut_pieces, rows_per_piece
from pdray.scoring.plan import ScoringPlan
from pdray.scoring.proxies import ProxySet, find_proxies
from pdray.scoring.resources import Placement, place
from pdray.stages import StageContext, StageResult
from pdray.survey import IdSurvey, parquet_files, read_places, survey_ids

MIN_FILE_ROWS = 100_000


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the scores; how many actors compute them does not."""
    return fingerprinted(config.scores)


def check(config: RunConfig, manifests: dict[str, dict[str, Any]]) -> None:
    """Refuse texts that are longer than a proxy reads, before proxies are trained.

    Raises:
        UserError: a model has fewer positions than ``scores.max_tokens``.
    """
    folders = (config.proxies.models or {"": config.proxies.base_model or ""}).values()
    for folder in folders:
        check_positions("scores.max_tokens", config.scores.max_tokens, folder)


def run(ctx: StageContext, load: EngineLoader = load_engine) -> StageResult:
    """Score the corpus.

    Reads ``pairs/*.parquet`` of the corpus and the proxies that the manifest of the proxies stage names. Writes
    ``scores/*.parquet``: ``pair_id``, ``aspect``, ``conflict`` where the corpus has it, ``len_chosen`` and
    ``len_rejected`` int32 (tokens), ``truncated`` bool, ``reward_chosen.<aspect>`` and ``reward_rejected.<aspect>``
    float32, null for the pair's own aspect, which PD does not read. Writes ``parity.parquet`` before that.

    ``pairs_per_second`` is over the pass, from the first batch that enters an engine to the last that leaves.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        load: loads a reward model; tests bring their own.

    Raises:
        UserError: the proxies, the cluster or the engine do not fit the config, or the engine's rewards are not
            those of Transformers.
    """
    scores = ctx.config.scores
    proxies = find_proxies(ctx.manifests["proxies"]["metrics"]["aspects"], scores.max_tokens)
    plan = make_plan(scores, proxies, place(living_nodes(), scores), load)
    corpus = ctx.inputs["corpus"] / "pairs"
    survey = survey_ids(corpus, scores.parity_rows)
    max_error = _check_parity(ctx, survey, plan)
    rates = _score(ctx, corpus, survey.rows, plan)
    counts = _check_output(ctx.folder / "scores", survey)
    metrics = {
        "engine": scores.engine,
        "rows": survey.rows,
        "num_actors": plan.placement.num_actors,
        "max_parity_error": max_error,
        "parity_rows": len(survey.sample),
        **rates,
        **counts,
    }
    return StageResult(survey.rows, survey.rows, metrics=metrics, notes=_notes(ctx.config, metrics))


def make_plan(
    scores: ScoresConfig, proxies: ProxySet, placement: Placement, load: EngineLoader = load_engine
) -> ScoringPlan:
    """What the workers need, from the config and what was found."""
    options = EngineOptions(
        engine=scores.engine,
        dtype=scores.dtype,
        max_tokens=scores.max_tokens,
        threads=placement.threads,
        use_gpu=placement.actor_gpus > 0,
        memory_share=scores.memory_share,
        cpu_cache_bytes=int(scores.cpu_cache_gib * 2**30),
    )
    tokenizer = PairTokenizer(proxies.tokenizers, scores.max_tokens, scores.keep_prompt)
    return ScoringPlan(proxies, tokenizer, options, load, placement, scores.max_unknown_tokens)


def _check_parity(ctx: StageContext, survey: IdSurvey, plan: ScoringPlan) -> float:
    pairs = read_places(survey.sample, ["pair_id", "aspect", *TEXT_COLUMNS])
    with ctx.progress.counting("parity check", total=len(plan.proxies.proxies), unit="proxies") as counter:
        parity = measure_parity(pairs, plan, counter)
    pq.write_table(parity, ctx.folder / "parity.parquet")
    return require_parity(parity, ctx.config.scores.parity_tolerance, plan.options.engine, plan.options.dtype)


def _score(ctx: StageContext, corpus: Path, rows: int, plan: ScoringPlan) -> dict[str, float | None]:
    import ray.data

    meter = start_meter()
    batch_size, placement = ctx.config.scores.batch_size, plan.placement
    pieces = cut_pieces(corpus, rows_per_piece(rows, batch_size, placement.num_actors))
    with user_errors(), ctx.progress.counting("scoring", total=rows, unit="pairs") as counter:
        encoded = ray.data.from_items(pieces, override_num_blocks=min(len(pieces), MAX_BLOCKS)).map_batches(
            PieceEncoder(plan.tokenizer),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=placement.task_cpus,
            compute=ray.data.TaskPoolStrategy(size=placement.num_tasks),
        )
        scored = encoded.map_batches(
            ScoringActor,
            fn_constructor_args=(plan, meter, counter),
            batch_format="pyarrow",
            batch_size=batch_size,
            num_cpus=placement.actor_cpus,
            num_gpus=placement.actor_gpus or None,
            compute=ray.data.ActorPoolStrategy(size=placement.num_actors),
        )
        scored.write_parquet(
            str(ctx.folder / "scores"),
            min_rows_per_file=MIN_FILE_ROWS,
            ray_remote_args={"num_cpus": placement.task_cpus},
        )
    return stop_meter(meter)


def _check_output(folder: Path, survey: IdSurvey) -> dict[str, int]:
    import ray

    written = survey_ids(folder)
    if (written.rows, written.ids_sum) != (survey.rows, survey.ids_sum):
        raise RuntimeError(f"{folder} holds {written.rows} rows for {survey.rows} pairs, or other pair_ids; run again")
    counts = ray.get([ray.remote(_count_file).remote(str(path)) for path in parquet_files(folder)])
    return {name: sum(count[name] for count in counts) for name in ("truncated", "non_finite")}


def _count_file(path: str) -> dict[str, int]:
    table = pq.read_table(path)
    return {"truncated": table["truncated"].to_pylist().count(True), "non_finite": count_non_finite(table)}


def _notes(config: RunConfig, metrics: dict[str, Any]) -> list[str]:
    notes = []
    if metrics["truncated"]:
        notes.append(
            f"{metrics['truncated']:,} pairs were cut to scores.max_tokens = {config.scores.max_tokens}: "
            f"of the prompt its {config.scores.keep_prompt} was kept, of a response its beginning"
        )
    if metrics["non_finite"]:
        notes.append(f"{metrics['non_finite']:,} rewards are NaN or infinite; selection never keeps such a pair")
    if metrics["pairs_per_second"] is None:
        notes.append("the rates are unknown because the process that measured them was lost; the scores are whole")
    num_gpus = sum(node.get("GPU", 0) for node in living_nodes())
    if num_gpus and not config.scores.gpus_per_actor:
        notes.append(f"the cluster has {num_gpus:g} GPUs that scoring left idle; set scores.gpus_per_actor to use them")
    return notes

"""The evaluation stage: how often the trained policy prefers the better response of pairs that it has not seen.

evaluation-<hash8>/pairs.parquet  the pairs that were read: prompt_hash, aspect, log-probabilities, margin, right
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import AlignmentConfig, EvaluationConfig, RunConfig, fingerprinted
from pdray.errors import UserError, user_errors
from pdray.evaluation.accuracy import estimate, implicit_margins, is_right
from pdray.evaluation.pairs import read_pairs
from pdray.hashing import hash64
from pdray.identity import file_identity
from pdray.responses import CutRule, cut_rule
from pdray.runtime.tasks import run_tasks
from pdray.schema import EvaluationOutput
from pdray.stages import Stage, StageContext, StageResult, Upstream

PAIRS = "pairs.parquet"
TASK_SECONDS = 6 * 3600.0
PAIRS_PER_TASK = 512  # on every machine: what is padded together decides the last digits
SIDES = ("chosen", "rejected")


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the figures: the section, the seed and the bytes of the pairs; all else is the alignment's."""
    evaluation, _ = _sections(config)
    return {**fingerprinted(evaluation), "seed": config.seed, "pairs_file": file_identity(evaluation.pairs)}


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse held-out pairs that cannot be read.

    Raises:
        UserError: with the cure.
    """
    del upstream
    evaluation, _ = _sections(config)
    read_pairs(evaluation.pairs, evaluation.max_pairs, config.seed)


def run(ctx: StageContext) -> StageResult:
    """Compute what policy and reference give to both responses of every pair, and count the pairs that are right.

    A pair is right where M_θ is above 0 (docs/method.md): policy and reference read what alignment lets them read.

    Raises:
        UserError: the pairs cannot be read, or the tokenizer does not take them.
    """
    evaluation, alignment = _sections(ctx.config)
    assert ctx.upstream.alignment is not None, "evaluation reads the alignment"
    pairs, rows = read_pairs(evaluation.pairs, evaluation.max_pairs, ctx.config.seed)
    policy = str(ctx.run.local / ctx.upstream.alignment.policy)
    rule = cut_rule(alignment.max_tokens, alignment.prompt_tokens)
    logps = _log_probabilities(ctx, pairs, [policy, alignment.policy], rule)
    margins = implicit_margins(logps[:, 0], logps[:, 1])
    table = pa.table(
        {
            "prompt_hash": _prompt_hashes(pairs["prompt"], ctx.config.seed),
            "aspect": pairs["aspect"],
            **{
                f"{model}.{side}": logps[:, row, column].astype(np.float32)
                for row, model in enumerate(("policy", "reference"))
                for column, side in enumerate(SIDES)
            },
            "margin": margins,
            "right": is_right(margins),
        }
    )
    (ctx.folder / PAIRS).write_table(table)
    finite = table.filter(pa.array(np.isfinite(margins)))
    if not len(finite):
        raise UserError("no held-out pair has finite log-probabilities; look at alignment.policy and alignment.dtype")
    return StageResult(
        output=EvaluationOutput(len(finite)),
        rows_in=rows,
        rows_out=len(finite),
        dropped={
            "beyond evaluation.max_pairs, or without a text": rows - len(pairs),
            "log-probabilities not finite": len(pairs) - len(finite),
        },
        metrics={"accuracy": figures(finite, ctx.config.seed), "aspects": _by_aspect(finite, ctx.config.seed)},
    )


def figures(pairs: pa.Table, seed: int) -> dict[str, float]:
    """Accuracy on some pairs with its 95% interval, and how many they are."""
    found = estimate(pairs["right"].to_numpy(), pairs["prompt_hash"].to_numpy(), seed)
    return {name: round(value, 6) for name, value in asdict(found).items()}


def _by_aspect(pairs: pa.Table, seed: int) -> dict[str, dict[str, float]]:
    names = sorted(name for name in pairs["aspect"].unique().to_pylist() if name is not None)
    return {name: figures(pairs.filter(pc.equal(pairs["aspect"], name)), seed) for name in names}


def _prompt_hashes(prompts: pa.ChunkedArray, seed: int) -> np.ndarray:
    return hash64([json.dumps(prompt, ensure_ascii=False) for prompt in prompts.to_pylist()], f"{seed}/prompts")


def _log_probabilities(ctx: StageContext, pairs: pa.Table, models: list[str], rule: CutRule) -> np.ndarray:
    """(n, 2, 2) float32: by pair, by policy or reference, of chosen and rejected; nats."""
    gpus = _sections(ctx.config)[0].gpus
    starts = range(0, len(pairs), PAIRS_PER_TASK)
    jobs = [(pairs.slice(start, PAIRS_PER_TASK), models, rule, gpus) for start in starts]
    found: dict[int, np.ndarray] = {}
    with ctx.progress.counting("held-out pairs", total=len(pairs), unit="pairs") as counter, user_errors():
        for number, logps in run_tasks(log_probabilities, jobs, TASK_SECONDS, gpus):
            found[number] = logps
            counter.add(len(logps))
    return np.concatenate([found[number] for number in range(len(jobs))])


def log_probabilities(pairs: pa.Table, models: list[str], rule: CutRule, num_gpus: float) -> np.ndarray:
    """What each of some language models gives to both responses of some pairs, (n, models, 2) float32, nats.

    Raises:
        UserError: a tokenizer that does not take them, or weights that are not whole.
    """
    from pdray.engines.engine import EngineOptions
    from pdray.engines.response_text import ResponseEncoder
    from pdray.engines.transformers_logps import TransformersLogps
    from pdray.models.loading import load_tokenizer_files

    encoder = ResponseEncoder(load_tokenizer_files(models[0]), rule)
    prompts = pairs["prompt"].to_pylist()
    encoded = [encoder.encode(prompts, pairs[side].to_pylist()).ids for side in SIDES]
    logps = np.empty((len(pairs), len(models), 2), np.float32)
    for row, model in enumerate(models):
        engine = TransformersLogps(model, EngineOptions("transformers", "float32", rule.max_tokens, num_gpus=num_gpus))
        for column, texts in enumerate(encoded):
            logps[:, row, column] = engine.score(texts)[:, 0]
    return logps


def _sections(config: RunConfig) -> tuple[EvaluationConfig, AlignmentConfig]:
    assert config.evaluation is not None and config.alignment is not None, "checked with the config"
    return config.evaluation, config.alignment


STAGE = Stage(
    name="evaluation",
    version=1,
    upstream=("alignment",),
    settings=settings,
    run=run,
    load=lambda value: EvaluationOutput(**value),
    shown=("accuracy", "aspects"),
    check=check,
    optional=True,
)

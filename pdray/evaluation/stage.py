"""The evaluation stage: the trained policy judged by pairs that it has not seen, and by its answers to prompts.

evaluation-<hash8>/
  pairs.parquet         the pairs that were read: prompt_hash, aspect, log-probabilities, margin, right
  comparisons.parquet   where answers are generated; see :class:`pdray.evaluation.comparison.Comparison`

What took long lies beside it, see :mod:`pdray.evaluation.parts`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import AlignmentConfig, EvaluationConfig, RunConfig, fingerprinted
from pdray.engines.vllm_generation import GeneratorLoader, load_generator
from pdray.errors import UserError, check_together, user_errors
from pdray.evaluation.accuracy import estimate, implicit_margins, is_right
from pdray.evaluation.baseline import baseline_folder
from pdray.evaluation.comparison import BASELINE, POLICY, compare
from pdray.evaluation.endpoint import read_key
from pdray.evaluation.pairs import read_pairs
from pdray.evaluation.parts import key_of, shared_parts
from pdray.evaluation.prompts import read_prompts
from pdray.hashing import hash64
from pdray.identity import file_identity, model_identity
from pdray.models.apart import is_apart
from pdray.models.folder import check_model_folder, num_labels, read_config
from pdray.models.place import on_this_node
from pdray.models.positions import check_positions
from pdray.responses import CutRule, cut_rule
from pdray.runtime.tasks import run_tasks
from pdray.schema import EvaluationOutput
from pdray.stages import Stage, StageContext, StageResult, Upstream

PAIRS, COMPARISONS = "pairs.parquet", "comparisons.parquet"
TASK_SECONDS = 6 * 3600.0
PAIRS_PER_TASK = 512  # on every machine: what is padded together decides the last digits
SIDES = ("chosen", "rejected")


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the figures: the section, the seed and the bytes of what it names; all else is the alignment's."""
    evaluation, alignment = _sections(config)
    found = {**fingerprinted(evaluation), "seed": config.seed, "pairs_file": file_identity(evaluation.pairs)}
    if generation := evaluation.generation:
        found["generation"] |= {
            "dtype": generation.resolved_dtype,
            "prompts_file": generation.prompts and file_identity(generation.prompts),
            "baseline_files": model_identity(baseline_folder(generation, alignment)),
        }
    for name, judge in evaluation.reward_models.items():
        found["reward_models"][name] |= {"files": model_identity(judge.path)}
    return found


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse pairs and prompts that cannot be read, models that are not whole or too short, and a key that is not set.

    Raises:
        UserError: with the cure.
    """
    del upstream
    evaluation, _ = _sections(config)
    checks: list[Callable[[], object]] = [partial(_check_texts, config)]
    if evaluation.generation is not None:
        checks.append(partial(_check_policies, config))
    for name, judge in evaluation.reward_models.items():
        setting = f"evaluation.reward_models.{name}"
        checks.append(partial(_check_reward_model, f"{setting}.path", judge.path))
        checks.append(partial(check_positions, f"{setting}.max_tokens", judge.max_tokens, judge.path))
    checks += [partial(read_key, name, endpoint) for name, endpoint in evaluation.endpoints.items()]
    check_together(checks)


def _check_texts(config: RunConfig) -> None:
    evaluation, _ = _sections(config)
    pairs, _ = read_pairs(evaluation.pairs, evaluation.max_pairs, config.seed)
    if evaluation.generation is not None:
        read_prompts(evaluation, pairs, config.seed)


def _check_policies(config: RunConfig) -> None:
    evaluation, alignment = _sections(config)
    generation = evaluation.generation
    assert generation is not None
    baseline = baseline_folder(generation, alignment)
    tokens = generation.prompt_tokens + generation.max_tokens
    checks = [
        partial(check_positions, "evaluation.generation.prompt_tokens and max_tokens together", tokens, folder)
        for folder in dict.fromkeys([alignment.policy, baseline])
    ]
    if baseline != alignment.policy:
        checks.append(partial(check_model_folder, "evaluation.generation.baseline", baseline, "policy"))
    check_together(checks)


def _check_reward_model(setting: str, folder: str) -> None:
    if is_apart(on_this_node(folder)):  # an encoder that the proxies stage wrote, with its head beside it
        return
    labels = num_labels(read_config(f"{setting} is {folder}", folder))
    check_model_folder(setting, folder, "reward", label=max(0, labels - 1))


def run(ctx: StageContext, load: GeneratorLoader = load_generator) -> StageResult:
    """Judge the policy by held-out pairs, and by its answers where the config asks for some.

    A pair is right where M_θ is above 0 (docs/method.md): policy and reference read what alignment lets them read.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        load: loads a policy that generates; tests bring their own.

    Raises:
        UserError: the pairs cannot be read, the tokenizer does not take them, or an engine or a judge refuses.
    """
    evaluation, alignment = _sections(ctx.config)
    assert ctx.upstream.alignment is not None, "evaluation reads the alignment"
    pairs, left_out = read_pairs(evaluation.pairs, evaluation.max_pairs, ctx.config.seed)
    policy = str(ctx.run.local / ctx.upstream.alignment.policy)
    rule = cut_rule(alignment.max_tokens, alignment.prompt_tokens)
    logps, computed = _log_probabilities(ctx, pairs, [policy, alignment.policy], rule)
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
    metrics: dict[str, Any] = {
        "accuracy": figures(finite, ctx.config.seed),
        "aspects": _by_aspect(finite, ctx.config.seed),
        "computed": computed,
    }
    notes: list[str] = []
    if evaluation.generation is not None:
        folders = {POLICY: policy, BASELINE: baseline_folder(evaluation.generation, alignment)}
        comparison = compare(ctx, read_prompts(evaluation, pairs, ctx.config.seed), folders, load)
        (ctx.folder / COMPARISONS).write_table(comparison.table)
        metrics, notes = metrics | comparison.metrics, comparison.notes
    return StageResult(
        output=EvaluationOutput(len(finite)),
        rows_in=len(pairs) + sum(left_out.values()),
        rows_out=len(finite),
        dropped=left_out | {"log-probabilities not finite": len(pairs) - len(finite)},
        metrics=metrics,
        notes=notes,
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


def _log_probabilities(ctx: StageContext, pairs: pa.Table, models: list[str], rule: CutRule) -> tuple[np.ndarray, int]:
    """(n, 2, 2) float32: by pair, by policy or reference, of chosen and rejected; nats. And how many were not there."""
    gpus, store = _sections(ctx.config)[0].gpus, shared_parts(ctx.run, "held-out")
    identities = [model_identity(model) for model in models]
    parts = [pairs.slice(start, PAIRS_PER_TASK) for start in range(0, len(pairs), PAIRS_PER_TASK)]
    keys = [key_of(identities, asdict(rule), part.select([*SIDES, "prompt"]).to_pylist()) for part in parts]
    missing = [place for place, key in enumerate(keys) if store.read(key) is None]
    jobs = [(parts[place], models, rule, gpus) for place in missing]
    total = sum(len(parts[place]) for place in missing)
    with ctx.progress.counting_here("held-out pairs", total, "pairs") as counter, user_errors():
        for number, logps in run_tasks(log_probabilities, jobs, TASK_SECONDS, gpus):
            flat = pa.array(logps.reshape(len(logps), -1).tolist(), pa.list_(pa.float32()))
            store.write(keys[missing[number]], pa.table({"logps": flat}))
            counter.add(len(logps))
    found = [
        np.asarray(table["logps"].to_pylist(), np.float32) for key in keys if (table := store.read(key)) is not None
    ]
    return np.concatenate(found).reshape(len(pairs), len(models), 2), total


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
        del engine
        gc.collect()  # a model that is split over GPUs refers to itself, and a task has room for one
    return logps


def _sections(config: RunConfig) -> tuple[EvaluationConfig, AlignmentConfig]:
    assert config.evaluation is not None and config.alignment is not None, "checked with the config"
    return config.evaluation, config.alignment


STAGE = Stage(
    name="evaluation",
    version=3,
    upstream=("alignment",),
    settings=settings,
    run=run,
    load=lambda value: EvaluationOutput(**value),
    shown=("accuracy", "aspects", "answers", "win_rates"),
    check=check,
    optional=True,
)

"""Reward models as judges: the rewards of both answers to every prompt, in Transformers, a Ray task a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import RewardJudgeConfig
from pdray.errors import user_errors
from pdray.evaluation.parts import key_of, shared_parts
from pdray.evaluation.prompts import as_conversation
from pdray.identity import model_identity
from pdray.models.place import on_this_node
from pdray.runtime.tasks import run_tasks
from pdray.stages import StageContext
from pdray.tokens import TokenRule

TEXTS_PER_TASK = 256  # on every machine: what is padded together decides the last digits
TASK_SECONDS = 6 * 3600.0
VERSION = 1  # raised when the same texts would get other rewards


def token_rule(judge: RewardJudgeConfig) -> TokenRule:
    """How a judge's texts are cut."""
    return TokenRule(judge.max_tokens, judge.prompt_tokens or judge.max_tokens // 2)


def rewards(
    ctx: StageContext, name: str, judge: RewardJudgeConfig, prompts: list[Any], answers: list[str]
) -> np.ndarray:
    """What a judge gives to one policy's answers; rewards that an earlier evaluation of the run left are taken.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        name: of the judge.
        judge: its settings.
        prompts: n, all strings or all lists of messages.
        answers: n.

    Returns:
        (n,) float64, the mean over the model's labels.

    Raises:
        UserError: the model or its tokenizer does not take them.
    """
    evaluation = ctx.config.evaluation
    assert evaluation is not None, "checked with the config"
    store, model = shared_parts(ctx.run, "rewards"), model_identity(judge.path)
    rule, conversational = token_rule(judge), not isinstance(prompts[0], str)
    texts = list(zip(prompts, as_conversation(answers, conversational), strict=True))
    parts = [texts[start : start + TEXTS_PER_TASK] for start in range(0, len(texts), TEXTS_PER_TASK)]
    settings = [VERSION, model, judge.dtype, rule.max_tokens, rule.prompt_tokens]
    keys = [key_of(settings, part) for part in parts]
    missing = [place for place, key in enumerate(keys) if store.read(key) is None]
    jobs = [(parts[place], judge.path, rule, judge.dtype, evaluation.gpus) for place in missing]
    with ctx.progress.counting_here(f"rewards by {name}", len(missing), "parts") as counter, user_errors():
        for number, found in run_tasks(rewards_of, jobs, TASK_SECONDS, evaluation.gpus):
            store.write(keys[missing[number]], pa.table({"reward": found}))
            counter.add(1)
    tables = [store.read(key) for key in keys]
    return np.concatenate([table["reward"].to_numpy() for table in tables if table is not None])


def rewards_of(texts: list[tuple[Any, Any]], folder: str, rule: TokenRule, dtype: str, num_gpus: float) -> np.ndarray:
    """(n,) float64 rewards of some prompts with their answers. Runs in a Ray task."""
    from pdray.engines.encode import ModelEncoder
    from pdray.engines.engine import EngineOptions, load_engine

    table = pa.table({"prompt": [prompt for prompt, _ in texts], "response": [answer for _, answer in texts]})
    folder = on_this_node(folder)
    encoded = ModelEncoder([Path(folder)], rule).encode(table)
    options = EngineOptions(
        "transformers", dtype, rule.max_tokens, num_gpus=num_gpus, section="evaluation.reward_models"
    )
    found: np.ndarray = load_engine(folder, options).score(encoded.ids[0]).astype(np.float64).mean(axis=1)
    return found

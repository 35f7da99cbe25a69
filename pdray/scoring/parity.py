"""The comparison that comes before the stage: does the engine give the rewards that Transformers gives?"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.errors import UserError, user_errors
from pdray.scoring.encode import token_lists
from pdray.scoring.engine import EngineOptions, Rewards, TokenIds, limit_threads
from pdray.scoring.plan import ScoringPlan
from pdray.scoring.proxies import Proxy


def measure_parity(pairs: pa.Table, plan: ScoringPlan, counter: Any = None) -> pa.Table:
    """Score pairs with the engine and with Transformers, in one Ray task with the resources of a scoring actor.

    The reference is Transformers in float32, one text at a time, so that it shares neither batching nor padding
    with any engine.

    Args:
        pairs: the sampled rows of the corpus, with text; every proxy is compared on every row.
        plan: the stage, resolved.
        counter: the user's progress, counted in proxies; or None.

    Returns:
        a row per text and aspect: ``pair_id``, ``response`` (chosen or rejected), ``aspect``, ``reward``,
        ``reference`` float32 and ``error`` float32, their absolute difference.

    Raises:
        UserError: the engine cannot be loaded, the pairs cannot be encoded, or a tokenizer does not know their words.
    """
    import ray

    # A process of its own gives memory back before the pass: vLLM's engines do not.
    task = ray.remote(num_cpus=plan.placement.actor_cpus, num_gpus=plan.placement.actor_gpus, max_calls=1)(_compare)
    with user_errors():
        table: pa.Table = ray.get(task.remote(pairs, plan, counter))
    return table


def require_parity(parity: pa.Table, tolerance: float, engine: str, dtype: str) -> float:
    """The largest error of a comparison, where it is within the tolerance.

    Raises:
        UserError: it is not; names the worst text, both values, the tolerance and the cure.
    """
    row = int(np.argmax(parity["error"].to_numpy()))
    worst = parity.slice(row, 1).to_pylist()[0]
    cure = _cure(engine, dtype)
    if worst["error"] <= tolerance:
        return float(worst["error"])
    raise UserError(
        f"{engine} in {dtype} and Transformers disagree: the {worst['response']} response of pair {worst['pair_id']} "
        f"gets {worst['reward']:.6g} for {worst['aspect']} from {engine} and {worst['reference']:.6g} from "
        f"Transformers in float32, {worst['error']:.3g} apart where scores.parity_tolerance is {tolerance:g}; {cure}"
    )


def _cure(engine: str, dtype: str) -> str:
    if dtype != "float32":
        return "raise scores.parity_tolerance if that is rounding, or set scores.dtype to float32"
    if engine != "transformers":
        return "set scores.engine to transformers, or raise scores.parity_tolerance if you accept it"
    return "raise scores.parity_tolerance if you accept it"


def _compare(pairs: pa.Table, plan: ScoringPlan, counter: Any) -> pa.Table:
    limit_threads(plan.options.threads)
    encoded = plan.tokenizer(pairs)
    plan.tokenizer.check_unknown(encoded, plan.max_unknown_tokens)
    proxies = plan.proxies.proxies
    ids = [token_lists(encoded, index) for index in range(len(plan.proxies.tokenizers))]
    # References first, one after another: they must not stand in memory beside the engines.
    references = [_reference(proxy.path, ids[proxy.tokenizer], plan.options) for proxy in proxies]
    engines, tables = [], []
    for proxy, reference in zip(proxies, references, strict=True):
        # Kept alive to the end: deleting one vLLM engine tears down what the others of the process stand on.
        engines.append(plan.load_proxy(proxy))
        rewards = engines[-1].score(ids[proxy.tokenizer])
        tables.append(_table(pairs["pair_id"], proxy, rewards, reference))
        if counter is not None:
            counter.add(1)
    return pa.concat_tables(tables)


def _reference(path: str, token_ids: TokenIds, options: EngineOptions) -> Rewards:
    from pdray.scoring.transformers_engine import TransformersEngine

    engine = TransformersEngine(path, replace(options, dtype="float32"), batch_tokens=1)
    rewards = engine.score(token_ids)
    del engine
    gc.collect()
    if options.use_gpu:
        import torch

        torch.cuda.empty_cache()
    return rewards


def _table(pair_ids: pa.ChunkedArray, proxy: Proxy, rewards: Rewards, reference: Rewards) -> pa.Table:
    texts = np.repeat(np.arange(len(pair_ids)), 2)
    parts = []
    for label, aspect in enumerate(proxy.aspects):
        columns = {
            "pair_id": pc.take(pair_ids, pa.array(texts)),
            "response": pa.array(["chosen", "rejected"] * len(pair_ids)),
            "aspect": pa.array([aspect] * len(texts)),
            "reward": pa.array(rewards[:, label], pa.float32()),
            "reference": pa.array(reference[:, label], pa.float32()),
            "error": pa.array(_error(rewards[:, label], reference[:, label]), pa.float32()),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _error(rewards: Rewards, reference: Rewards) -> Rewards:
    same = (rewards == reference) | (np.isnan(rewards) & np.isnan(reference))
    with np.errstate(invalid="ignore"):
        error = np.abs(rewards - reference)
    return np.where(same, 0, np.where(np.isfinite(error), error, np.inf)).astype(np.float32)

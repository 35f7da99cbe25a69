"""The actor of the scoring pass: one engine per proxy, token ids in, rewards out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.scoring.encode import token_lists
from pdray.scoring.engine import RewardEngine
from pdray.scoring.plan import ScoringPlan
from pdray.scoring.proxies import Proxy

NUMBER_COLUMNS = ("pair_id", "aspect", "conflict", "len_chosen", "len_rejected", "truncated")


class ScoringActor:
    """Holds every proxy of the run and scores batches of encoded pairs.

    Args:
        plan: the stage, resolved.
        meter: actor handle of :class:`pdray.scoring.meter.Meter`, or None.
        counter: the user's progress, or None.
    """

    def __init__(self, plan: ScoringPlan, meter: Any = None, counter: Any = None) -> None:
        self._aspects = plan.proxies.aspects
        self._meter, self._counter = meter, counter
        self._engines = [(proxy, plan.load_proxy(proxy)) for proxy in plan.proxies.proxies]

    def __call__(self, encoded: pa.Table) -> pa.Table:
        """Score a batch as :func:`score_table` does, and report it."""
        start = time.monotonic()
        scored, num_texts, num_tokens = score_table(encoded, self._engines, self._aspects)
        if self._meter is not None:
            self._meter.add.remote(time.monotonic() - start, encoded.num_rows, num_texts, num_tokens)
        if self._counter is not None:
            self._counter.add(encoded.num_rows)
        return scored


def score_table(
    encoded: pa.Table, engines: list[tuple[Proxy, RewardEngine]], aspects: list[str]
) -> tuple[pa.Table, int, int]:
    """Rewards of a table of encoded pairs from every proxy but that of the pair's own aspect.

    Args:
        encoded: what :class:`~pdray.scoring.encode.PairTokenizer` returns.
        engines: the proxies, loaded.
        aspects: every aspect, in the order of the output columns.

    Returns:
        the table without token ids, with ``reward_chosen.<aspect>`` and ``reward_rejected.<aspect>`` float32, null
        for the pair's own aspect; the number of texts scored; the number of tokens scored.
    """
    own = np.asarray(encoded["aspect"].to_pylist(), dtype=object)
    rewards: dict[str, pa.Array] = {}
    num_texts = num_tokens = 0
    for proxy, engine in engines:
        wanted = np.asarray([any(aspect != mine for aspect in proxy.aspects) for mine in own], dtype=bool)
        ids = token_lists(encoded.filter(pa.array(wanted)), proxy.tokenizer)
        outputs = engine.score(ids) if ids else np.empty((0, len(proxy.aspects)), np.float32)
        num_texts += len(ids)
        num_tokens += sum(map(len, ids))
        for label, aspect in enumerate(proxy.aspects):
            rewards[f"reward_chosen.{aspect}"] = _spread(outputs[0::2, label], wanted, own == aspect)
            rewards[f"reward_rejected.{aspect}"] = _spread(outputs[1::2, label], wanted, own == aspect)
    scored = encoded.select([name for name in NUMBER_COLUMNS if name in encoded.column_names])
    for name in (f"reward_{side}.{aspect}" for aspect in aspects for side in ("chosen", "rejected")):
        scored = scored.append_column(name, rewards[name])
    return scored, num_texts, num_tokens


def _spread(values: np.ndarray, wanted: np.ndarray, own: np.ndarray) -> pa.Array:
    column = np.zeros(len(wanted), dtype=np.float32)
    column[wanted] = values
    return pa.array(column, mask=own)


def count_non_finite(scored: pa.Table) -> int:
    """Rewards that are NaN or infinite; nulls do not count."""
    rewards = [scored[name] for name in scored.column_names if name.startswith("reward_")]
    return sum(pc.sum(pc.invert(pc.is_finite(column))).as_py() or 0 for column in rewards)
